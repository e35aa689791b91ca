package backends_test

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/events/command"
	"github.com/stretchr/testify/require"
)

// planner is an adapter with the queue on, over a store of its own.
type planner struct {
	*enhanced.LockingAdapter
	b verifiedBackend
}

// planConfig is the configuration of planners.
func planConfig() *enhanced.EnhancedConfig {
	config := queueOn()
	config.Enabled = true
	return config
}

func newPlanner(b verifiedBackend) *planner {
	config := planConfig()
	return &planner{enhanced.NewLockingAdapter(enhanced.NewEnhancedLockManager(b, config, nil), b, config, nil, nil), b}
}

// stop ends the process of a planner.
func (p *planner) stop(t *testing.T) {
	t.Helper()
	closer, ok := p.b.(io.Closer)
	require.True(t, ok)
	require.NoError(t, closer.Close())
}

func (p *planner) try(t *testing.T, number int, path string) bool {
	t.Helper()
	acquired, _, err := p.TryLock(stockLock("org/app", number, path))
	require.NoError(t, err)
	return acquired
}

func (p *planner) giveBack(t *testing.T, number int, path string) {
	t.Helper()
	lock, err := p.UnlockIfOwnedByPull(stockLock("org/app", number, path).Project, "default", number)
	require.NoError(t, err)
	require.NotNil(t, lock)
}

// holder is who has a resource, "" for nobody, after what is due is done.
func (p *planner) holder(t *testing.T, path string) string {
	t.Helper()
	_, err := p.b.CleanupExpiredLocks(t.Context())
	require.NoError(t, err)
	lock, err := p.b.LookupLock(t.Context(), by("org/app", path, "").Resource)
	if err != nil {
		require.ErrorIs(t, err, enhanced.ErrLockNotFound)
		return ""
	}
	return lock.Owner
}

func (p *planner) requireSound(t *testing.T) {
	t.Helper()
	violations, err := p.b.Verify(t.Context())
	require.NoError(t, err)
	require.Empty(t, violations)
}

func ownerOf(number int) string {
	return enhanced.ProjectLockOwner(stockLock("org/app", number, ".")).String()
}

// testLastTry lets time pass. A run that has not asked for 30 seconds wants no more
// of what it gave back.
func testLastTry(t *testing.T, p *planner, pass func(time.Duration)) {
	t.Helper()
	paths := []string{"one", "two", "three"}
	for _, path := range paths {
		require.True(t, p.try(t, 5, path))
		require.False(t, p.try(t, 6, path))
	}
	for _, path := range paths {
		p.giveBack(t, 5, path)
	}
	pass(50 * time.Minute) // it clones a large repository
	require.Empty(t, p.holder(t, "one"))
	require.True(t, p.try(t, 5, "one"))
	pass(20 * time.Second)
	require.Empty(t, p.holder(t, "two"))
	require.True(t, p.try(t, 5, "two"), "its last request was 20 s before")
	pass(20 * time.Second)
	require.Empty(t, p.holder(t, "three"))
	wait, found, err := p.b.NextDeadline(t.Context())
	require.NoError(t, err)
	require.True(t, found)
	require.InDelta(t, 10, wait.Seconds(), 8)
	pass(10 * time.Second)
	require.True(t, p.try(t, 5, "other"), "asking late revives nothing")
	require.Equal(t, ownerOf(6), p.holder(t, "three"))
	require.Equal(t, ownerOf(5), p.holder(t, "one"))
	p.requireSound(t)
}

// testRestart restarts the process. Places, claims, reservations and tombstones
// have none, and outlive it.
func testRestart(t *testing.T, p *planner, restart func(*planner) *planner) {
	t.Helper()
	require.True(t, p.try(t, 5, "."))
	require.False(t, p.try(t, 6, "."))
	require.False(t, p.try(t, 7, "."))
	require.True(t, p.try(t, 5, "kept"))
	require.False(t, p.try(t, 6, "kept"))
	p.giveBack(t, 5, "kept")
	require.NoError(t, p.DeletePullStatus(stockLock("org/app", 9, ".").Pull))

	p = restart(p)
	require.Equal(t, 3, waiting(t, p.b))
	require.False(t, p.try(t, 6, "kept"))
	_, _, err := p.TryLock(stockLock("org/app", 9, "."))
	require.ErrorIs(t, err, enhanced.ErrPermissionDenied)
	_, err = p.Unlock(stockLock("org/app", 5, ".").Project, "default")
	require.NoError(t, err)

	p = restart(p)
	require.Equal(t, ownerOf(6), p.holder(t, "."))
	require.False(t, p.try(t, 7, "."))
	require.True(t, p.try(t, 6, "."), "it claims what it got before")
	_, err = p.UpdatePullWithResults(stockLock("org/app", 5, ".").Pull, []command.ProjectResult{})
	require.NoError(t, err)
	require.Equal(t, ownerOf(6), p.holder(t, "kept"))
	p.requireSound(t)
}

// plan leaves a record of each kind: pull request 5 holds held and other, has
// reserved kept, 6 has not claimed claim, 8 and 9 were closed.
func (p *planner) plan(t *testing.T) {
	t.Helper()
	for _, path := range []string{"kept", "claim", "held"} {
		require.True(t, p.try(t, 5, path))
	}
	require.False(t, p.try(t, 6, "kept"))
	require.False(t, p.try(t, 6, "claim"))
	p.giveBack(t, 5, "kept")
	require.True(t, p.try(t, 5, "other")) // leaves the time of the last try
	_, err := p.Unlock(stockLock("org/app", 5, "claim").Project, "default")
	require.NoError(t, err)
	_, err = p.UnlockByPull("org/app", 8)
	require.NoError(t, err)
	require.NoError(t, p.DeletePullStatus(stockLock("org/app", 9, ".").Pull))
	p.requireSound(t)
}

// recorded is what a planner's log says, but for times, tokens and IDs.
func (p *planner) recorded(t *testing.T) (lines []string) {
	t.Helper()
	page, err := p.b.ReadLog(t.Context(), "org/app", 0, 1000)
	require.NoError(t, err)
	summary := func(s *enhanced.LockSummary) string {
		if s == nil {
			return "-"
		}
		return fmt.Sprint(s.Owner, " ", s.ExpiresAt != nil)
	}
	requests := make(map[string]int) // in the order in which they came
	for _, r := range page.Records {
		if _, known := requests[r.RequestID]; !known {
			requests[r.RequestID] = len(requests)
		}
		lines = append(lines, fmt.Sprintf("%s %s actor %s cause %s reason %q waiter %q request %d lock %t before %s after %s", r.Type, r.Resource.Path,
			r.Actor, r.Cause, r.Reason, r.Waiter, requests[r.RequestID], r.LockID != "", summary(r.Before), summary(r.After)))
	}
	return lines
}

// Both stores have the same log of the same commands.
func TestRunsAreLoggedAlike(t *testing.T) {
	t.Parallel()
	onBolt, _ := boltPlanner(t, filepath.Join(t.TempDir(), "atlantis.db"))
	onRedis := newPlanner(openRedis(t, redistest.Start(t, redistest.Options{}).Client(), planConfig()))
	var logs [2][]string
	for i, p := range []*planner{onBolt, onRedis} {
		p.plan(t)
		require.True(t, p.try(t, 6, "claim"))
		require.True(t, p.try(t, 5, "kept"))
		p.giveBack(t, 5, "kept")
		_, err := p.UpdatePullWithResults(stockLock("org/app", 5, ".").Pull, []command.ProjectResult{})
		require.NoError(t, err)
		p.giveBack(t, 6, "kept")
		require.False(t, p.try(t, 7, "kept"))
		_, err = p.Unlock(stockLock("org/app", 6, "kept").Project, "default")
		require.NoError(t, err)
		require.False(t, p.try(t, 6, "held"))
		require.False(t, p.try(t, 7, "held"))
		_, err = p.UnlockByPull("org/app", 6)
		require.NoError(t, err)
		require.NoError(t, p.DeletePullStatus(stockLock("org/app", 6, ".").Pull))
		_, err = p.UnlockByPull("org/app", 5)
		require.NoError(t, err)
		lock, err := p.b.LookupLock(t.Context(), by("org/app", "held", "").Resource)
		require.NoError(t, err)
		require.NoError(t, p.b.TransferLock(t.Context(), lock.ID, ownerOf(8)))
		p.requireSound(t)
		logs[i] = p.recorded(t)
	}
	require.Equal(t, logs[0], logs[1])
	for _, event := range []string{
		enhanced.EventQueued, enhanced.EventGranted, enhanced.EventClaimed, enhanced.EventReserved, enhanced.EventReservationEnded,
		enhanced.EventCancelled, enhanced.EventTransferred,
	} {
		require.Contains(t, strings.Join(logs[0], "\n"), event)
	}
}

// requireRepaired checks that a damage breaks none but rules, and is repaired.
func (p *planner) requireRepaired(t *testing.T, rules []string) {
	t.Helper()
	violations, err := p.b.Verify(t.Context())
	require.NoError(t, err)
	var broken []string
	for _, v := range violations {
		broken = append(broken, v.Rule)
		require.NotEmpty(t, v.Repair, v.Detail)
	}
	require.Subset(t, rules, broken)
	require.NotEmpty(t, broken)
	_, err = p.b.Repair(t.Context(), "user:admin", "test")
	require.NoError(t, err)
	p.requireSound(t)
	require.Equal(t, ownerOf(5), p.holder(t, "held"))
}
