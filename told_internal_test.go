package enhanced

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// What is remembered of grants is bounded, and the latest ones are.
func TestToldGrantsAreBounded(t *testing.T) {
	t.Parallel()
	var told toldGrants
	for i := range 3 * toldMemory {
		require.True(t, told.first(EventGranted, strconv.Itoa(i)))
	}
	require.Len(t, told.byID, toldMemory)
	require.Len(t, told.recent, toldMemory)
	for i := 2 * toldMemory; i < 3*toldMemory; i++ {
		require.False(t, told.first(EventAcquired, strconv.Itoa(i)), i)
	}
	require.True(t, told.first(EventAcquired, "0"), "the oldest is forgotten")
}

// Each order in which a call and the store's log can tell of one grant.
func TestEachGrantIsToldOnce(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ events, told []string }{
		{[]string{EventAcquired, EventGranted}, []string{EventAcquired}},
		{[]string{EventGranted, EventAcquired}, []string{EventGranted}},
		{[]string{EventGranted, EventGranted}, []string{EventGranted}},
		{[]string{EventGranted, EventClaimed, EventClaimed}, []string{EventGranted, EventClaimed}},
		{[]string{EventClaimed, EventGranted, EventClaimed}, []string{EventClaimed}},
		{[]string{EventAcquired, EventClaimed}, []string{EventAcquired}},
		{[]string{EventReserved, EventReserved}, []string{EventReserved, EventReserved}},
	} {
		var told toldGrants
		var events []string
		for _, event := range c.events {
			if told.first(event, "id") {
				events = append(events, event)
			}
		}
		require.Equal(t, c.told, events)
	}
}
