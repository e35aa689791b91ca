package enhanced

import (
	"errors"
	"fmt"
	"time"
)

// Codes of [LockError]. They are stable: programs and the HTTP API match on
// them.
const (
	// ErrCodeLockExists says that somebody holds the resource, possibly the caller.
	ErrCodeLockExists = "LOCK_EXISTS"
	// ErrCodeLockNotFound says that nothing is held where a lock was named.
	ErrCodeLockNotFound = "LOCK_NOT_FOUND"
	// ErrCodeLockExpired says that the named lock was held once and its lease ran out.
	ErrCodeLockExpired = "LOCK_EXPIRED"
	// ErrCodeTimeout says that a wait or an operation ran out of time.
	ErrCodeTimeout = "TIMEOUT"
	// ErrCodeQueueFull says that the resource's queue has reached MaxQueueSize.
	ErrCodeQueueFull = "QUEUE_FULL"
	// ErrCodeDeadlock says that granting or queueing would close, or has closed, a cycle of waits.
	ErrCodeDeadlock = "DEADLOCK"
	// ErrCodeBackendError says that the store failed or could not be reached. Nothing was granted.
	ErrCodeBackendError = "BACKEND_ERROR"
	// ErrCodeInvalidRequest says that the request or the configuration is wrong; the message names the field.
	ErrCodeInvalidRequest = "INVALID_REQUEST"
	// ErrCodePermissionDenied says that somebody else holds the lock or that configuration forbids the operation.
	ErrCodePermissionDenied = "PERMISSION_DENIED"
)

// Sentinels for errors.Is, one for each code. An error of this package matches
// the sentinel of its code.
var (
	ErrLockExists       = &LockError{Code: ErrCodeLockExists, Message: "lock exists"}
	ErrLockNotFound     = &LockError{Code: ErrCodeLockNotFound, Message: "lock not found"}
	ErrLockExpired      = &LockError{Code: ErrCodeLockExpired, Message: "lock expired"}
	ErrTimeout          = &LockError{Code: ErrCodeTimeout, Message: "timeout"}
	ErrQueueFull        = &LockError{Code: ErrCodeQueueFull, Message: "queue full"}
	ErrDeadlock         = &LockError{Code: ErrCodeDeadlock, Message: "deadlock"}
	ErrBackend          = &LockError{Code: ErrCodeBackendError, Message: "backend error"}
	ErrInvalidRequest   = &LockError{Code: ErrCodeInvalidRequest, Message: "invalid request"}
	ErrPermissionDenied = &LockError{Code: ErrCodePermissionDenied, Message: "permission denied"}
)

// Conditions that accompany a [LockError] of some code; test for them with
// errors.Is.
var (
	// ErrOutcomeUnknown marks an error of a call that ended before its outcome
	// was known: the change may have taken effect, or may still do so.
	ErrOutcomeUnknown = errors.New("outcome unknown")
	// ErrCorruptRecord marks a stored record that cannot be read. Such a record
	// counts as held.
	ErrCorruptRecord = errors.New("unreadable record")
	// ErrRequestEnded marks the LOCK_EXPIRED answer to a request that got a lock before,
	// which has ended: it gets no other one.
	ErrRequestEnded = errors.New("that lock has ended; ask with a new ID")
	// ErrLockLost marks the end of a [Handle] whose lock was not released by its
	// holder: somebody else may hold it, now or soon.
	ErrLockLost = errors.New("lock lost")
	// ErrClosed marks a call on a backend that has been closed.
	ErrClosed = errors.New("backend is closed")
)

// LockError is the error of every operation of this package and its backends.
// Its message is complete: it names the resource and the holder where there
// are any, and never contains a credential.
type LockError struct {
	// Code is one of the ErrCode constants.
	Code string
	// Message is a lower-case sentence for people.
	Message string
	// Resource is what the call was about; its zero value means no single resource.
	Resource ResourceIdentifier
	// Holder is the lock that stands in the way, where there is one.
	Holder *EnhancedLock
	// Err is the cause, if any.
	Err error
}

// Error returns the message, followed by the cause's.
func (e *LockError) Error() string {
	if e.Err != nil {
		return e.Message + ": " + e.Err.Error()
	}
	return e.Message
}

// Unwrap returns the cause.
func (e *LockError) Unwrap() error { return e.Err }

// Is reports whether target is a LockError with the same code, so that
// errors.Is(err, ErrLockExists) holds for every error with that code.
func (e *LockError) Is(target error) bool {
	t, ok := target.(*LockError)
	return ok && t.Code == e.Code
}

// NewHeldError returns the LOCK_EXISTS error for a resource that holder holds.
// A note in the holder's metadata is part of the message.
func NewHeldError(resource ResourceIdentifier, holder *EnhancedLock) *LockError {
	return &LockError{
		Code:     ErrCodeLockExists,
		Message:  resource.String() + " is " + describeHeld(holder),
		Resource: resource,
		Holder:   holder,
	}
}

// describeHeld says by whom something is locked, or for whom it is kept: after a
// lease, for a new plan, or for a set of locks.
func describeHeld(holder *EnhancedLock) string {
	switch {
	case holder.ID != "" || holder.State != LockStatePending:
		return "locked by " + describeHolder(holder)
	case holder.ExpiresAt == nil:
		return "kept for " + describeHolder(holder) + ", who plans again or waits for a set of locks"
	default:
		return fmt.Sprintf("reserved for %s until %s, since its lease ended without a release",
			describeHolder(holder), holder.ExpiresAt.Format(time.RFC3339Nano))
	}
}

// NewNotFoundError returns the LOCK_NOT_FOUND error for a resource.
func NewNotFoundError(resource ResourceIdentifier) *LockError {
	return &LockError{
		Code:     ErrCodeLockNotFound,
		Message:  fmt.Sprintf("%s is not locked", resource),
		Resource: resource,
	}
}

// NewNotWaitingError returns the LOCK_NOT_FOUND error for an owner, in text
// form, that has no request in a resource's queue.
func NewNotWaitingError(resource ResourceIdentifier, owner string) *LockError {
	return &LockError{
		Code:     ErrCodeLockNotFound,
		Message:  fmt.Sprintf("%s does not wait for %s", DescribeOwner(owner), resource),
		Resource: resource,
	}
}

// NewUnknownLockError returns the LOCK_NOT_FOUND error for a lock ID.
func NewUnknownLockError(lockID string) *LockError {
	return &LockError{Code: ErrCodeLockNotFound, Message: fmt.Sprintf("no lock has the ID %q", lockID)}
}

// NewExpiredError returns the LOCK_EXPIRED error for a lock ID whose lease ran
// out.
func NewExpiredError(lockID string, resource ResourceIdentifier) *LockError {
	return &LockError{
		Code:     ErrCodeLockExpired,
		Message:  fmt.Sprintf("the lease of lock %s on %s has ended", lockID, resource),
		Resource: resource,
	}
}

// NewInvalidError returns an INVALID_REQUEST error. The message is to name the
// field, its value and what would be right.
func NewInvalidError(format string, args ...any) *LockError {
	return &LockError{Code: ErrCodeInvalidRequest, Message: fmt.Sprintf(format, args...)}
}

// NewDeniedError returns the PERMISSION_DENIED error for a resource that holder
// holds and actor, an owner in text form or in words, may not touch.
func NewDeniedError(resource ResourceIdentifier, holder *EnhancedLock, actor string) *LockError {
	return &LockError{
		Code:     ErrCodePermissionDenied,
		Message:  fmt.Sprintf("%s is locked by %s, not by %s", resource, describeHolder(holder), DescribeOwner(actor)),
		Resource: resource,
		Holder:   holder,
	}
}

// NewBackendError returns the BACKEND_ERROR for an operation that failed in the
// store.
func NewBackendError(operation string, err error) *LockError {
	return &LockError{Code: ErrCodeBackendError, Message: operation, Err: err}
}

// NewCorruptError returns the error for a resource whose stored record cannot
// be read. The resource counts as held: the code is LOCK_EXISTS, and
// errors.Is(err, ErrCorruptRecord) holds.
func NewCorruptError(resource ResourceIdentifier, record string) *LockError {
	return &LockError{
		Code:     ErrCodeLockExists,
		Message:  fmt.Sprintf("%s counts as locked, its record %q needs repair", resource, record),
		Resource: resource,
		Err:      ErrCorruptRecord,
	}
}

func describeHolder(holder *EnhancedLock) string {
	text := DescribeOwner(holder.Owner)
	if note := holder.Metadata[MetadataNote]; note != "" {
		text += fmt.Sprintf(" (note: %s)", note)
	}
	return text
}
