package backendtest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// testFleet checks the record of the mode of all adapters.
func testFleet(t *testing.T, newBackend NewBackend) {
	t.Helper()
	backend := newBackend(t, nil)
	store, ok := backend.(enhanced.FleetStore)
	require.True(t, ok, "%T keeps no mode", backend)
	ctx := t.Context()

	fleet, err := store.ReadFleet(ctx)
	require.NoError(t, err)
	assert.Equal(t, enhanced.Fleet{}, fleet)
	_, err = store.ChangeFleet(ctx, func(f *enhanced.Fleet) error {
		return f.Switch(enhanced.ModeFull, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), "user:ops", "first")
	})
	require.NoError(t, err)

	// Many adapters come at once; none is lost.
	const adapters = 20
	errs := make([]error, adapters)
	Together(adapters, func(i int) {
		_, errs[i] = store.ChangeFleet(ctx, func(f *enhanced.Fleet) error {
			f.Put(enhanced.FleetAdapter{Name: fmt.Sprintf("atlantis-%02d", i), Instance: "1", Mode: f.Mode, Epoch: f.Epoch, Legacy: true})
			return nil
		})
	})
	require.NoError(t, errors.Join(errs...))
	fleet, err = store.ChangeFleet(ctx, func(f *enhanced.Fleet) error {
		return f.Switch(enhanced.ModeShadow, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), "user:ops", "trial")
	})
	require.NoError(t, err)
	require.Len(t, fleet.Adapters, adapters)
	assert.Equal(t, int64(2), fleet.Epoch)

	_, err = store.ChangeFleet(ctx, func(f *enhanced.Fleet) error {
		f.Adapters = nil
		return enhanced.NewInvalidError("no")
	})
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
	read, err := store.ReadFleet(ctx)
	require.NoError(t, err)
	assert.Equal(t, fleet, read, "the change was refused")

	RequireSound(t, backend)
}
