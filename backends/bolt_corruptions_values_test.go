package backends_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// valueCorruptions are entries that can be read and say what nothing has ever
// said.
func valueCorruptions() map[string]corruption {
	leased := func(s *sample) []*enhanced.EnhancedLock { return []*enhanced.EnhancedLock{s.leased} }
	plain := func(s *sample) []*enhanced.EnhancedLock { return []*enhanced.EnhancedLock{s.plain} }
	return map[string]corruption{
		"priority that there is not": {
			plant: func(e *editor) { e.edit(e.app(), lockEntry(e.leased), func(f map[string]any) { f["p"] = 99 }) },
			rules: []string{enhanced.RuleLockPriority}, left: []string{enhanced.RuleLockPriority}, touched: leased,
		},
		"priority below all": {
			plant: func(e *editor) { e.edit(e.app(), lockEntry(e.leased), func(f map[string]any) { f["p"] = -1 }) },
			rules: []string{enhanced.RuleLockPriority}, left: []string{enhanced.RuleLockPriority}, touched: leased,
		},
		"acquired in the future": {
			plant: func(e *editor) {
				for _, lock := range []*enhanced.EnhancedLock{e.plain, e.leased} {
					e.edit(e.app(), lockEntry(lock), func(f map[string]any) { f["a"] = time.Now().Add(30 * time.Minute).UnixMicro() })
				}
			},
			rules: []string{enhanced.RuleLockTime, enhanced.RuleLockTime}, rewritten: true,
		},
		"acquired in the future, when the lease ends": {
			plant: func(e *editor) {
				e.edit(e.app(), lockEntry(e.custom), func(f map[string]any) { f["a"] = e.custom.ExpiresAt.UnixMicro() })
			},
			rules: []string{enhanced.RuleLockTime}, rewritten: true,
		},
		"acquired when its lease had ended": {
			plant: func(e *editor) {
				ended := e.leased.AcquiredAt.Add(-time.Minute).UnixMicro()
				e.edit(e.app(), lockEntry(e.leased), func(f map[string]any) { f["a"], f["x"] = ended, ended })
				e.move(e.app(), deadlineEntry(e.leased), "d"+num(ended)+e.leased.Resource.Key())
				e.edit(e.app(), logEntry(1), func(f map[string]any) { f["z"].(map[string]any)["x"] = ended })
			},
			rules: []string{enhanced.RuleLockTime}, left: []string{enhanced.RuleLockTime}, touched: leased,
		},
		"acquired in the future, and the log does not say when": {
			plant: func(e *editor) {
				e.edit(e.app(), lockEntry(e.plain), func(f map[string]any) { f["a"] = int64(7258118400000000) })
				e.put(e.app(), "ycheckpoint", `{"sequence":"`+itoa(int64(e.app().Sequence()))+`","time":5}`)
				e.removePrefix(e.app(), "a")
			},
			rules: []string{enhanced.RuleLockTime}, left: []string{enhanced.RuleLockTime}, touched: plain,
		},
		"note that no request can have": {
			plant: func(e *editor) {
				e.edit(e.app(), lockEntry(e.frozen), func(f map[string]any) { f["m"].(map[string]any)["note"] = "a\x1b[2Jnote" })
				e.edit(e.app(), lockEntry(e.plain), func(f map[string]any) { f["m"] = map[string]any{"note": "\x00"} })
			},
			rules: []string{enhanced.RuleLockMetadata, enhanced.RuleLockMetadata}, rewritten: true,
		},
		"metadata that no request can have": {
			plant: func(e *editor) {
				e.edit(e.app(), lockEntry(e.frozen), func(f map[string]any) { f["m"].(map[string]any)[""] = "x" })
				e.edit(e.app(), lockEntry(e.plain), func(f map[string]any) { f["m"] = map[string]any{"a\n": "x"} })
				e.edit(e.app(), lockEntry(e.leased), func(f map[string]any) { f["m"] = map[string]any{"a": strings.Repeat("x", 4096)} })
			},
			rules: slices.Repeat([]string{enhanced.RuleLockMetadata}, 3), left: slices.Repeat([]string{enhanced.RuleLockMetadata}, 3),
			touched: func(s *sample) []*enhanced.EnhancedLock {
				return []*enhanced.EnhancedLock{s.frozen, s.plain, s.leased}
			},
		},
		"ending that is remembered for long": {
			plant: func(e *editor) {
				e.remember(e.released, time.Now().Add(time.Hour))
				e.remember(e.released, time.UnixMicro(-1))
			},
			rules: []string{enhanced.RuleForgetLate, enhanced.RuleForgetLate},
		},
		"closed in the future": {
			plant: func(e *editor) {
				e.put(e.app(), "cpr:github.com/org%2Fapp/5", num(time.Now().Add(time.Hour).UnixMicro()))
				e.put(e.app(), "cpr:github.com/org%2Fapp/6", num(0))
				e.put(e.app(), "cpr:github.com/org%2Fapp/7", num(-1))
			},
			rules: slices.Repeat([]string{enhanced.RuleClosing}, 3),
		},
	}
}

// What is close to the limits breaks no rule: a pull request that is being
// closed right now, or whose closing was given up, and an end of this moment.
func TestTimesThatHaveComeAreNoViolations(t *testing.T) {
	t.Parallel()
	sample := newSample(t)
	sample.plantIn(t, sample.path, func(e *editor) {
		e.put(e.app(), "cpr:github.com/org%2Fapp/5", num(time.Now().UnixMicro()))
		e.put(e.app(), "cpr:github.com/org%2Fapp/6", num(5))
		e.remember(e.released, time.Now().Add(10*time.Minute))
		e.edit(e.app(), lockEntry(e.leased), func(f map[string]any) {
			f["a"], f["p"] = e.leased.ExpiresAt.UnixMicro()-time.Hour.Microseconds(), 3
			f["m"] = map[string]any{"a": strings.Repeat("x", 4095)}
		})
	})
	require.Empty(t, verifyFile(t, sample.path))
}
