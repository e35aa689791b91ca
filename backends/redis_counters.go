package backends

import "strings"

// countersField is the field of a state with all of its counters.
const countersField = "counters"

// counterNames are what its numbers are, in their order; see count in
// scripts/prelude.lua.
func counterNames() []string {
	return []string{
		"token", "sequence", "locks", "ended", "wake", "waiters", "gone", "kept", "closing", "sets", "twice", "forgotten", "trimmed",
	}
}

// parseCounters returns the counters of a state by their names, none where there are too
// few or too many. What each of them is has still to be looked at.
func parseCounters(text string) map[string]string {
	names, words := counterNames(), strings.Fields(text)
	if len(words) != len(names) {
		return nil
	}
	counters := make(map[string]string, len(names))
	for i, name := range names {
		counters[name] = words[i]
	}
	return counters
}

// counts is the change that sets a counter.
func counts(name, number string) redisChange { return redisChange{"COUNT", "state", name, number} }
