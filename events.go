package enhanced

import (
	"context"
	"strconv"
	"time"
)

// Types of [LockEvent] and [LogRecord].
const (
	// EventAcquired: a lock was granted.
	EventAcquired = "acquired"
	// EventReleased: a lock was given back.
	EventReleased = "released"
	// EventTimeout: a lease ran out.
	EventTimeout = "timeout"
	// EventRefreshed: a lease was extended.
	EventRefreshed = "refreshed"
	// EventTransferred: a lock went to another owner.
	EventTransferred = "transferred"
	// EventAdopted: a lock of stock Atlantis was taken over.
	EventAdopted = "adopted"
	// EventConflict: stock Atlantis has a lock of its own on what somebody holds
	// here, so two believe that they hold it: on a Redis that stock shares it has
	// written over ours; in a bbolt file it has one from before Atlantis v0.40
	// beside a later one. The lock that is held stays until one of them releases.
	// Also, to callbacks only, that two were told so while the fallback was open:
	// nobody has the lock then until a person unlocks it by force, and "reason" says
	// who they are.
	EventConflict = "conflict"
	// EventQueued: a request has to wait and is in the queue.
	EventQueued = "queued"
	// EventGranted: a waiter got the lock that was freed.
	EventGranted = "granted"
	// EventCancelled: a waiter left the queue without the lock: its caller gave
	// up, somebody took it out, its pull request was closed, or it died.
	EventCancelled = "cancelled"
	// EventQueueTimeout: a waiter left the queue after QueueTimeout.
	EventQueueTimeout = "queue_timeout"
	// EventClaimed: the owner of a grant that waited for it has taken it.
	EventClaimed = "claimed"
	// EventClaimExpired: a grant was not claimed within QueueClaimTimeout.
	EventClaimExpired = "claim_expired"
	// EventReserved: a pull request has given a lock back that others wait for, and
	// may take it again: it is kept for it.
	EventReserved = "reserved"
	// EventReservationEnded: what was reserved was not taken back in time.
	EventReservationEnded = "reservation_ended"
	// EventMoved: a person moved a waiter to the front of its queue.
	EventMoved = "moved"
	// EventDeadlock: owners waited for each other in a circle, or would have. What
	// was done about it is in LogRecord.Deadlock: a request was refused, waiters
	// were moved, or a waiter was taken out of its queue.
	EventDeadlock = "deadlock"
	// EventRefused: a request was refused. Callbacks only; not in the log.
	EventRefused = "refused"
	// EventFailed: the store failed a request, which may have taken effect if Err
	// is [ErrOutcomeUnknown]. Callbacks only; not in the log.
	EventFailed = "failed"
	// EventRepaired: a repair changed what is stored beside a lock, or recorded
	// that a lock is lost.
	EventRepaired = "repaired"
	// EventUnreadable: a record of the log that cannot be read. Only from ReadLog.
	EventUnreadable = "unreadable"
	// EventSkipped: a subscriber missed records that the log no longer has.
	EventSkipped = "skipped"
	// EventCaughtUp: a subscriber has been sent all that was in the logs at the
	// event's Timestamp, which is by this process's clock. It comes at the start
	// and every few seconds, and stays away while the store can't be read. Only for
	// subscribers that ask for it by name; not in the log.
	EventCaughtUp = "caught_up"
	// EventFallbackOpened and EventFallbackClosed: an adapter has begun to answer
	// from the legacy database, because of Err, and has ended that. Callbacks only.
	EventFallbackOpened = "fallback_opened"
	EventFallbackClosed = "fallback_closed"
)

// LockEvent is a change of a lock's state as subscribers see it.
type LockEvent struct {
	// Type is one of the Event constants.
	Type     string
	LockID   string
	Resource ResourceIdentifier
	// Owner is the owner after the change, or before it when the lock ended; for
	// a change of a queue, who waits or has waited.
	Owner string
	// Timestamp is the store's time of the change.
	Timestamp time.Time
	// Metadata holds what else the log says: "actor", "cause", "reason",
	// "sequence", "token", "expires_at", "previous_owner"; of a deadlock "outcome",
	// "policy" and "cycle". Absent when empty.
	Metadata map[string]string
}

// ManagerEvent is what a manager tells its callbacks: a change that this
// manager made, or a request that was refused or that the store failed. What
// happens in queues, and leases that end, happen to others than the caller: a
// manager that is started tells of those of the whole store, as subscribers see
// them.
// A grant is told of once. A call that gets the lock at once is told as
// EventAcquired; one that has waited as EventQueued, by a started manager only,
// and EventGranted; one that takes what was granted to its owner as EventClaimed.
// Of the last two it is either the call or the store's log that tells, whichever is
// first.
type ManagerEvent struct {
	LockEvent
	// Priority is the request's or lock's; PriorityLow where the store's log tells,
	// which has none.
	Priority Priority
	// Err says why a request was refused or failed, nil otherwise.
	Err error
}

// EventCallback receives the events of a manager, one at a time, in the order
// in which its calls returned. Of two callers, the one that acted first can
// return last: the order of changes is that of the log, see Backend.Subscribe.
// It runs apart from the lock path and cannot delay or break it. The context
// ends when the manager is told to stop.
type EventCallback func(ctx context.Context, event *ManagerEvent)

// LogRecord is one record of a repository's log: one change of one lock. The
// log is the source of events and of the audit trail.
type LogRecord struct {
	// Sequence counts the repository's records from 1, without gaps.
	Sequence uint64
	Time     time.Time
	// Type is one of the Event constants.
	Type string
	// LockID is empty for a change of a queue.
	LockID    string
	RequestID string
	Resource  ResourceIdentifier
	// Token is the fencing token of the lock after the change, or before it
	// when the lock ended.
	Token int64
	// Actor is who caused the change, in an owner's text form.
	Actor string
	// Cause says through what it came: one of the Cause constants.
	Cause string
	// Reason is a person's explanation of a forced change.
	Reason string
	// Waiter is whose request a change of a queue is about, in an owner's text
	// form, empty for a change of a lock.
	Waiter string
	// Deadlock is what a record of type EventDeadlock is about, nil for all others.
	Deadlock *DeadlockReport
	// Before and After are the lock's state around the change, nil for none.
	Before *LockSummary
	After  *LockSummary
}

// LogPage is a piece of a repository's log.
type LogPage struct {
	Records []*LogRecord
	// More says that there are further records.
	More bool
	// Trimmed is the sequence up to which records were removed because of the
	// log's bounds, 0 for none.
	Trimmed uint64
}

// LogPosition is how far a reader has come: the last sequence that it has read
// of each repository, by name. An event's Resource.Namespace and its metadata
// "sequence" say where it stands.
type LogPosition map[string]uint64

// Event returns the record as subscribers see it.
func (r *LogRecord) Event() *LockEvent {
	event := &LockEvent{
		Type: r.Type, LockID: r.LockID, Resource: r.Resource, Timestamp: r.Time,
		Metadata: map[string]string{
			"sequence": strconv.FormatUint(r.Sequence, 10),
			"token":    strconv.FormatInt(r.Token, 10),
			"actor":    r.Actor,
			"cause":    r.Cause,
		},
	}
	if r.Reason != "" {
		event.Metadata["reason"] = r.Reason
	}
	if r.Deadlock != nil {
		event.Metadata["outcome"], event.Metadata["cycle"] = r.Deadlock.Outcome, r.Deadlock.String()
		if r.Deadlock.Policy != "" {
			event.Metadata["policy"] = r.Deadlock.Policy
		}
	}
	event.Owner = r.Waiter
	if r.Before != nil {
		event.Owner = r.Before.Owner
	}
	if r.After != nil {
		if r.Before != nil && r.Before.Owner != r.After.Owner {
			event.Metadata["previous_owner"] = r.Before.Owner
		}
		event.Owner = r.After.Owner
		if r.After.ExpiresAt != nil {
			event.Metadata["expires_at"] = r.After.ExpiresAt.Format(time.RFC3339Nano)
		}
	}
	return event
}

// IsQueueEvent reports whether events of a type are about a waiter, and about no
// lock: the lock that it waits for stays as it is.
func IsQueueEvent(eventType string) bool {
	switch eventType {
	case EventQueued, EventCancelled, EventQueueTimeout, EventMoved, EventReservationEnded, EventDeadlock:
		return true
	default:
		return false
	}
}

// LockSummary is what the log keeps of a lock.
type LockSummary struct {
	Owner     string     `json:"owner"`
	Token     int64      `json:"token,string"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
	Note      string     `json:"note,omitempty"`
}

// ReasonUncleanRelease is the reason in the log record of a lease that ended and
// leaves its resource closed to others for UncleanReleaseDelay; a record of
// EventReservationEnded, or of its last owner's next lock, ends that.
const ReasonUncleanRelease = "closed to other owners for unclean_release_delay"

// Causes of a change.
const (
	// CauseRequest: the owner asked.
	CauseRequest = "request"
	// CauseHandOver: a lock was freed while others waited for it.
	CauseHandOver = "hand_over"
	// CauseForced: somebody overrode the owner.
	CauseForced = "forced"
	// CausePull: all locks of a pull request were released.
	CausePull = "pull"
	// CauseExpired: time ran out.
	CauseExpired = "expired"
	// CauseLegacy: stock Atlantis made the change in its own records.
	CauseLegacy = "legacy"
	// CauseDeadlock: the detector ended a deadlock.
	CauseDeadlock = "deadlock"
	// CauseRepair: a person had the store repaired.
	CauseRepair = "repair"
)
