package api

import "time"

// Paths of what waits.
const (
	WaitPath     = Base + "/wait"
	QueuePath    = Base + "/queue"
	PositionPath = Base + "/queue/position"
	CancelPath   = Base + "/queue/cancel"
	MovePath     = Base + "/queue/move"
	PriorityPath = Base + "/priority"
)

// Waiter is a request that waits for a lock.
type Waiter struct {
	Place       int       `json:"place" doc:"The place in the queue of its resource, from 1."`
	Type        string    `json:"type" doc:"The kind of resource." example:"project"`
	Repository  string    `json:"repository" doc:"The repository's full name." example:"acme/infra"`
	Path        string    `json:"path" doc:"The project's directory in the repository, . for its root." example:"envs/prod"`
	Workspace   string    `json:"workspace" doc:"The Terraform workspace." example:"default"`
	ProjectName string    `json:"project_name" doc:"The project's name, often empty."`
	Priority    string    `json:"priority" example:"normal"`
	Owner       Owner     `json:"owner" doc:"Who waits."`
	OwnerID     string    `json:"owner_id" doc:"The owner in one text." example:"user:alice"`
	RequestID   string    `json:"request_id" doc:"The request that waits."`
	Note        string    `json:"note" doc:"What the lock's note will be."`
	Since       time.Time `json:"since" doc:"When it came, by the store's clock."`
}

// QueueList is the answer to a list of what waits.
type QueueList struct {
	Waiters []Waiter `json:"waiters" nullable:"false" doc:"The waiters, resource by resource, in the order in which they are served."`
}

// CancelRequest names a waiter that is to leave its queue.
type CancelRequest struct {
	Repository  string `json:"repository" minLength:"1" example:"acme/infra"`
	Path        string `json:"path" minLength:"1" example:"envs/prod"`
	Workspace   string `json:"workspace" minLength:"1" example:"default"`
	ProjectName string `json:"project_name,omitempty"`
	Owner       Owner  `json:"owner" doc:"Who waits."`
	Actor       string `json:"actor,omitempty" doc:"The user who takes another's request out; absent for the owner." example:"bob"`
}

// Cancelled is the answer to a cancellation.
type Cancelled struct {
	OwnerID string `json:"owner_id" doc:"Whose request it was." example:"user:alice"`
}

// MoveRequest names a waiter that is to be before all others.
type MoveRequest struct {
	Repository  string `json:"repository" minLength:"1" example:"acme/infra"`
	Path        string `json:"path" minLength:"1" example:"envs/prod"`
	Workspace   string `json:"workspace" minLength:"1" example:"default"`
	ProjectName string `json:"project_name,omitempty"`
	Owner       Owner  `json:"owner" doc:"Who waits."`
	Actor       string `json:"actor" minLength:"1" doc:"The user who overrides the order." example:"bob"`
	Reason      string `json:"reason" minLength:"1" doc:"Why, for the audit log." example:"hotfix"`
}

// Moved is the answer to a move.
type Moved struct {
	OwnerID string `json:"owner_id" doc:"Whose request it is." example:"user:alice"`
}

// Position is where an owner stands in the queue of a project.
type Position struct {
	OwnerID string `json:"owner_id" doc:"The owner that was asked about." example:"user:alice"`
	Place   int    `json:"place" doc:"The place, from 1; 0 for one who does not wait."`
	Length  int    `json:"length" doc:"How many wait for the lock."`
	// Blocker is what all of them wait for, nil for nothing.
	Blocker *Blocker `json:"blocked_by,omitempty" doc:"What all of them wait for; absent where nothing is in the way."`
}

// Blocker is what keeps those who wait for a lock from it.
type Blocker struct {
	Kind    string     `json:"kind" enum:"lock,claim,reservation,delay,set" doc:"lock: somebody holds it. claim: it was granted to a pull request that has not taken it yet. reservation: it is kept for a pull request that plans again. delay: its lease ended without a release, and it stays closed for a while. set: who is first in the queue waits for other locks, too, and gets all of them together." example:"lock"`
	Owner   Owner      `json:"owner" doc:"Whose that is."`
	OwnerID string     `json:"owner_id" doc:"The owner in one text." example:"user:alice"`
	Until   *time.Time `json:"until" doc:"When it ends by itself, by the store's clock: a lease, the time to take a grant, a reservation, the delay; null where nothing but its owner ends it."`
	Note    string     `json:"note" doc:"What the holder wants others to know."`
}

// Priority is how the queue treats a request that names no priority.
type Priority struct {
	Priority string `json:"priority" doc:"The priority that it gets." example:"high"`
	Rule     int    `json:"rule" doc:"The number of the rule that gives it, from 1; 0 where none fits."`
	Queued   bool   `json:"queued" doc:"Whether it uses the queue."`
}
