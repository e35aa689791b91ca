package backends

import (
	"context"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"go.etcd.io/bbolt"
)

// waitForSet takes the locks of a set, or waits up to limit for its turn.
func (b *BoltBackend) waitForSet(ctx context.Context, limit time.Duration, set lockSet) (acquisition, error) {
	b.sets.count(set.requests, 1)
	defer b.sets.count(set.requests, -1)
	for _, r := range set.requests[1:] { // the first one is counted with its call
		b.turns.countDetached(r.Resource, 1)
		defer b.turns.countDetached(r.Resource, -1)
	}
	t := &turns{
		waiting: b.turns.waiting, store: boltSetQueue{b, set.requests}, recorder: &b.recorder, logger: b.logger,
		watchSet: func(ctx context.Context) { b.watchSet(ctx, set) },
	}
	return t.inTurn(ctx, limit, set.requests[0])
}

// boltSetQueue is the file as turns need it for one set. The request that they
// know is the set's first.
type boltSetQueue struct {
	*BoltBackend
	set []*enhanced.EnhancedLockRequest
}

func (b boltSetQueue) ask(ctx context.Context, r *enhanced.EnhancedLockRequest) (acquisition, error) {
	return decide(ctx, b.committer, "acquire a set with "+r.Resource.String(), func(batch *batch) (acquisition, error) {
		a, err := b.repositoryStep(batch, r.Resource.Namespace).acquireAll(b.set, true)
		if err == nil && a.granted && !a.known {
			// The caller may have gone by then.
			batch.after = append(batch.after, func() { b.turns.answerSet(nameOf(r), a.lock, a.set, nil) })
		}
		return a, err
	})
}

func (b boltSetQueue) leave(ctx context.Context, r *enhanced.EnhancedLockRequest, event string) (departure, error) {
	return decide(ctx, b.committer, "leave the queue with a set with "+r.Resource.String(), func(batch *batch) (departure, error) {
		s := b.repositoryStep(batch, r.Resource.Namespace)
		w := s.waiterOf(r.ID)
		if w == nil || w.Set == nil {
			return departure{}, nil
		}
		var left departure
		if event == enhanced.EventQueueTimeout {
			left.place = s.placeOf(w)
			for _, member := range s.membersOf(w) {
				if f := s.inspect(member.resource); f.status == held {
					left.holder = f.lock()
					break
				}
			}
		}
		return left, s.dequeueSet(w, event, change{actor: w.Owner, cause: enhanced.CauseRequest}, queueTimeoutError(r, left.place))
	})
}

// giveBack releases all locks of the set.
func (b boltSetQueue) giveBack(ctx context.Context, lock *enhanced.EnhancedLock) error {
	_, err := decide(ctx, b.committer, "give back a set with "+lock.Resource.String(), func(batch *batch) (struct{}, error) {
		s := b.repositoryStep(batch, lock.Resource.Namespace)
		for _, r := range b.set {
			known, _, err := s.recall(r)
			switch {
			case isDecision(err) || err == nil && !known: // it has ended already
				continue
			case err != nil:
				return struct{}{}, err
			}
			f := s.inspect(r.Resource)
			if err := s.finish(&f, change{actor: f.record.Owner, cause: enhanced.CauseRequest, reason: deserted}); err != nil {
				return struct{}{}, err
			}
		}
		return struct{}{}, nil
	})
	return err
}

// watchSet is watch for a set.
func (b *BoltBackend) watchSet(ctx context.Context, set lockSet) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		next, err := decide(ctx, b.committer, set.operation(), func(batch *batch) (time.Duration, error) {
			s, next := b.repositoryStep(batch, set.requests[0].Resource.Namespace), watchInterval
			for _, r := range set.requests {
				f, _, err := s.settle(r.Resource)
				if err != nil {
					return 0, err
				}
				if f.record != nil && f.record.Expires != 0 {
					next = min(next, time.Duration(f.record.Expires-batch.now)*time.Microsecond)
				}
			}
			return next, nil
		})
		if err != nil && ctx.Err() == nil {
			b.logger.Err("looking after a set that waits: %v", err)
		}
		if err != nil {
			next = watchInterval
		} else {
			b.answerTheUnansweredSet(ctx, set)
		}
		timer.Reset(max(next, time.Millisecond))
	}
}

// answerTheUnansweredSet is answerTheUnanswered for a set.
func (b *BoltBackend) answerTheUnansweredSet(ctx context.Context, set lockSet) {
	b.committer.telling.RLock()
	defer b.committer.telling.RUnlock()
	first := set.requests[0]
	_ = b.viewNow(ctx, "look after a set that waits", func(tx *bbolt.Tx, now int64) error {
		r := b.repository(tx, first.Resource.Namespace, now)
		var locks []*enhanced.EnhancedLock
		for _, request := range set.requests {
			if r.waiterOf(request.ID) != nil {
				return nil
			}
			if f := r.inspect(request.Resource); f.status == held && f.record.Request == request.ID {
				locks = append(locks, f.lock())
			}
		}
		if len(locks) == len(set.requests) {
			b.turns.answerSet(nameOf(first), locks[0], locks, nil)
		} else {
			b.turns.answer(nameOf(first), nil, notWaitingError(first.Resource))
		}
		return nil
	}) // it is done again
}
