package history

import (
	"hash/maphash"
	"math"
	"time"

	"github.com/anishathalye/porcupine"
)

// model steps through the operations on one resource.
type model struct {
	// slack widens the bounds of each lease.
	slack time.Duration
	// delay is that of the history.
	delay time.Duration
	// remembered are the requests of which an answer says that they were
	// granted before.
	remembered map[string]bool
	// unexplained are the largest tokens that answers show and no answer has
	// granted: somebody got them unheard.
	unexplained map[holder]int64
	// moments are the earliest moments that lookups can be about, by client and
	// call, where those are before the call.
	moments map[[2]int64]int64
}

// moment returns the earliest moment that op can be about.
func (m model) moment(op Operation) int64 {
	if at, earlier := m.moments[[2]int64{int64(op.Client), op.Call}]; earlier && op.Answer == Done {
		return at
	}
	return op.Call
}

// holder is an owner on a resource.
type holder struct {
	place
	owner string
}

// unheard returns the largest token that op's owner can have got unheard.
func (m model) unheard(op Operation) int64 {
	return m.unexplained[holder{op.place(), op.Owner}]
}

// step returns the state after op, and whether op can be answered as it was.
//
// An operation of unknown outcome either takes effect, then it is placed where
// it has one, or it does not: then it is placed after the operation atEnd,
// which follows everything that was answered. Placing those without effect
// anywhere else would be as right, and would try every order of all of them.
func (m model) step(s state, op Operation) (state, bool) {
	switch {
	case op.Kind == atEnd:
		s.ended = true
		return s, !s.unseen
	case s.ended:
		return s, op.Answer == Unknown
	}
	if s.now = max(s.now, m.moment(op)); s.now > op.Return {
		return s, false
	}
	if op.Answer == Unknown {
		return m.stepUnknown(s, op)
	}
	if op.Answer == Nothing || op.Answer == Failed {
		return s, true
	}
	switch op.Kind {
	case Acquire:
		return m.acquire(s, op)
	case Release:
		return m.release(s, op)
	case ReleaseOwned:
		return m.releaseOwned(s, op)
	case ForceRelease:
		return m.forceRelease(s, op)
	case Refresh:
		return m.refresh(s, op)
	case Transfer:
		return m.transfer(s, op)
	case Lookup:
		return m.lookup(s, op)
	case ReleaseByPull:
		return m.releaseByPull(s, op)
	default:
		return s, false
	}
}

// stepUnknown is step for an operation of unknown outcome that takes effect.
func (m model) stepUnknown(s state, op Operation) (state, bool) {
	switch op.Kind {
	case Acquire:
		if s.request != "" && s.request == op.Request || s.remembers(op.Request) != nil {
			return s, false
		}
		if !m.remembered[op.Request] && m.unheard(op) <= s.last {
			return s, false // it would have to stay unseen, see end
		}
		free, ok := s.open(op, op.Owner)
		free = m.grant(free, op, &Lock{Owner: op.Owner})
		free.unseen = !m.remembered[op.Request]
		return free, ok
	case Release:
		return s.end(released, s.is(op.Token))
	case ReleaseOwned:
		return s.end(released, s.alive() && s.owner == op.Owner)
	case ForceRelease:
		return s.end(released, s.alive())
	case ReleaseByPull:
		return s.end(released, s.alive() && op.byPull(s.owner))
	case Refresh:
		return m.lease(s, op, 0), s.is(op.Token) && s.leased
	case Transfer:
		return s.transferTo(op.Owner, s.is(op.Token) && s.owner != op.Owner)
	default:
		return s, false
	}
}

func (m model) acquire(s state, op Operation) (state, bool) {
	current := s.held && s.request != "" && s.request == op.Request
	switch op.Answer {
	case Done:
		if op.Lock == nil || op.Lock.Owner != op.Owner {
			return s, false
		}
		if current {
			return s.seen(op.Lock)
		}
		if s.remembers(op.Request) != nil {
			return s, false
		}
		s, ok := s.open(op, op.Owner)
		ok = ok && op.Lock.Token > s.last && (op.Lock.Expires != 0) == (op.Lease != 0)
		return m.grant(s, op, op.Lock), ok
	case Held:
		if current || s.remembers(op.Request) != nil {
			return s, false
		}
		if op.Lock != nil && op.Lock.Closed {
			s, ok := s.closed(op)
			return s, ok && op.Lock.Owner != op.Owner
		}
		return s.seen(op.Lock)
	case Expired:
		if current {
			if s.owner != op.Owner {
				return s, false
			}
			return s.expire(op)
		}
		known := s.remembers(op.Request)
		return s, known != nil && known.owner == op.Owner
	case Invalid:
		if current {
			return s, s.owner != op.Owner
		}
		known := s.remembers(op.Request)
		return s, known != nil && known.owner != op.Owner
	default:
		return s, false
	}
}

func (m model) release(s state, op Operation) (state, bool) {
	if op.Answer == Done && s.is(op.Token) {
		return s.end(released, true)
	}
	if op.Answer == Done {
		// A release that is repeated is the same release.
		return s, s.howEnded(op.Token) == released
	}
	return s.gone(op, op.Answer == Absent && s.howEnded(op.Token) == transferred)
}

func (m model) refresh(s state, op Operation) (state, bool) {
	switch op.Answer {
	case Done:
		return m.lease(s, op, 0), s.is(op.Token) && s.leased
	case Invalid:
		return s, s.is(op.Token) && !s.leased
	default:
		return s.goneNow(op)
	}
}

func (m model) transfer(s state, op Operation) (state, bool) {
	if op.Answer != Done {
		return s.goneNow(op)
	}
	if !s.is(op.Token) {
		return s, false
	}
	if s.owner == op.Owner {
		return s, true
	}
	return s.transferTo(op.Owner, true)
}

func (m model) releaseOwned(s state, op Operation) (state, bool) {
	switch op.Answer {
	case Done:
		s, ok := s.seen(op.Lock)
		return s.end(released, ok && s.owner == op.Owner)
	case Denied:
		s, ok := s.seen(op.Lock)
		return s, ok && s.owner != op.Owner
	case Absent:
		return s.free(op)
	default:
		return s, false
	}
}

// forceRelease ends a lapse, too. One of unknown outcome does not, since it could not be
// told whether it has ended that or the lock before: histories with a delay have none.
func (m model) forceRelease(s state, op Operation) (state, bool) {
	switch {
	case op.Answer == Done && op.Lock != nil && op.Lock.Closed:
		s, ok := s.closed(op)
		s.lapse = lapse{}
		return s, ok
	case op.Answer == Done:
		s, ok := s.seen(op.Lock)
		return s.end(released, ok)
	case op.Answer == Absent:
		return s.open(op, "")
	default:
		return s, false
	}
}

func (m model) lookup(s state, op Operation) (state, bool) {
	switch op.Answer {
	case Done:
		return s.seen(op.Lock)
	case Absent:
		return s.free(op)
	default:
		return s, false
	}
}

// releaseByPull released this resource, or found nothing of that pull request
// on it.
func (m model) releaseByPull(s state, op Operation) (state, bool) {
	switch {
	case op.Answer == Done:
		s, ok := s.seen(op.Lock)
		return s.end(released, ok && op.byPull(s.owner))
	case op.Answer == Absent && s.held && op.byPull(s.owner):
		return s.free(op)
	default:
		return s, op.Answer == Absent
	}
}

// grant gives the free lock to op's owner.
func (m model) grant(s state, op Operation, lock *Lock) state {
	s.held, s.owner, s.request = true, lock.Owner, op.Request
	s.token, s.last = lock.Token, max(s.last, lock.Token)
	if s.leased, s.from, s.until, s.expires = op.Lease != 0, 0, 0, 0; s.leased {
		s = m.lease(s, op, lock.Expires)
	}
	return s
}

// lease lets the lease end a while after op, which granted or refreshed it. It
// may count from the call on: a store can read its clock before the change is
// there for everyone to see.
func (m model) lease(s state, op Operation, expires int64) state {
	slack := m.slack + op.Lease/100
	s.leased, s.expires = true, expires
	s.from = op.Call + int64(op.Lease-slack)
	s.until = math.MaxInt64
	if op.Return != Never {
		s.until = op.Return + int64(op.Lease+slack)
	}
	return s
}

// initial is the state that a history begins with.
func (m model) initial() state { return state{delay: m.delay} }

// porcupine returns the model as the checker takes it.
func (m model) porcupine() porcupine.Model {
	seed := maphash.MakeSeed()
	return porcupine.Model{
		Init: func() any { return m.initial() },
		Step: func(before, input, _ any) (bool, any) {
			after, ok := m.step(before.(state), input.(Operation))
			return ok, after
		},
		Equal: func(a, b any) bool { return a.(state).equal(b.(state)) },
		Hash: func(a any) uint64 {
			s := a.(state)
			s.past = nil
			return maphash.Comparable(seed, s)
		},
		DescribeOperation: func(input, _ any) string { return input.(Operation).String() },
		DescribeState:     func(a any) string { return a.(state).String() },
	}
}
