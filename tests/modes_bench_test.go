package tests

import (
	"slices"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// BenchmarkModes is what a fleet of two adapters, each with 32 callers, does while its
// mode is switched, from full to off and back: operations a second during the switch that
// slowed it most, and during all. Beside them is what it does in off, where Atlantis' own
// database is all that is asked. A lock and its release are two operations.
func BenchmarkModes(b *testing.B) {
	for name, stores := range modeStores() {
		b.Run("stores="+name, func(b *testing.B) {
			if testing.Short() && name != "one file" {
				b.Skip("one walk is enough to see that it works")
			}
			f := stores(b)
			f.timeout = underLoad
			f.start(b, 2)
			load := newModeLoad(b, f, 64, 1000)
			var rates, off []float64
			rate := func(during func()) float64 {
				before, start := load.operations.Load(), time.Now()
				during()
				return float64(load.operations.Load()-before) / time.Since(start).Seconds()
			}
			all, start := load.operations.Load(), time.Now()
			for b.Loop() {
				for _, mode := range []enhanced.Mode{
					enhanced.ModeRead, enhanced.ModeShadow, enhanced.ModeOff, enhanced.ModeShadow, enhanced.ModeRead, enhanced.ModeFull,
				} {
					rates = append(rates, rate(func() { f.set(b, mode) }))
					if mode == enhanced.ModeOff {
						off = append(off, rate(func() { <-time.After(time.Second) }))
					}
				}
			}
			b.ReportMetric(float64(load.operations.Load()-all)/time.Since(start).Seconds(), "operations/s")
			b.ReportMetric(slices.Min(rates), "least-operations/s")
			b.ReportMetric(slices.Min(off), "least-off-operations/s")
			load.stop()
			require.NoError(b, load.err())
		})
	}
}
