package enhanced

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/timeout"
)

// DefaultHandleLease is the lease of a handle whose request names none. It is
// longer than a fail-over of Redis takes with its usual time-outs.
const DefaultHandleLease = time.Minute

// cleanUpTimeout bounds a release that runs on a context of its own.
const cleanUpTimeout = 5 * time.Second

// Leaser takes locks, and renews and releases them. It is what a [Handle] needs
// of an [EnhancedLockManager], or of a client of a server that has one. Its
// methods must be safe for concurrent use and return when their context ends.
type Leaser interface {
	// Acquire takes a lock with the lease request.Timeout, see
	// [EnhancedLockManager.Acquire].
	Acquire(ctx context.Context, request *EnhancedLockRequest) (*EnhancedLock, error)
	// RefreshLock makes the lease end extension from now, see [Backend]. It never
	// brings back a lock that is gone: LOCK_NOT_FOUND or LOCK_EXPIRED.
	RefreshLock(ctx context.Context, lockID string, extension time.Duration) error
	// Release releases one lock, see [Backend].
	Release(ctx context.Context, request ReleaseRequest) (*EnhancedLock, error)
}

var _ Leaser = (*EnhancedLockManager)(nil)

// HandleOptions configure a [Handle]. The zero value works.
type HandleOptions struct {
	// Margin is how long before the store can give the lock away the handle is
	// lost: for clocks of different speed, and for what the holder needs to stop.
	// Default a tenth of the lease; at most half of it.
	Margin time.Duration
	// MaxHold is how long the lock is held at most, however alive its holder is,
	// counted from when it was got. The handle is lost then, with an error that
	// matches [ErrTimeout]. Default 0: no limit; else at least the lease.
	MaxHold time.Duration
}

// Handle is a lock with a lease that is renewed while this process lives: what
// etcd calls a session and its mutex. Make it with [AcquireHandle]. All methods
// are safe for concurrent use.
//
// The lease is renewed at a third of its length, or up to a thirtieth before, so that
// renewals of several handles come together; again and again with growing
// pauses if the store fails, until it can no longer be relied on. That is
// decided here and by this machine's clocks alone: a lease counts from when the
// request for it was sent, so that it ends here before it ends in the store, and
// less [HandleOptions.Margin], since clocks differ in speed and a holder needs
// time to stop. This is the rule of Gray and Cheriton, "Leases: An Efficient
// Fault-Tolerant Mechanism for Distributed File Cache Consistency" (SOSP 1989),
// section 2, of Chubby's sessions (Burrows, OSDI 2006, section 2.8), and of the
// validity time in https://redis.io/docs/latest/develop/clients/patterns/distributed-locks/.
// A handle that is lost stays lost, even if a late renewal succeeds.
//
// What a handle can't promise: that nothing happens between a check and the act
// that follows it. The process can be paused there for longer than the lease, a
// write can be on its way for that long, and a store whose own clock jumps, or
// that forgets a lock in a fail-over, gives the lock away early. So a resource
// that must never be changed by two has to compare fencing tokens, see
// [Handle.Token]. Where it can't, [EnhancedConfig.UncleanReleaseDelay] has the next
// owner wait for longer than such pauses last.
type Handle struct {
	leaser  Leaser
	lock    *EnhancedLock
	lease   time.Duration
	margin  time.Duration
	phase   time.Duration // of the moments at which this process renews
	maxHold time.Duration
	got     instant // when the request was sent that got it
	retry   *timeout.RetryManager

	ctx     context.Context
	cancel  context.CancelCauseFunc
	stopped chan struct{} // closed when nothing renews any more
	turn    chan struct{} // who has it in hand may release

	mu      sync.Mutex // protects below
	sent    instant    // when the last successful renewal was sent
	valid   time.Duration
	failure error // of the last renewal, if it failed
	over    error // why it is not held; nil while it is
	gone    bool  // the store has said that it is not ours
	watch   *time.Timer

	// The following belong to who has the turn.
	released bool
	unsure   bool // a release may have been done
	answer   error
}

// AcquireHandle takes a lock and keeps it until [Handle.Release]: it renews its
// lease, and tells when it is lost. The request's Timeout is the lease, at least
// 1ms; 0 means [DefaultHandleLease]. A lease should be several times what a
// renewal can take, and longer than a fail-over of the store. NoTimeout is
// refused: such a lock needs no handle. The context bounds the wait for the lock,
// not the handle, whose own context keeps its values.
//
// Errors are those of Acquire, and INVALID_REQUEST for options that don't go
// together. After [ErrOutcomeUnknown] the lock may be held until its lease ends.
func AcquireHandle(ctx context.Context, leaser Leaser, request *EnhancedLockRequest, options HandleOptions) (*Handle, error) {
	if leaser == nil || request == nil {
		return nil, NewInvalidError("a handle needs a leaser and a request; one of them is nil")
	}
	wanted := *request
	if wanted.Timeout == 0 {
		wanted.Timeout = DefaultHandleLease
	}
	h, err := newHandle(leaser, wanted.Timeout, options)
	if err != nil {
		return nil, err
	}
	repeated := wanted.ID != ""
	if !repeated {
		id, err := uuid.NewV7()
		if err != nil {
			return nil, NewBackendError("making a request ID", err)
		}
		wanted.ID = id.String()
	}
	h.sent = rightNow()
	if h.lock, err = leaser.Acquire(ctx, &wanted); err != nil {
		return nil, err
	}
	if err := h.begin(ctx, repeated); err != nil {
		cleanUp, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
		defer cancel()
		_, releaseErr := leaser.Release(cleanUp, h.releaseRequest())
		if isGone(releaseErr) {
			releaseErr = nil
		}
		return nil, errors.Join(err, releaseErr)
	}
	return h, nil
}

func newHandle(leaser Leaser, lease time.Duration, options HandleOptions) (*Handle, error) {
	h := &Handle{
		leaser: leaser, lease: lease, margin: options.Margin, maxHold: options.MaxHold,
		stopped: make(chan struct{}), turn: make(chan struct{}, 1),
	}
	if h.margin == 0 {
		h.margin = lease / 10
	}
	switch {
	case lease == NoTimeout:
		return nil, NewInvalidError("a handle needs a lease; give a timeout such as %v instead of NoTimeout", DefaultHandleLease)
	case lease < time.Millisecond:
		return nil, NewInvalidError("timeout %v is not a lease; give at least 1ms, or 0 for %v", lease, DefaultHandleLease)
	case h.margin < 0 || h.margin > lease/2:
		return nil, NewInvalidError("margin %v is not between 0 and %v, half of the lease", h.margin, lease/2)
	case h.maxHold != 0 && h.maxHold < lease:
		return nil, NewInvalidError("max hold %v is below the lease, %v; give 0 for no limit, or take a shorter lease", h.maxHold, lease)
	}
	retry, err := timeout.NewRetryManager(timeout.RetryOptions{
		MaxAttempts: math.MaxInt, // the lease bounds them
		BaseDelay:   lease / 30,
		MaxDelay:    lease / 6,
	})
	if err != nil {
		return nil, NewInvalidError("retries of a handle: %v", err)
	}
	h.retry, h.phase = retry, phaseOfProcess(lease/30)
	return h, nil
}

// begin starts to keep the lock that was got. When the lease began is not known
// if the request has waited, or was made before: it is renewed first.
func (h *Handle) begin(ctx context.Context, repeated bool) error {
	if h.lock.ExpiresAt == nil {
		return NewInvalidError("lock %s on %s was given without a lease, so it can't be kept by a handle", h.lock.ID, h.lock.Resource)
	}
	if repeated || h.sent.since() >= h.renewAfter() {
		h.sent = rightNow()
		if err := h.leaser.RefreshLock(ctx, h.lock.ID, h.lease); err != nil {
			return err
		}
	}
	h.got, h.valid = h.sent, h.lease-h.margin
	h.ctx, h.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watch = time.AfterFunc(h.remaining(), h.look)
	if err := h.check(); err != nil {
		return err
	}
	go h.keep()
	return nil
}

// Lock returns the lock as it was granted: ExpiresAt is of that moment.
func (h *Handle) Lock() *EnhancedLock { return h.lock }

// Token returns the fencing token, [EnhancedLock.Version]. A resource that
// remembers the largest token that it has seen, and refuses smaller ones, is safe
// from holders that don't know yet that they have lost their lock.
func (h *Handle) Token() int64 { return h.lock.Version }

// Context returns a context that ends when the lock is lost or released.
// [context.Cause] is then an error that matches [ErrLockLost], or
// [context.Canceled] after a release. It has the values of the context that the
// handle was made with, and not its deadline.
func (h *Handle) Context() context.Context { return h.ctx }

// Done is closed when the lock is lost or released.
func (h *Handle) Done() <-chan struct{} { return h.ctx.Done() }

// Check returns nil while the lock is held by all that is known here, and why it
// is not otherwise: an error that matches [ErrLockLost], or LOCK_NOT_FOUND after a
// release. It reads the clocks, so that after a pause of the process or the machine it
// is right before any other goroutine has run; ask it before each change of what
// the lock protects. It doesn't ask the store: a lock that somebody else released
// by force is noticed at the next renewal.
func (h *Handle) Check() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.check()
}

// check is Check; the handle is locked.
func (h *Handle) check() error {
	switch {
	case h.over != nil:
	case h.maxHold > 0 && h.got.since() >= h.maxHold:
		h.end(h.lost(&LockError{Code: ErrCodeTimeout, Message: fmt.Sprintf("it was held for %v, its maximum", h.maxHold)}))
	case h.remaining() <= 0:
		h.end(h.lost(&LockError{Code: ErrCodeLockExpired, Message: "its lease was not renewed in time", Err: h.failure}))
	}
	return h.over
}

// remaining returns how long the lock is held without a further renewal.
func (h *Handle) remaining() time.Duration {
	remaining := h.valid - h.sent.since()
	if h.maxHold > 0 {
		remaining = min(remaining, h.maxHold-h.got.since())
	}
	return remaining
}

// look is called when the lease should be over.
func (h *Handle) look() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.check() == nil {
		h.watch.Reset(h.remaining())
	}
}

// end makes the handle not held, unless it is so already; the handle is locked. A
// nil cause is that of a release.
func (h *Handle) end(why error) {
	if h.over != nil {
		return
	}
	h.over = why
	h.watch.Stop()
	if errors.Is(why, ErrLockLost) {
		h.cancel(why)
	} else {
		h.cancel(nil)
	}
}

// lost returns the error of a handle that was lost, with the code of its cause.
func (h *Handle) lost(cause error) error {
	code := ErrCodeLockExpired
	if known := (*LockError)(nil); errors.As(cause, &known) {
		code = known.Code
	}
	return &LockError{
		Code:     code,
		Message:  fmt.Sprintf("%s lost its lock %s on %s", DescribeOwner(h.lock.Owner), h.lock.ID, h.lock.Resource),
		Resource: h.lock.Resource,
		Err:      &lossError{cause},
	}
}

// lossError is an error that matches [ErrLockLost].
type lossError struct{ cause error }

func (e *lossError) Error() string        { return e.cause.Error() }
func (e *lossError) Unwrap() error        { return e.cause }
func (e *lossError) Is(target error) bool { return target == ErrLockLost } //nolint:errorlint // a sentinel
