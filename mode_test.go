package enhanced_test

import (
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParseMode(t *testing.T) {
	for _, mode := range enhanced.Modes() {
		parsed, err := enhanced.ParseMode(string(mode))
		require.NoError(t, err)
		assert.Equal(t, mode, parsed)
	}
	for _, text := range []string{"", "Full", "on"} {
		_, err := enhanced.ParseMode(text)
		require.ErrorIs(t, err, enhanced.ErrInvalidRequest, "%q", text)
		assert.ErrorContains(t, err, "want off, shadow, read or full")
	}
}

// in is an adapter that works by a mode.
func in(name string, mode enhanced.Mode, epoch int64) enhanced.FleetAdapter {
	return enhanced.FleetAdapter{Name: name, Instance: "1", Mode: mode, Epoch: epoch, Legacy: true}
}

func TestFleetNeedsEveryGrantThatAnAdapterMayDecideBy(t *testing.T) {
	both := enhanced.Deciders{Legacy: true, Store: true}
	legacy, store := enhanced.Deciders{Legacy: true}, enhanced.Deciders{Store: true}
	fleet := enhanced.NewFleet()
	assert.Equal(t, store, fleet.Deciders())
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	require.NoError(t, fleet.Switch(enhanced.ModeShadow, at, "user:ops", "trial"))
	fleet.Put(in("b", enhanced.ModeShadow, 1))
	fleet.Put(in("a", enhanced.ModeShadow, 1))
	assert.Equal(t, legacy, fleet.Deciders())
	assert.Empty(t, fleet.Behind())

	require.NoError(t, fleet.Switch(enhanced.ModeFull, at, "user:ops", ""))
	assert.Equal(t, both, fleet.Deciders(), "both adapters decide by the legacy database still")
	fleet.Put(in("a", enhanced.ModeFull, 2))
	assert.Equal(t, both, fleet.Deciders())
	require.Len(t, fleet.Behind(), 1)
	assert.Equal(t, "b", fleet.Behind()[0].Name)

	// Back, while one has followed and one has not.
	require.NoError(t, fleet.Switch(enhanced.ModeRead, at, "user:ops", "no"))
	assert.Equal(t, both, fleet.Deciders(), "a may decide by the store")
	fleet.Put(in("b", enhanced.ModeRead, 3))
	assert.Equal(t, both, fleet.Deciders())
	fleet.Put(in("a", enhanced.ModeRead, 3))
	assert.Equal(t, legacy, fleet.Deciders())

	require.NoError(t, fleet.Switch(enhanced.ModeFull, at, "user:ops", ""))
	fleet.Put(in("a", enhanced.ModeFull, 4))
	require.NoError(t, fleet.Forget("b"))
	assert.Equal(t, store, fleet.Deciders(), "b does not count any longer")
	err := fleet.Forget("b")
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
	assert.ErrorContains(t, err, `adapter "b": there is none with this name; there are a`)
}

func TestFleetSwitch(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	fleet := enhanced.NewFleet()
	require.NoError(t, fleet.Switch(enhanced.ModeFull, at, "user:ops", ""))
	assert.Equal(t, enhanced.NewFleet(), fleet, "the mode was set already")

	require.ErrorIs(t, fleet.Switch("auto", at, "user:ops", ""), enhanced.ErrInvalidRequest)
	alone := in("alone", enhanced.ModeFull, 0)
	alone.Legacy = false
	fleet.Put(alone)
	err := fleet.Switch(enhanced.ModeShadow, at, "user:ops", "")
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
	require.ErrorContains(t, err, `adapter "alone" has no legacy database`)
	assert.Zero(t, fleet.Epoch)
}
