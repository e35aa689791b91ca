package timeout

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestWheelAgainstSortedList compares the wheel with the simplest thing that
// does the same.
func TestWheelAgainstSortedList(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var w wheel
		w.now = rapid.Uint64Range(0, 1<<50).Draw(t, "now")
		var model []*Timer
		distance := rapid.Custom(func(t *rapid.T) uint64 {
			return 1 + rapid.Uint64().Draw(t, "bits")>>rapid.IntRange(14, 63).Draw(t, "shift")
		})
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				timer := &Timer{due: w.now + distance.Draw(t, "distance")}
				w.put(timer)
				model = append(model, timer)
			},
			"remove": func(t *rapid.T) {
				if len(model) == 0 {
					t.Skip("empty")
				}
				i := rapid.IntRange(0, len(model)-1).Draw(t, "index")
				w.remove(model[i])
				model = slices.Delete(model, i, i+1)
			},
			"advance": func(t *rapid.T) {
				to := w.now + distance.Draw(t, "distance")
				var want []*Timer
				model = slices.DeleteFunc(model, func(timer *Timer) bool {
					if timer.due <= to {
						want = append(want, timer)
					}
					return timer.due <= to
				})
				var got []*Timer
				w.advance(to, func(timer *Timer) { got = append(got, timer) })
				require.ElementsMatch(t, want, got)
				require.True(t, slices.IsSortedFunc(got, func(a, b *Timer) int { return int(a.due>>1) - int(b.due>>1) }))
				require.Equal(t, to, w.now)
			},
			"": func(t *rapid.T) {
				require.Equal(t, len(model), w.size)
				wake, any := w.wake()
				require.Equal(t, len(model) > 0, any)
				for _, timer := range model {
					require.LessOrEqual(t, wake, timer.due)
				}
				if any {
					require.Greater(t, wake, w.now)
				}
			},
		})
	})
}
