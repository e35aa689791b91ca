package tests

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

// frozen stands for a resource that waits for a person.
const frozen = -1

// truth is who can have each project, by what everybody has been told: the number
// of a pull request, 0 for nobody. After a call whose outcome nobody knows there
// are several.
type truth map[string][]int

func (h truth) is(path string, number ...int) { h[path] = number }

func (h truth) mayBe(path string, number int) {
	if !slices.Contains(h[path], number) {
		h[path] = append(h[path], number)
	}
}

func (h truth) can(path string, number int) bool { return slices.Contains(h[path], number) }

// life is one site through good and bad times.
type life struct {
	*site
	t       *testing.T
	random  *rand.Rand
	truth   truth
	adapter *enhanced.LockingAdapter
	crash   *crash
	away    bool
	// shaken are paths that others have changed where the legacy database could
	// not know: on them two can be told the same, which has to be found out.
	shaken map[string]bool
	story  []string
	// opened, crashed, conflicts and switched count what has happened.
	opened, crashed, conflicts, switched int
}

// Outages, locks, releases, leases that end elsewhere, another client of the store,
// crashes between two writes, restarts and times without the store follow each other
// at random. Nobody is
// told that it has what somebody else was told to have, and nothing is lost.
func TestFallbackAtRandom(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	seed := rand.Uint64()
	l := &life{
		site: newSite(t, server), t: t, random: rand.New(rand.NewPCG(seed, 0)), truth: truth{}, shaken: map[string]bool{}, //nolint:gosec // not for secrets
	}
	for i := range 6 {
		l.truth.is(fmt.Sprintf("p%d", i), 0)
	}
	defer func() {
		if t.Failed() {
			t.Logf("seed %d; what happened last:\n%s", seed, strings.Join(l.story[max(0, len(l.story)-60):], "\n"))
		}
	}()
	l.begin()
	rounds := 0
	for least := backendtest.Rounds(6000); rounds < least || rounds < 10*least && (l.opened == 0 || l.crashed == 0); rounds++ {
		before := l.adapter.Fallback().State
		l.step()
		if t.Failed() {
			return
		}
		if before != enhanced.FallbackOpen && l.adapter.Fallback().State == enhanced.FallbackOpen {
			l.opened++
		}
	}
	l.back()
	l.off()
	t.Logf("%d rounds: the fallback was opened %d times, %d processes have crashed, %d conflicts were frozen, the store was off %d times", rounds, l.opened, l.crashed, l.conflicts, l.switched)
	require.Positive(t, l.opened)
	require.Positive(t, l.crashed)
}

func (l *life) note(format string, args ...any) {
	l.story = append(l.story, fmt.Sprintf(format, args...))
}

// begin starts a process.
func (l *life) begin() {
	l.adapter, l.crash = l.mortal(l.t)
	l.note("a process starts")
}

func (l *life) end() {
	require.NoError(l.t, l.adapter.Close())
}

func (l *life) path() string { return fmt.Sprintf("p%d", l.random.IntN(len(l.truth))) }
func (l *life) number() int  { return 1 + l.random.IntN(4) }

func (l *life) step() {
	switch n := l.random.IntN(100); {
	case n < 35:
		l.try(l.number(), l.path())
	case n < 55:
		l.unlock(l.path())
	case n < 62:
		l.unlockIfOwned(l.number(), l.path())
	case n < 66:
		l.unlockByPull(l.number())
	case n < 84:
		switch path := l.path(); {
		case !l.away:
			l.others(path)
		case l.random.IntN(4) == 0:
			l.shaken[path] = true
			l.otherDoes(path)
		}
	case n < 87:
		l.end()
		l.begin()
	case n < 91:
		l.dies()
	case n < 95:
		if !l.away {
			l.goesAway()
		}
	case n < 97:
		l.off()
	default:
		if l.away {
			l.back()
		}
	}
}

// off switches the store off for a while, by a reload or a restart, when it has what the
// legacy database has, or that one decides already.
func (l *life) off() {
	if !l.away {
		l.back()
	} else if l.adapter.Fallback().State != enhanced.FallbackOpen {
		return
	}
	l.configure(switched(false))
	for range l.random.IntN(8) {
		switch l.random.IntN(4) {
		case 0, 1:
			l.try(l.number(), l.path())
		case 2:
			l.unlock(l.path())
		default:
			l.unlockByPull(l.number())
		}
	}
	l.configure(switched(true))
	if !l.away {
		l.back() // others in the store know nothing before
	}
	l.switched++
}

func (l *life) configure(config *enhanced.EnhancedConfig) {
	l.config = config
	if l.random.IntN(2) == 0 {
		l.end()
		l.begin()
	} else {
		require.NoError(l.t, l.adapter.UpdateConfiguration(config))
	}
	l.note("enabled: %v", config.Enabled)
}

// settledDown waits until the legacy database has what the store has.
func (l *life) settledDown() {
	agree := false
	defer func() {
		if !agree {
			for path := range l.truth {
				l.note("%s: %q in the store, %d in the legacy database", path, l.inStore(l.t, path), l.inLegacy(l.t, path))
			}
			l.note("the fallback: %+v", l.adapter.Fallback())
		}
	}()
	backendtest.Eventually(l.t, "both databases agree", func() bool {
		for path := range l.truth {
			want := 0
			if owner := l.inStore(l.t, path); owner != "" {
				want = numberOf(owner)
			}
			if l.inLegacy(l.t, path) != want {
				return false
			}
		}
		return true
	})
	agree = true
}

func numberOf(owner string) int {
	parsed, err := enhanced.ParseOwner(owner)
	if err != nil || parsed.Kind != enhanced.OwnerPull {
		return frozen
	}
	return parsed.Number
}

// goesAway cuts the store off, mostly when the legacy database has all of it.
func (l *life) goesAway() {
	if l.random.IntN(3) == 0 {
		path := l.path()
		l.shaken[path] = true
		l.otherDoes(path)
	}
	if l.random.IntN(4) == 0 {
		l.cut()
	} else {
		l.proxy.Break()
	}
	l.away = true
	l.note("the store is away")
}

// back lets the store come back, and looks whether all is there.
func (l *life) back() {
	l.proxy.Heal()
	l.away = false
	l.note("the store is back")
	backendtest.Eventually(l.t, "the fallback is ready", func() bool {
		_, _, err := l.adapter.TryLock(lockOf("org/warm", 1, ".")) // where a process has just started
		return err == nil && l.adapter.Fallback().State == enhanced.FallbackReady
	})
	require.Empty(l.t, l.adapter.Fallback().Unsettled)
	l.settledDown()
	for path := range l.truth {
		owner := l.inStore(l.t, path)
		number := 0
		if owner != "" {
			number = numberOf(owner)
		}
		if number == frozen {
			require.True(l.t, l.shaken[path], "%s is frozen: %s", path, owner)
			require.Contains(l.t, owner, "frozen")
			l.conflicts++
			_, err := l.adapter.Unlock(models.NewProject(fallbackRepo, path, ""), "default")
			require.NoError(l.t, err)
			number = 0
		} else if !l.shaken[path] {
			require.True(l.t, l.truth.can(path, number), "%s is held by %d, and can be by %v", path, number, l.truth[path])
		}
		l.truth.is(path, number)
	}
	clear(l.shaken)
}

// others is what another client of the store does, while the store is there.
func (l *life) others(path string) {
	if l.random.IntN(4) == 0 && l.truth.can(path, 0) && l.inStore(l.t, path) == "" {
		l.takeElsewhere(l.t, 7, path, 20*time.Millisecond)
		l.note("7 has %s elsewhere for a while", path)
		backendtest.Eventually(l.t, "the lease ends", func() bool {
			return l.inStore(l.t, path) == ""
		})
		// That is what a reader sees; the log has it once somebody has it written.
		_, err := l.other.CleanupExpiredLocks(l.t.Context())
		require.NoError(l.t, err)
		l.truth.is(path, 0)
	} else {
		l.otherDoes(path)
	}
	if l.adapter.Fallback().State == enhanced.FallbackReady {
		l.settledDown()
	}
}

func (l *life) otherDoes(path string) {
	t := l.t
	if l.random.IntN(2) == 0 {
		number := 5 + l.random.IntN(2)
		lock := lockOf(fallbackRepo, number, path)
		taken, acquired, err := l.other.TryAcquireLock(t.Context(), &enhanced.EnhancedLockRequest{
			Project: lock.Project, Workspace: lock.Workspace, User: lock.User, Pull: &lock.Pull, Timeout: enhanced.NoTimeout,
		})
		require.NoError(t, err)
		l.note("%d tries %s elsewhere: %v, %s has it", number, path, acquired, taken.Owner)
		if l.shaken[path] {
			l.truth.is(path, numberOf(taken.Owner))
			return
		}
		if acquired {
			require.True(t, l.truth.can(path, 0), "%s was free in the store, and can be held by %v", path, l.truth[path])
		} else {
			require.True(t, l.truth.can(path, numberOf(taken.Owner)), "%s is held by %s, and can be by %v", path, taken.Owner, l.truth[path])
		}
		l.truth.is(path, numberOf(taken.Owner))
		return
	}
	gone, err := l.other.Release(t.Context(), enhanced.ReleaseRequest{Resource: fallbackResource(path), Force: true, Actor: "user:bob"})
	l.note("bob frees %s elsewhere: %v", path, err)
	switch {
	case l.shaken[path]:
	case err != nil:
		require.ErrorIs(t, err, enhanced.ErrLockNotFound)
		require.True(t, l.truth.can(path, 0), "%s is free, and can be held by %v", path, l.truth[path])
	default:
		require.True(t, l.truth.can(path, numberOf(gone.Owner)), "%s was held by %s, and can be by %v", path, gone.Owner, l.truth[path])
	}
	l.truth.is(path, 0)
}

// dies has the process end at some point of one of its next calls.
func (l *life) dies() {
	points := []string{
		"before store lock", "after store lock", "before store unlock", "after store unlock", "before journal", "after journal",
		"before legacy lock", "after legacy lock", "before legacy unlock", "after legacy unlock", "after store read", "after legacy read",
		"after store transfer", "after journal end",
	}
	point := points[l.random.IntN(len(points))]
	l.crash.arm(point, l.random.IntN(2))
	l.note("the process will end %s", point)
	for range 8 {
		if l.random.IntN(3) > 0 {
			l.try(l.number(), l.path())
		} else {
			l.unlock(l.path())
		}
		if l.crash.isDead() {
			l.crashed++
			break
		}
	}
	l.end()
	l.begin()
}

// failed is what a call has come to that has no answer.
func (l *life) failed(path string, err error, could int) {
	l.truth.mayBe(path, could)
	if l.crash.isDead() {
		return
	}
	require.ErrorIs(l.t, err, enhanced.ErrBackend)
	require.ErrorContains(l.t, err, "fallback is closed")
}

func (l *life) try(number int, path string) {
	acquired, holder, err := l.adapter.TryLock(lockOf(fallbackRepo, number, path))
	l.note("%d tries %s: %v, %d has it, %v", number, path, acquired, holder.Pull.Num, err)
	switch {
	case err != nil:
		if l.truth.can(path, 0) {
			l.failed(path, err, number)
		} else {
			l.failed(path, err, l.truth[path][0])
		}
		return
	case l.shaken[path]:
	case acquired:
		require.True(l.t, l.truth.can(path, 0), "%d is told that it has %s, which can be held by %v", number, path, l.truth[path])
	default:
		require.True(l.t, l.truth.can(path, holder.Pull.Num), "%d has %s, which can be held by %v", holder.Pull.Num, path, l.truth[path])
	}
	l.truth.is(path, holder.Pull.Num)
}

func (l *life) unlock(path string) {
	gone, err := l.adapter.Unlock(models.NewProject(fallbackRepo, path, ""), "default")
	l.released(path, gone, err)
}

func (l *life) released(path string, gone *models.ProjectLock, err error) {
	number := 0
	if gone != nil {
		number = gone.Pull.Num
	}
	l.note("%s is freed: %d had it, %v", path, number, err)
	if err != nil {
		l.failed(path, err, 0)
		return
	}
	if !l.shaken[path] {
		require.True(l.t, l.truth.can(path, number), "%d had %s, which can be held by %v", number, path, l.truth[path])
	}
	l.truth.is(path, 0)
}

func (l *life) unlockIfOwned(number int, path string) {
	gone, err := l.adapter.UnlockIfOwnedByPull(models.NewProject(fallbackRepo, path, ""), "default", number)
	if gone != nil || err != nil {
		l.released(path, gone, err)
		return
	}
	l.note("%d does not have %s", number, path)
	if !l.shaken[path] {
		l.truth[path] = slices.DeleteFunc(l.truth[path], func(n int) bool { return n == number })
		require.NotEmpty(l.t, l.truth[path], "%d has lost %s", number, path)
	}
}

func (l *life) unlockByPull(number int) {
	released, err := l.adapter.UnlockByPull(fallbackRepo, number)
	l.note("%d frees all: %d, %v", number, len(released), err)
	freed := map[string]bool{}
	for _, lock := range released {
		freed[lock.Project.Path] = true
		if !l.shaken[lock.Project.Path] {
			require.True(l.t, l.truth.can(lock.Project.Path, number))
		}
		l.truth.is(lock.Project.Path, 0)
	}
	for path := range l.truth {
		switch {
		case freed[path] || l.shaken[path] || !l.truth.can(path, number):
		case err != nil:
			l.truth.mayBe(path, 0)
		default:
			l.truth[path] = slices.DeleteFunc(l.truth[path], func(n int) bool { return n == number })
			require.NotEmpty(l.t, l.truth[path], "%d has lost %s", number, path)
		}
	}
}
