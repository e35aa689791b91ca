package backends

import (
	"bytes"
	"cmp"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/deadlock"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/queue"
)

// maxMoves bounds the waiters that one repair moves.
const maxMoves = 500

// boltWaits is what waits for what in a transaction, as the algorithms of package
// deadlock read it. Waiters that would be passed over are not there.
type boltWaits struct {
	*repository
	backend *BoltBackend
	// pending is a waiter that is to be put into its queue, nil for none.
	pending *waiter
	// reserved has reservations count as locks: who has one can take the lock back
	// without asking anybody.
	reserved bool
	// ranks are those of the waiters that were read.
	ranks map[deadlockPlace]queue.Rank
}

type deadlockPlace struct{ resource, request string }

func (b *BoltBackend) waits(r *repository) *boltWaits {
	return &boltWaits{repository: r, backend: b, ranks: make(map[deadlockPlace]queue.Rank)}
}

// Holder returns who holds a resource. A lock that would end if somebody asked
// for it is none.
func (b *boltWaits) Holder(resource string) (owner string, held bool) {
	r, err := enhanced.ParseGraphResource(resource)
	if err != nil {
		return "", false
	}
	return b.holderOf(b.in(r), r)
}

func (b *boltWaits) holderOf(in *repository, r enhanced.ResourceIdentifier) (owner string, isHeld bool) {
	switch f := in.inspect(r); f.status {
	case held, heldByStock, heldElsewhere:
		return f.owner().String(), true
	case reserved:
		return f.owner().String(), b.reserved
	default:
		return "", false
	}
}

// in returns the repository of a resource.
func (b *boltWaits) in(r enhanced.ResourceIdentifier) *repository {
	if r.Namespace == b.name {
		return b.repository
	}
	return b.sibling(r.Namespace)
}

// Waits returns up to limit of an owner's waiters in the repository.
func (b *boltWaits) Waits(ownerText string, limit int) (found []deadlock.Waiter) {
	owner, err := enhanced.ParseOwner(ownerText)
	if err != nil {
		return nil
	}
	if b.pending != nil && b.pending.Owner == ownerText {
		found = append(found, b.known(b.pending))
	}
	if b.bucket != nil {
		prefix := ownerKey(owner, "")
		prefix[0] = rangeWaits
		cursor := b.bucket.Cursor()
		for key, rank := cursor.Seek(prefix); bytes.HasPrefix(key, prefix) && len(found) < limit; key, rank = cursor.Next() {
			resourceKey, request, _ := bytes.Cut(key[len(prefix):], []byte{0})
			resource, err := enhanced.ParseResourceKey(b.name, string(resourceKey))
			if err != nil || len(rank) != rankSize {
				continue
			}
			at := parseRank(rank)
			if w := b.read(resource, at, b.get(queueKey(string(resourceKey), at))); w != nil && w.Request == string(request) {
				found = append(found, b.known(w))
			}
		}
	}
	// Those for one resource are in the order of its queue.
	slices.SortStableFunc(found, func(x, y deadlock.Waiter) int {
		return cmp.Or(cmp.Compare(x.Resource, y.Resource), b.rankOf(x).Compare(b.rankOf(y)))
	})
	return found
}

// Ahead returns the waiter directly before another one that this has returned.
func (b *boltWaits) Ahead(w deadlock.Waiter) (ahead deadlock.Waiter, found bool) {
	resource, err := enhanced.ParseGraphResource(w.Resource)
	if err != nil {
		return deadlock.Waiter{}, false
	}
	rank := b.rankOf(w)
	before := b.before(resource, rank)
	if p := b.pending; p != nil && p.resource == resource && p.rank.Compare(rank) < 0 && (before == nil || p.rank.Compare(before.rank) > 0) {
		before = p
	}
	if before == nil {
		return deadlock.Waiter{}, false
	}
	return b.known(before), true
}

// before returns the last waiter with a lower rank, nil for none.
func (b *boltWaits) before(resource enhanced.ResourceIdentifier, rank queue.Rank) *waiter {
	in := b.in(resource)
	if in.bucket == nil {
		return nil
	}
	prefix := queuePrefix(resource.Key())
	cursor := in.bucket.Cursor()
	if key, _ := cursor.Seek(appendRank(bytes.Clone(prefix), rank)); key == nil {
		return nil // the log is behind all queues
	}
	for key, value := cursor.Prev(); bytes.HasPrefix(key, prefix); key, value = cursor.Prev() {
		if len(key) != len(prefix)+rankSize {
			continue
		}
		if w := b.read(resource, parseRank(key[len(prefix):]), value); w != nil {
			return w
		}
	}
	return nil
}

// read returns a waiter, nil for one that would be passed over. It reads less of
// the record than who grants the lock: a walk reads many.
func (b *boltWaits) read(resource enhanced.ResourceIdentifier, rank queue.Rank, data []byte) *waiter {
	var record waiterRecord
	if err := json.Unmarshal(data, &record); err != nil || record.Request == "" || record.Owner == "" {
		return nil
	}
	in := b.in(resource)
	if !b.backend.isAlive(in.name, &record, b.now) || in.closing(record.Owner) {
		return nil
	}
	return &waiter{&record, resource, rank}
}

// known returns a waiter for the algorithms, and remembers where it stands.
func (b *boltWaits) known(w *waiter) deadlock.Waiter {
	resource := enhanced.FormatGraphResource(w.resource)
	b.ranks[deadlockPlace{resource, w.Request}] = w.rank
	return deadlock.Waiter{
		Owner: w.Owner, Resource: resource, Request: w.Request,
		Priority: int(w.Priority), Since: time.UnixMicro(w.Enqueued),
	}
}

func (b *boltWaits) rankOf(w deadlock.Waiter) queue.Rank {
	return b.ranks[deadlockPlace{w.Resource, w.Request}]
}

// deadlockFinding is a deadlock that was found because of a waiter.
type deadlockFinding struct {
	waiter *waiter
	report *enhanced.DeadlockReport
	by     change
}

// preventDeadlock looks whether a waiter would close a cycle. It returns the moves
// that prevent it, nil for none, which are to be done once the waiter is in its
// queue, and the DEADLOCK error, which is logged, where no moves do.
func (s *repositoryStep) preventDeadlock(w *waiter, f *finding) (*deadlockFinding, error) {
	config := s.backend.config.Load()
	if !config.DeadlockPrevention {
		return nil, nil
	}
	source := s.backend.waits(s.repository)
	source.pending, source.reserved = w, true
	walked := deadlock.Walk(source, source.known(w), config.DeadlockCheckLimit)
	switch walked.Outcome {
	case deadlock.OutcomeNone:
		return nil, nil
	case deadlock.OutcomeLimit:
		s.batch.after = append(s.batch.after, s.backend.recorder.Unchecked)
		return nil, nil
	default:
	}
	outcome, moves := enhanced.DeadlockRefused, movesOf(walked)
	if moves != nil {
		outcome = enhanced.DeadlockReordered
	}
	report, err := enhanced.NewDeadlockReport(outcome, "", walked.Cycle, moves)
	found := &deadlockFinding{w, report, change{actor: w.Owner, cause: enhanced.CauseRequest}}
	if err != nil || moves != nil {
		return found, err
	}
	if err := s.logDeadlock(found); err != nil {
		return nil, err
	}
	return nil, enhanced.NewDeadlockError(w.resource, w.Owner, report, f.lock())
}

func (s *repositoryStep) logDeadlock(found *deadlockFinding) error {
	c := found.by
	c.request, c.waiter, c.deadlock = found.waiter.Request, found.waiter.Owner, found.report
	return s.log(enhanced.EventDeadlock, found.waiter.resource, nil, nil, c)
}

// movesOf returns the moves that dissolve the cycle of a walk, nil for none.
func movesOf(walked *deadlock.Walked) []deadlock.Waiter {
	if walked.Cycle == nil || !walked.Complete {
		return nil
	}
	moves := walked.Graph.Reorder(walked.Cycle)
	if len(moves) > maxMoves {
		return nil
	}
	return moves
}

// moveTogether puts waiters before all others of their queues, the last one of a
// queue first. One record says so of all, and gives them their ranks.
func (s *repositoryStep) moveTogether(found *deadlockFinding) error {
	if found == nil {
		return nil
	}
	if err := s.logDeadlock(found); err != nil {
		return err
	}
	moves := found.report.Moved
	rank := queue.Order{}.Moved(s.lastSequence())
	for i, moved := range moves {
		in := s
		if moved.Resource.Namespace != s.name {
			in = s.backend.repositoryStep(s.batch, moved.Resource.Namespace)
		}
		w := in.waiterOf(moved.RequestID)
		if w == nil {
			continue // what leads to it is damaged, so it can't be moved
		}
		if err := in.removeWaiter(w); err != nil {
			return err
		}
		w.rank = rank
		w.rank.Sequence = uint64(len(moves) - 1 - i) //nolint:gosec // below maxMoves
		if err := in.putWaiter(w); err != nil {
			return err
		}
	}
	return nil
}
