package tests

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/tests/history"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

// repositories is how many a ledger's workers lock in, so that every shard of a
// cluster has some.
const repositories = 6

// ledger is what workers were told. They take the same locks in the same order
// and release few, so that each other acknowledged grant must be there at the
// end.
type ledger struct {
	recorder *history.Recorder

	mu sync.Mutex // protects all below
	// granted are the acknowledged grants, by path; asked those who may have
	// the lock without having heard of it.
	granted map[string][]ledgerGrant
	asked   map[string]map[string]bool
	refused map[string]bool
	unknown int
	// latest is the time of the latest grant of each worker and repository.
	latest map[ledgerPlace]time.Time
	// last are the errors since then.
	last map[ledgerPlace]error
	// pause is the longest time between two of them since the fault.
	fault time.Time
	pause time.Duration
}

type ledgerGrant struct {
	owner string
	token int64
	// released is set when the release was acknowledged, and unsure when it may
	// have been done.
	released, unsure bool
}

type ledgerPlace struct {
	worker, repository int
}

func ledgerResource(number int) enhanced.ResourceIdentifier {
	repository := "org/app" + strconv.Itoa(number%repositories)
	return enhanced.ProjectResource(models.NewProject(repository, "p"+strconv.Itoa(number), ""), "default")
}

// callTime bounds a worker's call, and pace is how often it makes one.
const (
	callTime = 500 * time.Millisecond
	pace     = 2 * time.Millisecond
)

// work takes locks through a backend until ctx ends.
func (l *ledger) work(ctx context.Context, worker int, b enhanced.Backend) {
	owner, client := "worker"+strconv.Itoa(worker), l.recorder.Client(b)
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for number := 0; ; number++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		request := &enhanced.EnhancedLockRequest{
			ID: owner + "-" + strconv.Itoa(number), Resource: ledgerResource(number), User: models.User{Username: owner},
			Timeout: enhanced.NoTimeout,
		}
		lock, acquired, err := l.try(ctx, client, request)
		l.enter(worker, number, lock, acquired, err)
		if errors.Is(err, enhanced.ErrOutcomeUnknown) {
			// The same request again gets what it got, if it got anything.
			lock, acquired, err = l.try(ctx, client, request)
			l.enter(worker, number, lock, acquired, err)
		}
		if acquired && number%5 == 0 {
			call, cancel := context.WithTimeout(ctx, callTime)
			err := client.Release(call, lock)
			cancel()
			l.releases(number, lock.Version, err)
		}
	}
}

func (l *ledger) try(ctx context.Context, client *history.Client, request *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, bool, error) {
	call, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	return client.Acquire(call, request)
}

// judge holds what was acknowledged against what a lock can do. A refusal may
// come from a primary that has been replaced without knowing it, and says
// nothing.
func (l *ledger) judge(t *testing.T) {
	t.Helper()
	h := l.recorder.History()
	for i := range h.Operations {
		if op := &h.Operations[i]; op.Answer != history.Done && op.Answer != history.Unknown {
			op.Answer, op.Lock = history.Nothing, nil
		}
	}
	h.Keep(t, h.Judge())
}

// releases enters what a worker was told of a release.
func (l *ledger) releases(number int, token int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	grants := l.granted["p"+strconv.Itoa(number)]
	for i := range grants {
		if grants[i].token == token {
			grants[i].released, grants[i].unsure = err == nil, err != nil
		}
	}
}

func (l *ledger) enter(worker, number int, lock *enhanced.EnhancedLock, acquired bool, err error) {
	owner, path := "user:worker"+strconv.Itoa(worker), "p"+strconv.Itoa(number)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case acquired:
		l.granted[path] = append(l.granted[path], ledgerGrant{owner: owner, token: lock.Version})
	case errors.Is(err, enhanced.ErrOutcomeUnknown):
		l.unknown++
		if l.asked[path] == nil {
			l.asked[path] = make(map[string]bool)
		}
		l.asked[path][owner] = true
	case err == nil:
		l.refused[path] = true
	}
	place, now := ledgerPlace{worker, number % repositories}, time.Now()
	if l.last[place] = err; err != nil {
		return
	}
	// An answer, whoever has the lock, is service.
	if since := l.latest[place]; !l.fault.IsZero() && now.After(l.fault) {
		if since.Before(l.fault) {
			since = l.fault
		}
		l.pause = max(l.pause, now.Sub(since))
	}
	l.latest[place] = now
}

// breaks notes the time of the fault.
func (l *ledger) breaks() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault = time.Now()
}

// served reports whether workers 0 to n-1 have all had an answer about every
// repository since a time.
func (l *ledger) served(n int, since time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for worker := range n {
		for repository := range repositories {
			if l.latest[ledgerPlace{worker, repository}].Before(since) {
				return false
			}
		}
	}
	return true
}

// servedIn reports whether a worker has ever had an answer about a repository.
func (l *ledger) servedIn(worker, repository int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.latest[ledgerPlace{worker, repository}].IsZero()
}

// unserved says who has had no answer since a time, and what they got instead.
func (l *ledger) unserved(n int, since time.Time) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var lines strings.Builder
	for worker := range n {
		for repository := range repositories {
			place := ledgerPlace{worker, repository}
			if at := l.latest[place]; at.Before(since) {
				fmt.Fprintf(&lines, "worker %d, repository %d: served last at %s, then %v\n", worker, repository, at.Format(time.TimeOnly), l.last[place])
			}
		}
	}
	return lines.String()
}

// losses is what a ledger and the store it was written on differ in.
type losses struct {
	grants, contended, unknown int
	// lost were acknowledged and are not there; back are locks whose release was
	// acknowledged and that are there; twice were acknowledged to two.
	lost, back, twice int
	pause             time.Duration
}

func (l losses) String() string {
	return fmt.Sprintf("%d grants, %d contended, %d unknown outcomes; %d acknowledged grants lost, %d released locks back, %d locks acknowledged to two; longest pause %v",
		l.grants, l.contended, l.unknown, l.lost, l.back, l.twice, l.pause.Round(time.Millisecond))
}

// compare holds the ledger against a store. A grant may only be lost if the
// server has lost it: where the store's log has it, nothing excuses its loss.
func (l *ledger) compare(t *testing.T, b *backends.RedisBackend) losses {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	violations, err := b.Verify(ctx)
	require.NoError(t, err)
	require.Empty(t, violations)
	locks, err := b.ListLocks(ctx)
	require.NoError(t, err)
	held := make(map[string]*enhanced.EnhancedLock, len(locks))
	for _, lock := range locks {
		held[lock.Resource.Path] = lock
	}
	// After a failover two grants can have one token, so that alone names none.
	logged := make(map[string]bool)
	for i := range repositories {
		name := "org/app" + strconv.Itoa(i)
		page, err := b.ReadLog(ctx, name, 0, 1_000_000)
		require.NoError(t, err)
		for _, r := range page.Records {
			logged[fmt.Sprint(r.Resource.Path, r.Token)] = true
		}
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	sum := losses{unknown: l.unknown, pause: l.pause}
	for path, grants := range l.granted {
		sum.grants += len(grants)
		if l.refused[path] {
			sum.contended++
		}
		owners := make(map[string]bool)
		for _, g := range grants {
			lock := held[path]
			if g.released || g.unsure {
				if g.released && lock != nil && lock.Version == g.token {
					sum.back++
				}
				continue
			}
			owners[g.owner] = true
			if lock != nil && lock.Version == g.token {
				require.Equal(t, g.owner, lock.Owner)
				continue
			}
			sum.lost++
			require.False(t, logged[fmt.Sprint(path, g.token)], "grant %d of %s is in the log, and the lock is gone", g.token, path)
		}
		if len(owners) > 1 {
			sum.twice++
		}
	}
	for path, lock := range held {
		known := l.asked[path][lock.Owner]
		for _, g := range l.granted[path] {
			known = known || g.owner == lock.Owner
		}
		require.True(t, known, "%s is held by %s, who never asked", path, lock.Owner)
	}
	return sum
}
