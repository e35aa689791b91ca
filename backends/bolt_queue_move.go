package backends

import (
	"cmp"
	"context"
	"errors"
	"slices"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/queue"
)

// MoveRequest puts an owner's requests for a resource before all others. See
// [enhanced.RequestMover].
func (b *BoltBackend) MoveRequest(ctx context.Context, resource enhanced.ResourceIdentifier, owner, actor, reason string) error {
	resource, err := checkMove(resource, owner, reason)
	if err != nil {
		return err
	}
	_, err = decide(ctx, b.committer, "move a request for "+resource.String(), func(batch *batch) (struct{}, error) {
		s := b.repositoryStep(batch, resource.Namespace)
		if _, _, err := s.settle(resource); err != nil {
			return struct{}{}, err
		}
		waiters := s.waitersOf(owner, resource)
		if len(waiters) == 0 {
			return struct{}{}, enhanced.NewNotWaitingError(resource, owner)
		}
		// Each goes to the front, so the first one is the last to go.
		slices.SortFunc(waiters, func(x, y *waiter) int { return y.rank.Compare(x.rank) })
		c := change{actor: actor, cause: enhanced.CauseForced, reason: reason}
		var errs []error
		for _, w := range waiters {
			errs = append(errs, s.move(w, c))
		}
		return struct{}{}, errors.Join(errs...)
	})
	return err
}

// move puts a waiter before all others. The log counts up, so its sequence is
// the order of moves.
func (s *repositoryStep) move(w *waiter, c change) error {
	c.request, c.waiter = w.Request, w.Owner
	if err := errors.Join(s.removeWaiter(w), s.log(enhanced.EventMoved, w.resource, nil, nil, c)); err != nil {
		return err
	}
	w.rank = queue.Order{}.Moved(s.lastSequence())
	return s.putWaiter(w)
}

// isMoved reports whether a rank is that of a waiter that was moved.
func isMoved(rank queue.Rank) bool { return rank.Score < 0 }

// isMoveOf reports whether a move can have given a rank, where the log has come
// to a sequence. Waiters that were moved together have one score.
func isMoveOf(rank queue.Rank, last uint64) bool {
	number := uint64(queue.Order{}.Moved(0).Score - rank.Score) //nolint:gosec // checked by what follows
	return number >= 1 && number <= last && rank.Score == queue.Order{}.Moved(number).Score && rank.Sequence < maxMoves
}

// compareMoved says which of two waiters of different queues was moved.
func compareMoved(x, y *waiter) int { return cmp.Compare(btoi(isMoved(y.rank)), btoi(isMoved(x.rank))) }
