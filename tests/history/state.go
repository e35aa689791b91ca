package history

import (
	"fmt"
	"math"
	"time"
)

// state is the lock of one resource at one moment of a possible run. It is a
// value: a step makes another one.
type state struct {
	held  bool
	owner string
	// request is whose grant it is, empty after a transfer.
	request string
	// token of the grant; 0 while no answer has named it.
	token int64
	// last is the largest token that is known to have been granted.
	last int64

	leased bool
	// expires is the end of the lease as answers show it; 0 while none has.
	expires int64
	// from and until bound the end of the lease in the history's time.
	from, until int64

	// lapse keeps the resource closed to others than its last owner, zero for none.
	lapse lapse
	// delay is for how long, it never changes.
	delay time.Duration

	// now is the earliest time that this moment can be.
	now int64
	// unseen marks a grant that no answer has shown, see end.
	unseen bool
	// ended says that all answers are given, see step.
	ended bool
	// past are the grants that have ended, the latest first.
	past *grant
}

// lapse is what a lease leaves that has ended by itself.
type lapse struct {
	owner string
	token int64 // 0 while no answer has named it
	// from and until bound its end in the history's time.
	from, until int64
}

// grant is what a store remembers of a grant that has ended.
type grant struct {
	token   int64 // 0 if no answer has ever named it
	owner   string
	request string
	how     ending
	before  *grant
}

type ending string

const (
	released    ending = "released"
	expired     ending = "expired"
	transferred ending = "transferred"
)

// alive reports whether the lock can be held at this moment.
func (s state) alive() bool { return s.held && (!s.leased || s.now <= s.until) }

// is reports whether the lock can be held by the grant with the token. A client
// knows a token only by an answer, so that a grant whose token no answer has
// named is never the one that is meant.
func (s state) is(token int64) bool { return s.alive() && s.token == token }

// seen returns the state after an answer has shown the lock that is held.
func (s state) seen(lock *Lock) (state, bool) {
	if lock == nil || !s.alive() || s.owner != lock.Owner || s.leased != (lock.Expires != 0) {
		return s, false
	}
	if s.token == 0 {
		if lock.Token <= s.last {
			return s, false
		}
		s.token, s.last = lock.Token, lock.Token
	}
	if s.expires == 0 {
		s.expires = lock.Expires
	}
	s.unseen = false
	return s, s.token == lock.Token && s.expires == lock.Expires
}

// free returns the state after an answer has shown that nothing is held: it is
// free, or its lease has ended.
func (s state) free(op Operation) (state, bool) {
	if !s.held {
		return s, true
	}
	return s.expire(op)
}

// expire ends the lease not later than at op.
func (s state) expire(op Operation) (state, bool) {
	if !s.held || !s.leased || s.from > op.Return {
		return s, false
	}
	s.now = max(s.now, s.from)
	left := lapse{owner: s.owner, token: s.token, from: s.from + int64(s.delay), until: s.until}
	if left.until < math.MaxInt64-int64(s.delay) {
		left.until += int64(s.delay)
	}
	s, ok := s.end(expired, true)
	if ok && s.delay > 0 {
		s.lapse = left
	}
	return s, ok
}

// open returns the state after an answer has shown that the resource is free for an
// owner, whose taking it ends a lapse.
func (s state) open(op Operation, owner string) (state, bool) {
	s, ok := s.free(op)
	if s.lapse.owner != "" && s.lapse.owner != owner {
		s.now = max(s.now, s.lapse.from)
		ok = ok && s.now <= op.Return
	}
	s.lapse = lapse{}
	return s, ok
}

// closed returns the state after an answer has shown the lock whose lapse keeps the
// resource closed.
func (s state) closed(op Operation) (state, bool) {
	if s.held && s.token == 0 && s.owner == op.Lock.Owner && op.Lock.Token > s.last {
		// Only the answer to this shows that grant.
		s.token, s.last, s.unseen = op.Lock.Token, op.Lock.Token, false
	}
	s, ok := s.free(op)
	l := s.lapse
	if !ok || l.owner == "" || l.owner != op.Lock.Owner || s.now > l.until || l.token != 0 && l.token != op.Lock.Token {
		return s, false
	}
	s.lapse.token = op.Lock.Token
	return s, true
}

// end ends the grant. One that no answer has shown is not ended: it need not
// have been, since without it all answers would be the same. That keeps an
// acquire of unknown outcome from being tried in every gap.
func (s state) end(how ending, ok bool) (state, bool) {
	if !ok || s.unseen {
		return s, false
	}
	s.past = &grant{token: s.token, owner: s.owner, request: s.request, how: how, before: s.past}
	s.held, s.owner, s.request, s.token = false, "", "", 0
	s.leased, s.expires, s.from, s.until = false, 0, 0, 0
	return s, true
}

// transferTo ends the grant and starts another, whose token no answer names.
func (s state) transferTo(owner string, ok bool) (state, bool) {
	after, ok := s.end(transferred, ok)
	after.held, after.owner = true, owner
	after.leased, after.expires, after.from, after.until = s.leased, s.expires, s.from, s.until
	return after, ok
}

// gone accepts an answer that says that op's grant is no more. The answer
// Expired may be what ends it.
func (s state) gone(op Operation, absent bool) (state, bool) {
	switch {
	case op.Answer != Expired:
		return s, absent
	case s.held && s.token == op.Token:
		return s.expire(op)
	default:
		return s, s.howEnded(op.Token) == expired
	}
}

// goneNow is gone for what can be done to a held lock only.
func (s state) goneNow(op Operation) (state, bool) {
	how := s.howEnded(op.Token)
	return s.gone(op, op.Answer == Absent && (how == released || how == transferred))
}

func (s state) howEnded(token int64) ending {
	for g := s.past; g != nil; g = g.before {
		if g.token == token {
			return g.how
		}
	}
	return ""
}

// remembers returns the ended grant that a request got, nil if it got none.
func (s state) remembers(request string) *grant {
	for g := s.past; g != nil && request != ""; g = g.before {
		if g.request == request {
			return g
		}
	}
	return nil
}

// equal compares two states; the past by what it says, not by where it is.
func (s state) equal(other state) bool {
	a, b := s.past, other.past
	if s.past, other.past = nil, nil; s != other {
		return false
	}
	for ; a != b; a, b = a.before, b.before {
		if a == nil || b == nil || a.token != b.token || a.owner != b.owner || a.request != b.request || a.how != b.how {
			return false
		}
	}
	return true
}

func (s state) String() string {
	if !s.held {
		if s.lapse.owner != "" {
			return fmt.Sprintf("closed to others than %s until %v to %v, last token %d",
				s.lapse.owner, time.Duration(s.lapse.from), time.Duration(s.lapse.until), s.last)
		}
		return fmt.Sprintf("free, last token %d", s.last)
	}
	text := fmt.Sprintf("%s, token %d", s.owner, s.token)
	if s.leased {
		text += fmt.Sprintf(", lease until %v to %v", time.Duration(s.from), time.Duration(s.until))
	}
	return text
}
