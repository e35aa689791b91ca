package tests

import (
	"context"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
)

// What is closed after an unclean end is closed while the legacy database answers,
// too: the record of its last owner stays there.
func TestFallbackKeepsWhatIsClosed(t *testing.T) {
	t.Parallel()
	s := newSite(t, redistest.Start(t, redistest.Options{}))
	s.config.UncleanReleaseDelay = time.Hour
	s.other = s.direct(t)
	adapter := s.ready(t)
	has := func(path string, number int) {
		t.Helper()
		backendtest.Eventually(t, "the legacy database follows", func() bool { return s.inLegacy(t, path) == number })
	}
	lease := s.takeElsewhere(t, 5, "lease", time.Hour)
	has("lease", 5)
	s.endLease(t, lease)
	s.takeElsewhere(t, 7, "later", enhanced.NoTimeout)
	has("later", 7) // and what was before
	require.Equal(t, 5, s.inLegacy(t, "lease"))
	refused := func() {
		t.Helper()
		acquired, holder := tryFor(t, adapter, 6, "lease")
		require.False(t, acquired)
		require.Equal(t, 5, holder.Pull.Num)
		require.Equal(t, 5, s.inLegacy(t, "lease"))
	}
	refused()
	s.cut()
	refused()
	require.Equal(t, enhanced.FallbackOpen, adapter.Fallback().State)
	s.heal(t, adapter)
	require.Empty(t, s.inStore(t, "lease"), "it has not come back to life")
	_, err := s.other.Release(t.Context(), enhanced.ReleaseRequest{Resource: fallbackResource("lease"), Force: true, Actor: "user:bob"})
	require.NoError(t, err)
	has("lease", 0)
}

// What the store keeps for the owner of a lease that has ended goes to whom the legacy
// database has granted it before. If its owner has taken it back by then, and was told
// so, it stays his.
func TestFallbackFreesNoLockForAReservation(t *testing.T) {
	t.Parallel()
	for name, taken := range map[string]bool{"kept": false, "taken back": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, redistest.Start(t, redistest.Options{}))
			s.config.UncleanReleaseDelay = time.Hour
			s.other = s.direct(t)
			s.endLease(t, s.takeElsewhere(t, 5, "x", time.Hour))
			take(t, s.legacy, lockOf(fallbackRepo, 6, "x"))
			backend := s.heldUp(t)
			lock := lockOf(fallbackRepo, 5, "x")
			request := &enhanced.EnhancedLockRequest{Project: lock.Project, Workspace: lock.Workspace, Pull: &lock.Pull, Timeout: time.Hour}
			hook := func(ctx context.Context) error {
				if !taken {
					return nil
				}
				_, _, err := s.other.TryAcquireLock(ctx, request)
				return err
			}
			backend.release.Store(&hook)
			adapter := s.startOn(t, backend, s.legacy)
			take(t, adapter, lockOf("org/warm", 1, "."))
			want := pullText(6)
			if taken {
				want = pullText(5)
			}
			require.Equal(t, want, s.inStore(t, "x"))
		})
	}
}
