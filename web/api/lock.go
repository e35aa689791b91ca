package api

import "time"

// Lock is a held lock.
type Lock struct {
	ID          string            `json:"id" doc:"Addresses exactly this grant: no later lock ever has it." example:"6b3a55e0261b0304143f805a24924d0c-1795381550211000"`
	Type        string            `json:"type" doc:"The kind of resource." example:"project"`
	Repository  string            `json:"repository" doc:"The repository's full name." example:"acme/infra"`
	Path        string            `json:"path" doc:"The project's directory in the repository, . for its root." example:"envs/prod"`
	Workspace   string            `json:"workspace" doc:"The Terraform workspace." example:"default"`
	ProjectName string            `json:"project_name" doc:"The project's name, often empty."`
	State       string            `json:"state" doc:"acquired; released in the answer to an unlock." example:"acquired"`
	Priority    string            `json:"priority" example:"normal"`
	Owner       Owner             `json:"owner" doc:"Who holds the lock."`
	OwnerID     string            `json:"owner_id" doc:"The owner in one text, for the owner filter of the list." example:"user:alice"`
	RequestedBy string            `json:"requested_by" doc:"The user who caused the lock, where one is known; for a pull request's lock who ran the plan."`
	PullURL     string            `json:"pull_url" doc:"The address of the pull request, where one is known."`
	Note        string            `json:"note" doc:"What the holder wants others to know."`
	AcquiredAt  time.Time         `json:"acquired_at" doc:"When the lock was granted, by the store's clock."`
	ExpiresAt   *time.Time        `json:"expires_at" doc:"When the lease ends, by the store's clock; null for a lock that is held until released."`
	Token       string            `json:"token" doc:"The fencing token, a decimal number as text because it can exceed what JSON numbers keep. Larger than every earlier one of the repository." example:"1795381550211000"`
	Metadata    map[string]string `json:"metadata,omitempty" doc:"All that was stored with the lock, the note included."`
}

// Owner is who holds or wants a lock: a user, or a pull request of the lock's
// repository on a VCS host. Different kinds are different owners, even for the
// author of the pull request.
type Owner struct {
	User string `json:"user,omitempty" doc:"The user's name. Excludes pull and host." example:"alice"`
	Pull int    `json:"pull,omitempty" minimum:"1" doc:"The number of the pull request. Needs host."`
	Host string `json:"host,omitempty" doc:"The host name of the pull request's VCS." example:"github.com"`
}

// LockList is the answer to a list.
type LockList struct {
	Locks []Lock `json:"locks" nullable:"false" doc:"The held locks, ordered by repository, path, workspace and project name."`
}

// Resource names what is locked: a project of a repository in a workspace.
type Resource struct {
	Repository  string
	Path        string
	Workspace   string
	ProjectName string
}

// Filter chooses locks of a list. Empty fields choose all.
type Filter struct {
	Repository string
	// OwnerID is an owner in the form of [Lock.OwnerID].
	OwnerID string
}

// AcquireRequest asks for a lock.
type AcquireRequest struct {
	Repository  string `json:"repository" minLength:"1" doc:"The repository's full name." example:"acme/infra"`
	Path        string `json:"path" minLength:"1" doc:"The project's directory in the repository, . for its root." example:"envs/prod"`
	Workspace   string `json:"workspace" minLength:"1" doc:"The Terraform workspace." example:"default"`
	ProjectName string `json:"project_name,omitempty" doc:"The project's name, if it has one."`
	Owner       Owner  `json:"owner" doc:"Who will hold the lock."`
	Priority    string `json:"priority,omitempty" enum:"low,normal,high,critical" doc:"The place among those who wait; absent for what the server's rules give, which is normal without any."`
	Timeout     string `json:"timeout,omitempty" default:"none" doc:"The lease, as a Go duration; none for a lock that is held until released." example:"30m"`
	Note        string `json:"note,omitempty" doc:"Shown to everybody who is refused. No secrets." example:"database maintenance until noon"`
	RequestID   string `json:"request_id,omitempty" doc:"Makes the call safe to repeat: the same ID again answers with the lock that it got."`
}

// UnlockRequest names a lock, by ID, by resource or by both, and the right by
// which it is released: its owner, or force with an actor and a reason.
type UnlockRequest struct {
	ID          string `json:"id,omitempty" doc:"The lock's ID. With a resource too, both must name the same lock."`
	Repository  string `json:"repository,omitempty" example:"acme/infra"`
	Path        string `json:"path,omitempty" example:"envs/prod"`
	Workspace   string `json:"workspace,omitempty" example:"default"`
	ProjectName string `json:"project_name,omitempty"`
	Owner       *Owner `json:"owner,omitempty" doc:"Releases only its own lock. Excludes force."`
	Force       bool   `json:"force,omitempty" doc:"Releases whoever holds the lock. Needs actor and reason."`
	Actor       string `json:"actor,omitempty" doc:"The user who forces." example:"bob"`
	Reason      string `json:"reason,omitempty" doc:"Why, for the audit log." example:"alice is on holiday"`
}

// Unlocked is the answer to an unlock.
type Unlocked struct {
	Lock   Lock `json:"lock" doc:"The lock as it was, with the owner whose it was."`
	Forced bool `json:"forced" doc:"Whether the owner was overridden."`
}

// RefreshRequest renews the lease of a lock.
type RefreshRequest struct {
	ID      string `json:"id" minLength:"1" doc:"The lock's ID."`
	Owner   Owner  `json:"owner" doc:"Who holds the lock."`
	Timeout string `json:"timeout" minLength:"1" doc:"When the lease is to end, from now, as a Go duration." example:"1m"`
}

// Refreshed is the answer to a renewal.
type Refreshed struct {
	ID string `json:"id" doc:"The lock's ID."`
}
