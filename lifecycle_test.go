package enhanced_test

import (
	"context"
	"errors"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/stretchr/testify/require"
)

func TestLifecycleInAnyOrder(t *testing.T) {
	t.Parallel()
	const start, stop = "start", "stop"
	tests := map[string][]string{
		"never started":    {},
		"stop before":      {stop},
		"stop twice":       {stop, stop},
		"start and stop":   {start, stop},
		"start twice":      {start, start, stop},
		"stop after twice": {start, stop, stop},
		"restart":          {start, stop, start, stop, start, stop},
		"left running":     {stop, start}, // until the test's end stops it
	}
	for name, steps := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			manager := newManager(t, nil)
			for i, step := range steps {
				call := manager.Start
				if step == stop {
					call = manager.Stop
				}
				require.NoError(t, call(t.Context()))
				_, err := manager.Lock(t.Context(), project(itoa(i)), workspace, alice())
				require.NoError(t, err, "operations need neither")
			}
			_, err := manager.Lock(t.Context(), project("last"), workspace, alice())
			require.NoError(t, err)
			locks, err := manager.List(t.Context())
			require.NoError(t, err)
			require.Len(t, locks, len(steps)+1, "Start and Stop lose no locks")
		})
	}
}

func TestLifecycleStress(t *testing.T) {
	t.Parallel()
	manager := newManager(t, withEvents())
	manager.AddEventCallback(func(context.Context, *enhanced.ManagerEvent) {})
	const goroutines, rounds = 10, 50
	errs := make([]error, goroutines)
	backendtest.Together(goroutines, func(i int) {
		for n := range rounds {
			call := manager.Start
			if (i+n)%2 == 0 {
				call = manager.Stop
			}
			errs[i] = errors.Join(errs[i], call(t.Context()))
			if n%10 == 0 {
				_, err := manager.Lock(t.Context(), project(itoa(i)+"/"+itoa(n)), workspace, alice())
				errs[i] = errors.Join(errs[i], err)
			}
		}
	})
	require.NoError(t, errors.Join(errs...))
	require.NoError(t, manager.Stop(t.Context()))
	locks, err := manager.List(t.Context())
	require.NoError(t, err)
	require.Len(t, locks, goroutines*rounds/10)
}

func TestStartEndsWithItsContext(t *testing.T) {
	t.Parallel()
	manager := newManager(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	require.NoError(t, manager.Start(ctx))
	cancel()
	require.NoError(t, manager.Stop(t.Context()))
	require.NoError(t, manager.Start(t.Context()))
}

func TestStartOnAClosedBackend(t *testing.T) {
	t.Parallel()
	backend := newBackend(t, nil)
	manager := newManagerOn(t, backend, nil)
	require.NoError(t, backend.Close())
	err := manager.Start(t.Context())
	require.ErrorIs(t, err, enhanced.ErrBackend)
	require.ErrorIs(t, err, enhanced.ErrClosed)
	require.NoError(t, manager.Stop(t.Context()), "it is not started")
}

func TestBackendClosedUnderARunningManager(t *testing.T) {
	t.Parallel()
	backend := newBackend(t, nil)
	manager := newManagerOn(t, backend, nil)
	require.NoError(t, manager.Start(t.Context()))
	require.NoError(t, backend.Close())
	_, err := manager.Lock(t.Context(), project("a"), workspace, alice())
	require.ErrorIs(t, err, enhanced.ErrClosed)
	require.ErrorIs(t, manager.GetHealth(t.Context()), enhanced.ErrClosed)
	require.NoError(t, manager.Stop(t.Context()))
}
