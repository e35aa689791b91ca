package enhanced

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// gatheredAfter has calls begin together and wait one after the other, a millisecond
// apart; the last ones end without. It returns how long each has waited.
func gatheredAfter(calls, ended int) []time.Duration {
	g := &gathering{coming: calls}
	waited := make([]time.Duration, calls-ended)
	done := make(chan struct{})
	for i := range waited {
		<-time.After(time.Millisecond)
		go func() {
			start := time.Now()
			(&gathered{of: g}).wait()
			waited[i] = time.Since(start)
			done <- struct{}{}
		}()
	}
	for range ended {
		<-time.After(time.Millisecond)
		call := &gathered{of: g}
		call.end()
		call.end() // counts once
	}
	for range waited {
		<-done
	}
	return waited
}

func TestGather(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	for name, test := range map[string]struct {
		calls, ended int
		waited       []time.Duration
	}{
		"alone":                  {1, 0, []time.Duration{0}},
		"half of those to come":  {4, 0, []time.Duration{ms, 0, 0, 0}},
		"others have come to it": {4, 3, []time.Duration{2 * ms}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { require.Equal(t, test.waited, gatheredAfter(test.calls, test.ended)) })
		})
	}
	t.Run("nobody comes", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			(&gathered{of: &gathering{coming: 3}}).wait()
			require.Equal(t, gatherAtMost, time.Since(start))
		})
	})
	t.Run("a store that has no file", func(t *testing.T) {
		t.Parallel()
		var none *gathered
		none.wait()
		none.end()
	})
}
