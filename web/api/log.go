package api

import "time"

// Paths of what reads the log.
const (
	LogPath          = Base + "/log"
	RepositoriesPath = Base + "/repositories"
)

// MaxLogRecords is how many records one answer can have.
const MaxLogRecords = 1000

// LogRecord is one change of one lock, as the log keeps it.
type LogRecord struct {
	Repository  string     `json:"repository" doc:"The repository's full name." example:"acme/infra"`
	Sequence    uint64     `json:"sequence" doc:"Counts the repository's records from 1, without gaps."`
	Time        time.Time  `json:"time" doc:"When it happened, by the store's clock."`
	Type        string     `json:"type" doc:"What happened; unreadable for a record that is damaged." example:"released"`
	LockID      string     `json:"lock_id" doc:"The lock; empty where it was about none."`
	RequestID   string     `json:"request_id,omitempty" doc:"The request that got the lock."`
	Resource    string     `json:"resource" doc:"The kind of resource, empty where it was about none." example:"project"`
	Path        string     `json:"path" doc:"The project's directory in the repository." example:"envs/prod"`
	Workspace   string     `json:"workspace" doc:"The Terraform workspace." example:"default"`
	ProjectName string     `json:"project_name" doc:"The project's name, often empty."`
	Token       string     `json:"token" doc:"The fencing token, a decimal number as text; 0 where it was about no lock." example:"1795381550211000"`
	Actor       string     `json:"actor" doc:"Who did it, in the form of owner_id." example:"user:alice"`
	Cause       string     `json:"cause" doc:"Through what it came." example:"request"`
	Reason      string     `json:"reason,omitempty" doc:"What a person gave as the reason."`
	Waiter      string     `json:"waiter,omitempty" doc:"Whose request it was about, in the form of owner_id, where a queue changed and no lock." example:"user:bob"`
	Deadlock    *Deadlock  `json:"deadlock,omitempty" doc:"What a record of type deadlock is about; absent for all others."`
	Before      *LockState `json:"before,omitempty" doc:"The lock before; absent for none."`
	After       *LockState `json:"after,omitempty" doc:"The lock after; absent for none."`
}

// LockState is what the log keeps of a lock.
type LockState struct {
	OwnerID   string     `json:"owner_id" example:"user:alice"`
	Token     string     `json:"token" example:"1795381550211000"`
	ExpiresAt *time.Time `json:"expires_at,omitempty" doc:"When the lease ends; absent without one."`
	Note      string     `json:"note,omitempty"`
}

// LogPage is a piece of a repository's log.
type LogPage struct {
	Records []LogRecord `json:"records" nullable:"false" doc:"The records, in the order of their sequences."`
	More    bool        `json:"more" doc:"Whether there are further records."`
	Trimmed uint64      `json:"trimmed" doc:"The sequence up to which records were removed because of the log's bounds; 0 for none."`
}

// LogFilter chooses a piece of a repository's log.
type LogFilter struct {
	Repository string
	// After is the sequence after which the piece begins.
	After uint64
	// Limit is how many records it has at most, 1 to [MaxLogRecords].
	Limit int
}

// RepositoryList is the answer to a list of repositories.
type RepositoryList struct {
	Repositories []string `json:"repositories" nullable:"false" doc:"The repositories that have a log, by name."`
}
