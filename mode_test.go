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
	var fleet enhanced.Fleet
	assert.Equal(t, store, fleet.Deciders())
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	require.NoError(t, fleet.Switch(enhanced.ModeShadow, at, "user:ops", "trial"))
	assert.True(t, fleet.First())
	fleet.Join(in("b", enhanced.ModeShadow, 1))
	assert.Equal(t, both, fleet.Deciders(), "b has to follow first: the store may have decided before")
	fleet.Put(in("b", enhanced.ModeShadow, 1))
	assert.Equal(t, legacy, fleet.Deciders())
	assert.Empty(t, fleet.From)
	fleet.Join(in("a", enhanced.ModeShadow, 1))
	assert.Equal(t, legacy, fleet.Deciders(), "no switch is under way")
	assert.Empty(t, fleet.Behind())

	require.NoError(t, fleet.Switch(enhanced.ModeFull, at, "user:ops", ""))
	assert.False(t, fleet.First())
	assert.Equal(t, both, fleet.Deciders(), "both adapters decide by the legacy database still")
	fleet.Put(in("a", enhanced.ModeFull, 2))
	assert.Equal(t, both, fleet.Deciders())
	require.Len(t, fleet.Behind(), 1)
	assert.Equal(t, "b", fleet.Behind()[0].Name)
	fleet.Join(in("a", enhanced.ModeFull, 2))
	assert.Len(t, fleet.Behind(), 2, "a's earlier life may have done anything")

	// Back, while one has followed and one has not.
	fleet.Put(in("a", enhanced.ModeFull, 2))
	require.NoError(t, fleet.Switch(enhanced.ModeRead, at, "user:ops", "no"))
	assert.Equal(t, both, fleet.Deciders(), "a may decide by the store")
	fleet.Put(in("b", enhanced.ModeRead, 3))
	assert.Equal(t, both, fleet.Deciders())
	fleet.Put(in("a", enhanced.ModeRead, 3))
	assert.Equal(t, legacy, fleet.Deciders())

	// What is forgotten during a switch has decided by the old mode until then.
	require.NoError(t, fleet.Switch(enhanced.ModeFull, at, "user:ops", ""))
	fleet.Put(in("a", enhanced.ModeFull, 4))
	require.NoError(t, fleet.Forget("b"))
	assert.Equal(t, both, fleet.Deciders(), "a has to follow for what b has done")
	fleet.Put(in("a", enhanced.ModeFull, fleet.Epoch))
	assert.Equal(t, store, fleet.Deciders())
	err := fleet.Forget("b")
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
	assert.ErrorContains(t, err, `adapter "b": there is none with this name; there are a`)
}

func TestFleetSwitch(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var fleet enhanced.Fleet
	require.NoError(t, fleet.Switch(enhanced.ModeFull, at, "user:ops", ""))
	before := fleet
	require.NoError(t, fleet.Switch(enhanced.ModeFull, at, "user:ops", ""))
	assert.Equal(t, before, fleet, "the mode was set already")

	require.ErrorIs(t, fleet.Switch("auto", at, "user:ops", ""), enhanced.ErrInvalidRequest)
	alone := in("alone", enhanced.ModeFull, 1)
	alone.Legacy = false
	fleet.Put(alone)
	err := fleet.Switch(enhanced.ModeShadow, at, "user:ops", "")
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
	require.ErrorContains(t, err, `adapter "alone" has no legacy database`)
	assert.Equal(t, int64(1), fleet.Epoch)
}
