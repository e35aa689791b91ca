package api

// Paths of what locks several projects at once.
const (
	LockAllPath      = Base + "/lock-all"
	WaitAllPath      = Base + "/wait-all"
	ReplaceLocksPath = Base + "/replace-locks"
)

// MaxSetSize is how many projects one request can lock.
const MaxSetSize = 500

// SetProject is a project of a set.
type SetProject struct {
	Path        string `json:"path" minLength:"1" doc:"The project's directory in the repository, . for its root." example:"envs/prod"`
	Workspace   string `json:"workspace" minLength:"1" doc:"The Terraform workspace." example:"default"`
	ProjectName string `json:"project_name,omitempty" doc:"The project's name, if it has one."`
}

// AcquireAllRequest asks for the locks of several projects of one repository.
type AcquireAllRequest struct {
	Repository string       `json:"repository" minLength:"1" doc:"The repository's full name." example:"acme/infra"`
	Projects   []SetProject `json:"projects" nullable:"false" minItems:"1" maxItems:"500" doc:"What is locked, all or none. One that comes twice counts once."`
	Owner      Owner        `json:"owner" doc:"Who will hold the locks."`
	Priority   string       `json:"priority,omitempty" enum:"low,normal,high,critical" doc:"The place among those who wait; absent for what the server's rules give, project by project."`
	Timeout    string       `json:"timeout,omitempty" default:"none" doc:"The lease, as a Go duration; none for locks that are held until released." example:"30m"`
	Note       string       `json:"note,omitempty" doc:"Shown to everybody who is refused. No secrets."`
	RequestID  string       `json:"request_id,omitempty" doc:"Makes the call safe to repeat: the same request again answers with the locks that it got."`
}

// ReplacedLocks is what replacing an owner's locks has done.
type ReplacedLocks struct {
	Held  []Lock `json:"held" nullable:"false" doc:"The locks of the projects, in their order; those that the owner held before are as they were."`
	Taken []Lock `json:"taken" nullable:"false" doc:"Those of them that the owner did not hold before."`
	Freed []Lock `json:"freed" nullable:"false" doc:"What the owner held in the repository beside them, and holds no more."`
}
