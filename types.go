package enhanced

import (
	"cmp"
	"context"
	"strconv"
	"time"

	"github.com/runatlantis/atlantis/server/events/models"
)

// Priority orders the waiters of one resource: higher first, first come first
// served within one.
type Priority int

// The priorities. Lock and TryLock ask with [PriorityNormal]; the zero value
// of a request is [PriorityLow]. Any other value is an INVALID_REQUEST.
const (
	PriorityLow Priority = iota
	PriorityNormal
	PriorityHigh
	PriorityCritical
)

// String returns the lower-case name, or "priority(N)" for an unknown value.
func (p Priority) String() string {
	names := [...]string{"low", "normal", "high", "critical"}
	if p < 0 || int(p) >= len(names) {
		return "priority(" + strconv.Itoa(int(p)) + ")"
	}
	return names[p]
}

// ParsePriority returns the priority with the name that [Priority.String] gives.
func ParsePriority(name string) (Priority, error) {
	for p := PriorityLow; p <= PriorityCritical; p++ {
		if p.String() == name {
			return p, nil
		}
	}
	return 0, NewInvalidError("priority %q is none of low, normal, high, critical", clip(name))
}

// LockState is the state of an [EnhancedLock].
type LockState string

// The states of a lock.
const (
	// LockStateAcquired: held.
	LockStateAcquired LockState = "acquired"
	// LockStatePending: granted to a waiter that has not claimed it yet; ExpiresAt
	// is until when it can. In the answer to a refused request also a lock that is
	// reserved, for a pull request that plans again or after a lease that ended
	// unclean; that has no ID. Of the latter ExpiresAt is when it is open again.
	LockStatePending LockState = "pending"
	// LockStateExpired: the lease ran out.
	LockStateExpired LockState = "expired"
	// LockStateReleased: given back.
	LockStateReleased LockState = "released"
)

// NoTimeout as [EnhancedLockRequest.Timeout] asks for a lock without lease,
// held until it is released.
const NoTimeout time.Duration = -1

// MetadataNote is the metadata key of a note that refusals show to people.
const MetadataNote = "note"

// MetadataCopiedFrom is the metadata key of a lock that an adapter has copied from the
// legacy database during a switch of modes. It says nothing that the database does not
// know.
const MetadataCopiedFrom = "copied_from"

// EnhancedLockRequest is one wish of one owner for one resource.
type EnhancedLockRequest struct {
	// ID identifies the request. It is made when empty.
	ID string
	// Resource is what to lock. When zero it is derived from Project and Workspace.
	Resource ResourceIdentifier
	// Priority is the place in the queue; its zero value is PriorityLow.
	Priority Priority
	// Timeout is the lease: how long the lock is held unless refreshed. Zero
	// means the backend's default (DefaultTimeout; on Redis RedisLockTTL),
	// NoTimeout means until released. It does not bound a wait: the context
	// and QueueTimeout do.
	Timeout time.Duration
	// Metadata is stored with the lock and shown to people. At most 4,096
	// bytes; never put secrets here.
	Metadata map[string]string
	// RequestedAt is when the caller asked, by its own clock. It is
	// informative: order and deadlines use the store's clock.
	RequestedAt time.Time
	// Project and Workspace name the resource in Atlantis' terms.
	Project   models.Project
	Workspace string
	// User is who asks. The user owns the lock when Pull is nil.
	User models.User
	// Pull is the pull request that will own the lock, nil for a user's lock.
	Pull *models.PullRequest
	// Detached asks [Backend.TryAcquireLock] to leave a waiter behind when
	// somebody else holds the lock and the queue is on: it has a place without a
	// call that waits. What it is given has to be claimed, by another request of
	// its owner, within QueueClaimTimeout. Its answer is the same.
	Detached bool
}

// Owner returns who will own the lock: the pull request if there is one, else
// the user.
func (r *EnhancedLockRequest) Owner() Owner {
	if r.Pull != nil {
		return PullOwner(r.Pull.BaseRepo.VCSHost.Hostname, cmp.Or(r.Resource.Namespace, r.Project.RepoFullName), r.Pull.Num)
	}
	return UserOwner(r.User.Username)
}

// EnhancedLock is a held lock.
type EnhancedLock struct {
	// ID addresses exactly this grant: no later lock ever has it.
	ID       string
	Resource ResourceIdentifier
	State    LockState
	Priority Priority
	// Owner is the text form of an [Owner].
	Owner string
	// AcquiredAt is the time of the grant by the store's clock.
	AcquiredAt time.Time
	// ExpiresAt is when the lease ends by the store's clock, nil without one.
	ExpiresAt *time.Time
	Metadata  map[string]string
	// Version is the fencing token: larger than every earlier one of the
	// repository. A protected resource that remembers the largest token it has
	// seen can refuse a holder that lost its lock.
	// See https://martin.kleppmann.com/2016/02/08/how-to-do-distributed-locking.html
	Version int64
	// OriginalLock is the lock in stock Atlantis' form, without credentials.
	OriginalLock *models.ProjectLock
}

// ReleaseRequest names one lock and the right by which it is released.
type ReleaseRequest struct {
	// LockID or Resource names the lock. With both, the lock must be the one
	// that is held on the resource.
	LockID   string
	Resource ResourceIdentifier
	// Owner releases its own lock only.
	Owner string
	// PullNumber releases the lock only if a pull request with this number
	// holds it, on whatever host: all that stock's UnlockIfOwnedByPull knows.
	PullNumber *int
	// Reserve keeps the lock for the pull request that gives it back, if others
	// wait for it or it was not claimed yet: it is no lock any more, and nobody else
	// can take it until that run ends, see [RunKeeper]. Without a queue it does
	// nothing.
	Reserve bool
	// Force releases whoever holds the lock, and ends a reservation, of which it
	// returns what was given back, without an ID. It is logged as forced.
	Force bool
	// Reservation has Force end a reservation of Resource only. A lock that somebody
	// holds stays, and the answer is ErrLockNotFound.
	Reservation bool
	// Actor is who releases, for the log. Empty means Owner.
	Actor string
	// Reason is free text for the log.
	Reason string
}

// QueueStatus describes all waiters of a store.
type QueueStatus struct {
	// Size is the number of waiters.
	Size int
	// PendingRequests are the waiters' requests in queue order, resource by resource.
	PendingRequests []*EnhancedLockRequest
	// OldestRequest is the enqueue time of the longest waiter, nil without any.
	OldestRequest *time.Time
	// QueuesByPriority counts the waiters of each priority.
	QueuesByPriority map[Priority]int
}

// Add adds a waiter.
func (s *QueueStatus) Add(request *EnhancedLockRequest) {
	s.Size++
	s.PendingRequests = append(s.PendingRequests, request)
	s.QueuesByPriority[request.Priority]++
	if s.OldestRequest == nil || request.RequestedAt.Before(*s.OldestRequest) {
		s.OldestRequest = &request.RequestedAt
	}
}

// BackendStats are the figures of a store and of this process's work on it.
type BackendStats struct {
	// ActiveLocks and QueueDepth are the store's: locks held and requests waiting.
	ActiveLocks int
	QueueDepth  int
	// UnreadableRecords names the store's records that cannot be read. Each
	// counts as held.
	UnreadableRecords []string

	// The following are this process's, since the backend was made.

	// TotalRequests counts decided requests for a lock; each is one of
	// SuccessfulAcquires, Refused or StoreFailures.
	TotalRequests      int64
	SuccessfulAcquires int64
	Refused            int64
	StoreFailures      int64
	// Releases and Expirations count locks that ended.
	Releases    int64
	Expirations int64
	// UncheckedWaits counts requests that entered a queue although the look for
	// deadlocks had come to EnhancedConfig.DeadlockCheckLimit.
	UncheckedWaits int64
	// Retries counts the attempts that the manager made after a first one, see
	// EnhancedConfig.EnableRetry. TotalRequests counts each attempt.
	Retries int64
	// OpenCircuits counts the servers that are not asked now because they keep
	// failing, see EnhancedConfig.EnableCircuitBreaker.
	OpenCircuits int
	// AverageWaitTime is the mean time from request to grant of the
	// SuccessfulAcquires; AverageHoldTime the mean time from grant to end of
	// the Releases and Expirations.
	AverageWaitTime time.Duration
	AverageHoldTime time.Duration
	// RecentFailureRate is the share, 0 to 1, of StoreFailures among the last
	// 100 requests.
	RecentFailureRate float64
	// DroppedEvents counts events that callbacks were too slow for, and
	// EventDropRate their share, 0 to 1, of all events.
	DroppedEvents int64
	EventDropRate float64
	// Fallback is the adapter's, see [LockingAdapter.Fallback]; empty from others.
	Fallback FallbackStatus
	// HealthScore is 0 (down) to 100; see [HealthScore] for the formula.
	HealthScore int
}

// Backend is a store of locks: the seam between the manager and the places
// where locks live. Each changing method is one atomic step over one
// repository. All methods are safe for concurrent use and honour their context:
// they return when it ends, with [ErrOutcomeUnknown] where the step may still
// take effect. Errors are [LockError] values.
type Backend interface {
	// What a request got is remembered, by its ID and in its repository, while
	// its lock is held and for at least 10 minutes after: the same request again
	// answers with the lock that it got, or LOCK_EXPIRED when that lock has ended,
	// and never acquires a second time. An ID that was used in the repository by
	// another owner or for another resource is an INVALID_REQUEST; in another
	// repository it names another request.
	//
	// Grants and releases are remembered, refusals are not: else a caller that
	// asks again with its ID would be refused for 10 minutes, though the lock is
	// free. So the copy of a refused request that the network delivers late, once
	// the lock is free, takes it, as the request would have by asking again. Its
	// owner then holds a lock that it does not know of: its next request is
	// refused with that lock, a lease ends it by itself, and releasing what the
	// owner has on the resource, or closing the pull request, frees it.

	// AcquireLock takes the lock or, with the queue enabled, waits for it. It
	// answers LOCK_EXISTS when the resource is held and there is no queue to
	// wait in, and at once when the caller itself holds it.
	AcquireLock(ctx context.Context, request *EnhancedLockRequest) (*EnhancedLock, error)
	// TryAcquireLock never waits. It returns the new lock and true, or the
	// holder's lock and false.
	TryAcquireLock(ctx context.Context, request *EnhancedLockRequest) (*EnhancedLock, bool, error)
	// ReleaseLock releases the lock with the ID, whoever asks: the ID names
	// exactly one grant. A repeated release answers nil for at least 10
	// minutes. LOCK_EXPIRED if its lease ran out, LOCK_NOT_FOUND if it was
	// transferred or never was.
	ReleaseLock(ctx context.Context, lockID string) error
	// Release releases one lock under a condition and returns it.
	// LOCK_NOT_FOUND if nothing is held, PERMISSION_DENIED if the condition fails.
	// A lock that is named by its ID, and was released before, by whomever, is
	// released for at least 10 minutes, as for ReleaseLock: the answer is that lock
	// with its ID, resource, owner and token, and a zero AcquiredAt. Its owner must
	// have met the condition; a forced release, which overrides a holder, answers
	// LOCK_NOT_FOUND.
	Release(ctx context.Context, request ReleaseRequest) (*EnhancedLock, error)
	// ReleaseByPull releases every lock that pull request number of repository
	// holds, and returns them. Where pull requests with that number on several
	// hosts hold locks it releases none and answers INVALID_REQUEST naming them.
	ReleaseByPull(ctx context.Context, repository string, number int, actor string) ([]*EnhancedLock, error)
	// GetLock returns the lock with the ID, or LOCK_NOT_FOUND.
	GetLock(ctx context.Context, lockID string) (*EnhancedLock, error)
	// LookupLock returns the lock on a resource, or LOCK_NOT_FOUND.
	LookupLock(ctx context.Context, resource ResourceIdentifier) (*EnhancedLock, error)
	// LocksByLegacyKey returns the held locks whose resources have stock
	// Atlantis' key: several different resources can.
	LocksByLegacyKey(ctx context.Context, key string) ([]*EnhancedLock, error)
	// ListLocks returns all held locks, ordered by repository and resource. An
	// unreadable record is left out, logged, and named in BackendStats.
	ListLocks(ctx context.Context) ([]*EnhancedLock, error)
	// RefreshLock makes the lease end extension from now, at most MaxTimeout.
	// INVALID_REQUEST for a lock without lease; LOCK_EXPIRED or LOCK_NOT_FOUND
	// for one that is gone: it never comes back.
	RefreshLock(ctx context.Context, lockID string, extension time.Duration) error
	// TransferLock gives a held lock to another owner, in text form. The lock
	// gets a new ID and token; the old ID is of the past.
	TransferLock(ctx context.Context, lockID, newOwner string) error
	// GetQueueStatus describes the waiters.
	GetQueueStatus(ctx context.Context) (*QueueStatus, error)
	// CancelRequest takes the requests of an owner, in text form, for a resource
	// out of the queue; their calls answer LOCK_EXPIRED. LOCK_NOT_FOUND if none
	// waits. The actor is who does it, for the log.
	CancelRequest(ctx context.Context, resource ResourceIdentifier, owner, actor string) error
	// Subscribe returns a channel of the store's events of the given types
	// (all types when empty), from now on, from every process. It reads the
	// log, so a slow reader delays nobody; the channel closes when ctx ends.
	Subscribe(ctx context.Context, eventTypes []string) (<-chan *LockEvent, error)
	// SubscribeFrom is Subscribe from a position on: a repository that the
	// position lacks starts at the beginning of its log. Records that the log
	// no longer has are announced by one event of type EventSkipped.
	SubscribeFrom(ctx context.Context, eventTypes []string, after LogPosition) (<-chan *LockEvent, error)
	// ReadLog returns up to limit records of a repository's log with a sequence
	// above after, in order.
	ReadLog(ctx context.Context, repository string, after uint64, limit int) (*LogPage, error)
	// ListRepositories returns the names of all repositories that have a log,
	// in no particular order.
	ListRepositories(ctx context.Context) ([]string, error)
	// CleanupExpiredLocks settles every lock whose lease has ended, and returns
	// how many there were.
	CleanupExpiredLocks(ctx context.Context) (int, error)
	// NextDeadline returns how long it is, by the store's clock, until the next
	// lease ends, and whether there is one. It is negative when one is overdue.
	NextDeadline(ctx context.Context) (time.Duration, bool, error)
	// UpdateConfiguration replaces the configuration; INVALID_REQUEST, and no
	// change, if it is invalid or asks for what cannot change at run time.
	UpdateConfiguration(config *EnhancedConfig) error
	// HealthCheck returns nil when the store answers.
	HealthCheck(ctx context.Context) error
	// GetStats returns the statistics. They are never nil: with an error, the
	// store's own figures are missing and the others are right.
	GetStats(ctx context.Context) (*BackendStats, error)
}

// LockManager is the main interface for lock operations. All methods are safe
// for concurrent use. The first group is for people: by project and user.
type LockManager interface {
	// Lock locks a project for a user with the priority that PriorityRules give
	// (PriorityNormal without any) and the backend's default lease: DefaultTimeout,
	// on Redis RedisLockTTL.
	Lock(ctx context.Context, project models.Project, workspace string, user models.User) (*models.ProjectLock, error)
	// Unlock releases the user's lock; PERMISSION_DENIED if somebody else
	// holds it, LOCK_NOT_FOUND if nobody does.
	Unlock(ctx context.Context, project models.Project, workspace string, user models.User) (*models.ProjectLock, error)
	// List returns all held locks.
	List(ctx context.Context) ([]*models.ProjectLock, error)
	// LockWithPriority is Lock with another place in the queue.
	LockWithPriority(ctx context.Context, project models.Project, workspace string, user models.User, priority Priority) (*models.ProjectLock, error)
	// LockWithTimeout is Lock with another lease.
	LockWithTimeout(ctx context.Context, project models.Project, workspace string, user models.User, timeout time.Duration) (*models.ProjectLock, error)
	// GetQueuePosition returns the place, from 1, of the owner that the context
	// names (see [ContextWithOwner]), 0 if it does not wait. Without an owner
	// it returns the length of the queue.
	GetQueuePosition(ctx context.Context, project models.Project, workspace string) (int, error)
	// CancelQueuedRequest takes the user's request out of the queue;
	// LOCK_NOT_FOUND if it does not wait.
	CancelQueuedRequest(ctx context.Context, project models.Project, workspace string, user models.User) error
	// GetStats returns the statistics, never nil.
	GetStats(ctx context.Context) (*BackendStats, error)
	// GetHealth returns nil when locks can be taken.
	GetHealth(ctx context.Context) error

	// TryAcquire, Release and ReleaseByPull are the methods of Backend with
	// the same meaning (TryAcquireLock, Release, ReleaseByPull), with events
	// for this manager's callbacks.
	TryAcquire(ctx context.Context, request *EnhancedLockRequest) (*EnhancedLock, bool, error)
	Release(ctx context.Context, request ReleaseRequest) (*EnhancedLock, error)
	ReleaseByPull(ctx context.Context, repository string, number int, actor string) ([]*EnhancedLock, error)

	// AddEventCallback registers a callback for this manager's events.
	AddEventCallback(callback EventCallback)
	// UpdateConfiguration replaces the configuration of the manager and its
	// backend; INVALID_REQUEST, and no change, if it is invalid.
	UpdateConfiguration(config *EnhancedConfig) error
}

type ownerContextKey struct{}

// ContextWithOwner returns a context that names the caller's owner, for
// [LockManager.GetQueuePosition].
func ContextWithOwner(ctx context.Context, owner Owner) context.Context {
	return context.WithValue(ctx, ownerContextKey{}, owner)
}

// OwnerFromContext returns the owner that the context names, if any.
func OwnerFromContext(ctx context.Context) (Owner, bool) {
	owner, ok := ctx.Value(ownerContextKey{}).(Owner)
	return owner, ok
}
