package enhanced

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"github.com/runatlantis/atlantis/server/core/db"
	"github.com/runatlantis/atlantis/server/logging"
	"golang.org/x/sync/semaphore"
)

// SingleProcessStore is a backend whose store can't be used by two processes at
// once. Backends that do not say so are taken for shared: the fallback from them
// needs FallbackSingleReplica.
type SingleProcessStore interface {
	SingleProcess() bool
}

// FallbackState is how far an adapter may answer from the legacy database.
type FallbackState string

// The states of the fallback.
const (
	// FallbackOff: there is none, for the Reason.
	FallbackOff FallbackState = "off"
	// FallbackClosed: when the store fails now, requests fail, for the Reason.
	FallbackClosed FallbackState = "closed"
	// FallbackReady: the legacy database is up to date, and answers when the store
	// fails.
	FallbackReady FallbackState = "ready"
	// FallbackOpen: the store fails, and the legacy database answers.
	FallbackOpen FallbackState = "open"
)

// FallbackStatus is what [LockingAdapter.Fallback] answers.
type FallbackStatus struct {
	State FallbackState
	// Since is when the state began, by this process's clock; zero for FallbackOff.
	Since time.Time
	// Reason says why the fallback is off, closed or open. It is empty when it is
	// ready.
	Reason string
	// Unsettled are stock's keys of what nobody is granted for now: both databases
	// could not be made to agree on it yet.
	Unsettled []string
}

const (
	// fallbackLag is how old the latest sign may be that the legacy database has
	// all that is in the store, for it to answer when the store fails.
	fallbackLag = 10 * time.Second
	// fallbackSilence is after how long without such a sign the store is asked
	// whether it is there.
	fallbackSilence = fallbackLag / 2
	// fallbackTick is how often a store that has failed is asked again.
	fallbackTick = 250 * time.Millisecond
	// fallbackAsk bounds such a question.
	fallbackAsk = 2 * time.Second
	// reconcileTime bounds one attempt to make both databases agree.
	reconcileTime = 30 * time.Second
)

// route is where calls go.
type route int

const (
	routeStart  route = iota // both have to agree before anything is granted
	routeStore               // the store alone: the legacy database is no fallback
	routeBoth                // the store decides, the legacy database follows
	routeLegacy              // the legacy database decides
)

// fallback serves projectLocks from the store and keeps the legacy database
// such that it can answer while the store fails. That only over-locks:
//
//   - A lock is written to the legacy database before the store is asked for it,
//     and removed there after the store has released it.
//   - What others change in the store comes through its log.
//   - The legacy database answers only when it had all of the log when the store
//     failed. What it granted and released then is in the journal.
//   - Once the store is back, nothing is granted until both agree again.
//
// A process that has just started knows nothing of the store, so it does not
// answer from the legacy database before it has reached the store once. All
// methods are safe for concurrent use. stop ends what runs in the background.
type fallback struct {
	store   *storeLocks
	legacy  db.Database
	logger  logging.SimpleLogging
	publish func(*ManagerEvent)
	journal journal

	// gate is shared by the calls; to make both databases agree takes all of it.
	gate *semaphore.Weighted
	// turns are for the calls about one of stock's keys, one at a time.
	turns [64]chan struct{}
	seed  maphash.Seed

	ctx    context.Context //nolint:containedctx // that of the goroutine and its subscription
	cancel context.CancelFunc
	done   chan struct{}

	mu         sync.Mutex // protects all below
	running    bool
	route      route
	since      time.Time
	reason     error     // why it is not ready
	mark       time.Time // up to when the legacy database has all of the log
	events     <-chan *LockEvent
	unfollow   context.CancelFunc
	subscribed chan struct{} // holds one signal: events is another channel
	// behind are the resources on which the legacy database may lack something,
	// by stock's key.
	behind map[string]ResourceIdentifier
	// unsure are the owners of locks in the legacy database that the store may not
	// have granted, by stock's key.
	unsure map[string]Owner
}

var _ projectLocks = (*fallback)(nil)

const wholeGate = 1 << 30

// newFallback returns a fallback. It does not touch any store before the first
// call, and has a goroutine once both databases have agreed.
func newFallback(store *storeLocks, legacy db.Database, logger logging.SimpleLogging) *fallback {
	f := &fallback{
		store: store, legacy: legacy, logger: logger, publish: func(*ManagerEvent) {},
		journal: journal{db: legacy}, gate: semaphore.NewWeighted(wholeGate), seed: maphash.MakeSeed(),
		done: make(chan struct{}), since: time.Now(), reason: errors.New("this process has not reached the store yet"),
		subscribed: make(chan struct{}, 1), unfollow: func() {},
		behind: make(map[string]ResourceIdentifier), unsure: make(map[string]Owner),
	}
	if manager, ok := store.manager.(interface{ publish(*ManagerEvent) }); ok {
		f.publish = manager.publish
	}
	for i := range f.turns {
		f.turns[i] = make(chan struct{}, 1)
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f
}

// stop ends the goroutine, if there is one, and waits until it has ended.
func (f *fallback) stop() {
	f.cancel()
	f.mu.Lock()
	running := f.running
	f.mu.Unlock()
	if running {
		<-f.done
	}
}

// enter lets a call in, once both databases agree, and says where it goes. The
// caller calls leave in the end.
func (f *fallback) enter(ctx context.Context) (to route, leave func(), err error) {
	for {
		if err := f.gate.Acquire(ctx, 1); err != nil {
			return 0, nil, f.refused(contextError(ctx.Err()))
		}
		f.mu.Lock()
		to := f.route
		f.mu.Unlock()
		if to != routeStart {
			return to, func() { f.gate.Release(1) }, nil
		}
		f.gate.Release(1)
		isStarting := func() bool { return f.route == routeStart }
		if err := f.reconcile(ctx, isStarting); err != nil {
			return 0, nil, f.refused(err)
		}
	}
}

// turn lets one call about one of stock's keys go on at a time.
func (f *fallback) turn(ctx context.Context, key string) (end func(), err error) {
	turn := f.turns[maphash.String(f.seed, key)%uint64(len(f.turns))]
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, nil
	case <-ctx.Done():
		return nil, contextError(ctx.Err())
	}
}

// isStoreFailure reports whether an error says that the store has not decided.
// A backend that has been closed will not come back.
func isStoreFailure(err error) bool {
	return (errors.Is(err, ErrBackend) || errors.Is(err, ErrTimeout) || errors.Is(err, ErrOutcomeUnknown)) &&
		!errors.Is(err, ErrClosed) && !errors.Is(err, ErrCorruptRecord)
}

// open has the legacy database answer from now on, if it may. The start is when
// the call began that the store has failed.
func (f *fallback) open(start time.Time, cause error) bool {
	f.mu.Lock()
	if f.route != routeBoth {
		defer f.mu.Unlock()
		return f.route == routeLegacy
	}
	if err := f.notReady(start); err != nil {
		f.mu.Unlock()
		return false
	}
	f.route, f.since, f.reason = routeLegacy, time.Now(), cause
	f.mu.Unlock()
	f.logger.Err("the fallback is open, the legacy database decides on project locks: %v", cause)
	f.publish(&ManagerEvent{LockEvent: LockEvent{Type: EventFallbackOpened, Timestamp: time.Now()}, Err: cause})
	return true
}

// notReady returns why the legacy database could not answer at a time.
func (f *fallback) notReady(at time.Time) error {
	switch lag := at.Sub(f.mark); {
	case f.reason != nil:
		return f.reason
	case lag > fallbackLag:
		return fmt.Errorf("the legacy database was last known to be up to date %v before the store failed, at most %v are allowed", lag.Round(time.Millisecond), fallbackLag)
	default:
		return nil
	}
}

// refused is the answer to a call that nobody could decide.
func (f *fallback) refused(err error) error {
	if !isStoreFailure(err) {
		return err
	}
	f.mu.Lock()
	why := f.notReady(time.Now())
	f.mu.Unlock()
	message := "the store has failed, and the fallback is closed"
	if why != nil && !errors.Is(err, why) {
		message = fmt.Sprintf("%s (%v)", message, why)
	}
	return NewBackendError(message, err)
}

// isAnsweringAlone reports whether the legacy database decides.
func (f *fallback) isAnsweringAlone() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.route == routeLegacy
}

// isUsed reports whether something would be lost if the fallback ended now: what
// the legacy database granted is not in the store yet.
func (f *fallback) isUsed() bool {
	return f.isAnsweringAlone() || len(f.journal.keys()) > 0
}

func (f *fallback) status() FallbackStatus {
	unsettled := f.journal.keys()
	slices.Sort(unsettled)
	f.mu.Lock()
	defer f.mu.Unlock()
	s := FallbackStatus{Since: f.since}
	problem := f.reason
	switch f.route {
	case routeStore:
		s.State, s.Since = FallbackOff, time.Time{}
	case routeLegacy:
		s.State = FallbackOpen
		unsettled = nil
	default:
		s.State = FallbackReady
		if problem = f.notReady(time.Now()); problem != nil || f.route == routeStart {
			s.State = FallbackClosed
		}
	}
	s.Unsettled = unsettled
	if problem != nil {
		s.Reason = problem.Error()
	}
	return s
}
