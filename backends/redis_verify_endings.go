package backends

import (
	"strconv"
	"strings"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// endingNumber reads the number of an entry of what to forget; false for what the
// scripts don't write, which take numbers of up to 15 digits.
func endingNumber(text string) (int64, bool) {
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil && n >= 0 && len(text) < 16 && strconv.FormatInt(n, 10) == text
}

// checkEndings checks the entries that say when to forget ended locks. Their numbers
// follow the last one that was forgotten, and end with the last lock that has ended:
// another one is never met, or is written over.
func (c *redisInspection) checkEndings() {
	forgotten := c.checkEndingCounts()
	c.timed = make(map[string]bool)
	for _, text := range sortedKeys(c.endings) {
		n, ok := endingNumber(text)
		at, token, _ := strings.Cut(c.endings[text], " ")
		_, isEnded := parseEnding(c.memory["i"+token])
		detail := "no ended lock has its token"
		switch {
		case !ok || n <= forgotten || n > c.ended:
			detail = "it is out of the order in which locks are forgotten"
		case isEnded:
			if c.timed[token] = true; c.isFarAhead(at) {
				c.report(enhanced.RuleForgetLate, "state", "e"+text, "it is of a time far ahead: what ended after it is not forgotten before").
					repairs("have it be of now", redisChange{"HSET", "state", "e" + text, strconv.FormatInt(c.now, 10) + " " + token})
			}
			continue
		}
		c.report(enhanced.RuleForgetStray, "state", "e"+text, "%s", detail).
			repairs("remove it", redisChange{"HDEL", "state", "e" + text, ""})
	}
}

// isFarAhead reports whether a text is no time, or one that is further ahead than a clock
// that was set right explains: that keeps endings no longer than twice their time.
func (c *redisInspection) isFarAhead(text string) bool {
	at, err := strconv.ParseInt(text, 10, 64)
	return err != nil || at <= 0 || at > c.now+memoryTime.Microseconds()
}

// checkEndingCounts checks the number of the last entry of what to forget, and of the
// last one that was forgotten, which it returns. Each is right where the entry is there
// that it leads to.
func (c *redisInspection) checkEndingCounts() (forgotten int64) {
	isThere := func(n int64) bool { return c.endings[strconv.FormatInt(n, 10)] != "" }
	c.ended, forgotten = c.endingCount("ended"), c.endingCount("forgotten")
	if c.ended < max(forgotten, 0) || c.ended != forgotten && !isThere(c.ended) || c.ended == 0 && len(c.endings) > 0 {
		last := max(forgotten, 0)
		for text := range c.endings {
			if n, ok := endingNumber(text); ok {
				last = max(last, n)
			}
		}
		c.ended = last
		c.countsEndings("ended", last)
	}
	if forgotten < 0 || forgotten > c.ended || forgotten != c.ended && !isThere(forgotten+1) {
		first := c.ended + 1
		for text := range c.endings {
			if n, ok := endingNumber(text); ok && n > 0 {
				first = min(first, n)
			}
		}
		forgotten = first - 1
		c.countsEndings("forgotten", forgotten)
	}
	return forgotten
}

// endingCount reads a count of endings; -1 for what is none.
func (c *redisInspection) endingCount(field string) int64 {
	text, known := c.meta[field]
	n, ok := endingNumber(text)
	switch {
	case !known:
		return 0
	case !ok:
		return -1
	}
	return n
}

// countsEndings reports that a count of endings is not what the entries say.
func (c *redisInspection) countsEndings(field string, n int64) {
	is := strconv.FormatInt(n, 10)
	c.report(enhanced.RuleForgetCount, "state", field, "it says %q, by the entries of what to forget it is %s", c.meta[field], is).
		repairs("set it to "+is, counts(field, is))
}

// times says when to forget a lock that has ended some time: as if it were now.
func (c *redisInspection) times(token string) []redisChange {
	c.ended++
	number := strconv.FormatInt(c.ended, 10)
	return []redisChange{
		{"HSET", "state", "e" + number, strconv.FormatInt(c.now, 10) + " " + token}, counts("ended", number),
	}
}
