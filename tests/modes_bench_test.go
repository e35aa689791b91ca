package tests

import (
	"slices"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// BenchmarkModes is what a fleet of two adapters does while its mode is switched, from
// full to off and back: operations a second during the switch that slowed it most, and
// during all. A lock and its release are two operations.
func BenchmarkModes(b *testing.B) {
	for name, stores := range modeStores() {
		b.Run("stores="+name, func(b *testing.B) {
			if testing.Short() && name != "one file" {
				b.Skip("one walk is enough to see that it works")
			}
			f := stores(b)
			f.timeout = underLoad
			f.start(b, 2)
			load := newModeLoad(b, f, 1000)
			var rates []float64
			all, start := load.operations.Load(), time.Now()
			for b.Loop() {
				for _, mode := range []enhanced.Mode{
					enhanced.ModeRead, enhanced.ModeShadow, enhanced.ModeOff, enhanced.ModeShadow, enhanced.ModeRead, enhanced.ModeFull,
				} {
					before, start := load.operations.Load(), time.Now()
					f.set(b, mode)
					rates = append(rates, float64(load.operations.Load()-before)/time.Since(start).Seconds())
				}
			}
			b.ReportMetric(float64(load.operations.Load()-all)/time.Since(start).Seconds(), "operations/s")
			b.ReportMetric(slices.Min(rates), "least-operations/s")
			load.stop()
			require.NoError(b, load.err())
		})
	}
}
