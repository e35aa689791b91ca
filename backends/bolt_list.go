package backends

import (
	"cmp"
	"context"
	"runtime"
	"slices"
	"strings"
	"sync"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"go.etcd.io/bbolt"
)

// ListLocks returns all held locks. See [enhanced.Backend].
func (b *BoltBackend) ListLocks(ctx context.Context) ([]*enhanced.EnhancedLock, error) {
	stock, err := b.reconcile(ctx, "")
	if err != nil {
		return nil, err
	}
	l := lister{problems: slices.Clone(stock.unreadable), slots: make(chan struct{}, runtime.GOMAXPROCS(0))}
	err = b.viewNow(ctx, "list locks", func(tx *bbolt.Tx, now int64) error {
		// What is judged points into the transaction.
		defer l.done.Wait()
		eachRepository(tx, now, func(r *repository) {
			r.locks(func(resource enhanced.ResourceIdentifier, data []byte, err error) {
				if err != nil {
					l.problem(err.Error())
					return
				}
				l.add(r.entry(resource, data))
			})
		})
		l.flush()
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, problem := range l.problems {
		b.logger.Err("%s can't be read; it counts as held", problem)
	}
	slices.SortFunc(l.locks, byResource)
	return l.locks, nil
}

func byResource(x, y *enhanced.EnhancedLock) int {
	return cmp.Or(
		strings.Compare(x.Resource.Namespace, y.Resource.Namespace),
		strings.Compare(x.Resource.Path, y.Resource.Path),
		strings.Compare(x.Resource.Workspace, y.Resource.Workspace),
		strings.Compare(x.Resource.Name, y.Resource.Name),
		strings.Compare(string(x.Resource.Type), string(y.Resource.Type)),
	)
}

// listPage is how many records are judged at a time: enough to be worth a
// goroutine.
const listPage = 1024

// lister judges records on all processors while they are being walked over:
// nearly all the time of a long list goes into decoding.
type lister struct {
	page  []entry
	slots chan struct{} // one for each processor
	done  sync.WaitGroup

	mu       sync.Mutex // protects all below
	locks    []*enhanced.EnhancedLock
	problems []string
}

func (l *lister) add(e entry) {
	if l.page == nil {
		l.page = make([]entry, 0, listPage)
	}
	if l.page = append(l.page, e); len(l.page) == listPage {
		l.flush()
	}
}

// flush has the page judged.
func (l *lister) flush() {
	page := l.page
	l.page = nil
	l.slots <- struct{}{}
	l.done.Go(func() {
		defer func() { <-l.slots }()
		locks := make([]*enhanced.EnhancedLock, 0, len(page))
		for _, e := range page {
			switch f := e.judge(); f.status {
			case held:
				locks = append(locks, f.lock())
			case unreadable:
				l.problem(f.name)
			default:
			}
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.locks = append(l.locks, locks...)
	})
}

func (l *lister) problem(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.problems = append(l.problems, text)
}
