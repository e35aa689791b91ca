package enhanced

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What an adapter works by changes when the operations of before have ended; those that
// begin meanwhile do not wait for them.
func TestModeWorkChanges(t *testing.T) {
	t.Parallel()
	m := &member{}
	m.work.Store(&work{fleet: Fleet{Mode: ModeFull}})
	before := m.begin()
	changed := make(chan struct{})
	go func() {
		m.adopt(Fleet{Mode: ModeRead})
		close(changed)
	}()
	require.Eventually(t, func() bool { return m.work.Load().fleet.Mode == ModeRead }, 10*time.Second, time.Millisecond)
	begun := m.begin()
	require.Equal(t, ModeRead, begun.fleet.Mode)
	require.Equal(t, ModeFull, before.fleet.Mode)
	select {
	case <-changed:
		require.Fail(t, "an operation of before is under way")
	default:
	}
	before.under.RUnlock()
	<-changed // it waits for those of before only
	begun.under.RUnlock()
}

// While an adapter is paused, no operation begins, and nothing else changes.
func TestModeWorkPauses(t *testing.T) {
	t.Parallel()
	m := &member{}
	m.work.Store(&work{fleet: Fleet{Mode: ModeFull}})
	end := m.pause()
	require.False(t, m.work.Load().under.TryRLock())
	require.False(t, m.changing.TryLock())
	end()
	m.begin().under.RUnlock()
	m.adopt(Fleet{Mode: ModeRead})
}
