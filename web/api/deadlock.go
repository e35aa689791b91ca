package api

import "time"

// DeadlocksPath is the path of the history of deadlocks.
const DeadlocksPath = Base + "/deadlocks"

// Deadlock is a circle of waits, and what was done about it.
type Deadlock struct {
	Outcome string         `json:"outcome" enum:"refused,reordered,victim,found" doc:"refused: a request that would have closed the circle. reordered: waiters were moved, and nobody gave up. victim: a waiter was taken out of its queue. found: nothing was done."`
	Policy  string         `json:"policy,omitempty" doc:"What chose the victim." example:"lowest_priority"`
	Cycle   []DeadlockWait `json:"cycle" nullable:"false" doc:"The waits: each one's waits_for is the next one's owner_id, and the last one's the first one's."`
	Moved   []DeadlockWait `json:"moved,omitempty" doc:"The waiters that went before all others of their queues."`
	Text    string         `json:"text" doc:"Who waits for whom, in words."`
}

// DeadlockWait is one wait of a deadlock.
type DeadlockWait struct {
	OwnerID     string    `json:"owner_id" doc:"Who waits." example:"user:alice"`
	Type        string    `json:"type" doc:"The kind of resource." example:"project"`
	Repository  string    `json:"repository" example:"acme/infra"`
	Path        string    `json:"path" example:"envs/prod"`
	Workspace   string    `json:"workspace" example:"default"`
	ProjectName string    `json:"project_name"`
	RequestID   string    `json:"request_id" doc:"The request that waits."`
	Since       time.Time `json:"since" doc:"When it came, by the store's clock."`
	WaitsFor    string    `json:"waits_for,omitempty" doc:"For whom it waits, in the form of owner_id." example:"pr:github.com/acme%2Finfra/5"`
	Behind      bool      `json:"behind,omitempty" doc:"Whether that one is before it in the queue; else it holds the lock."`
}

// DeadlockPattern is a set of resources with deadlocks again and again.
type DeadlockPattern struct {
	Resources []PatternResource `json:"resources" nullable:"false"`
	Count     int               `json:"count" doc:"How many deadlocks there were on them." example:"7"`
	First     time.Time         `json:"first"`
	Last      time.Time         `json:"last"`
	Text      string            `json:"text" doc:"What to do about it."`
}

// PatternResource is a project of a [DeadlockPattern].
type PatternResource struct {
	Repository  string `json:"repository" example:"acme/infra"`
	Path        string `json:"path" example:"envs/prod"`
	Workspace   string `json:"workspace" example:"default"`
	ProjectName string `json:"project_name"`
}

// DeadlockList is the history of deadlocks.
type DeadlockList struct {
	Deadlocks []LogRecord       `json:"deadlocks" nullable:"false" doc:"The log's records, the latest last: at most 1000."`
	Patterns  []DeadlockPattern `json:"patterns" nullable:"false" doc:"Those that came at least twice, the most frequent first."`
}
