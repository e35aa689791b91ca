package backends

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// parseEnding reads what is remembered of an ended lock; false for the entry of
// a held one, which is a resource's key.
func parseEnding(value string) (ending, bool) {
	lines := strings.Split(value, "\n")
	if len(lines) != 4 {
		return ending{}, false
	}
	return ending{How: lines[0], Resource: lines[1], Owner: lines[2], Request: lines[3]}, true
}

// checkMemory checks that lock IDs and requests lead to locks, held or ended.
func (c *redisInspection) checkMemory() {
	c.checkEndings()
	for _, field := range sortedKeys(c.memory) {
		remove := redisChange{"HDEL", "state", field, ""}
		name, value := field[1:], c.memory[field]
		switch field[0] {
		case 'i':
			c.checkID(name, value, remove)
		case 'r':
			if !c.remembers(name) || c.memory["i"+value] == "" {
				c.report(enhanced.RuleRequestStray, "state", field, "the lock to which the request leads was not got by it").
					repairs("remove it", remove)
			}
		default:
			c.report(enhanced.RuleUnknownEntry, "state", field, "the store's format has no such entry")
		}
	}
}

func (c *redisInspection) checkID(token, value string, remove redisChange) {
	e, ended := parseEnding(value)
	if !ended {
		r := c.read[value]
		if !c.unreadable[value] && (r == nil || strconv.FormatInt(r.Token, 10) != token) {
			c.report(enhanced.RuleIDStray, "state", "i"+token, "no lock there has this token").repairs("remove it", remove)
		}
		return
	}
	if !e.isSound(c.name) {
		c.report(enhanced.RuleEnding, "state", "i"+token, "what is remembered of the lock can't be read").
			repairs("remove it", remove)
		return
	}
	if !c.timed[token] {
		c.report(enhanced.RuleEnding, "state", "i"+token, "nothing says when to forget the lock").
			repairs("forget it in "+memoryTime.String(), c.times(token)...)
	}
}

// checkLog checks the log, and compares its last words with what is stored.
func (c *redisInspection) checkLog() {
	last, err := strconv.ParseUint(c.meta["sequence"], 10, 64)
	if err != nil && c.meta["sequence"] != "" {
		latest := uint64(0)
		if len(c.stray) > 0 {
			latest = c.stray[len(c.stray)-1]
		}
		c.report(enhanced.RuleLogSequence, "state", "sequence", "%q is no number", c.meta["sequence"]).
			repairs("go on after the latest record", counts("sequence", strconv.FormatUint(latest, 10)))
		return
	}
	trimmed, err := strconv.ParseUint(c.meta["trimmed"], 10, 64)
	if err != nil && c.meta["trimmed"] != "" {
		trimmed = last
		if len(c.log) > 0 {
			trimmed = c.log[0].Sequence - 1
		}
		c.report(enhanced.RuleLogCheckpoint, "state", "trimmed", "%q is no number", c.meta["trimmed"]).
			repairs("count what is there", counts("trimmed", strconv.FormatUint(trimmed, 10)))
	}
	for _, sequence := range c.stray {
		c.report(enhanced.RuleLogSequence, "log", strconv.FormatUint(sequence, 10), "it lies behind the latest record, %d: nothing more can be logged", last).
			repairs("go on after it", counts("sequence", strconv.FormatUint(sequence, 10)))
	}
	words := make(map[string]lastWord)
	next, at, token := trimmed+1, time.Time{}, int64(0)
	for i, record := range c.log {
		name := strconv.FormatUint(record.Sequence, 10)
		switch {
		case i == 0 && record.Sequence > next && trimmed > 0:
			// It was trimmed since.
		case record.Sequence > next:
			c.report(enhanced.RuleLogGap, "log", strconv.FormatUint(next, 10), "%s missing from the log", records(next, record.Sequence-1))
		case record.Sequence < next:
			c.report(enhanced.RuleLogCheckpoint, "state", "trimmed", "it says that the log begins after %d, it begins with %s", trimmed, name)
		}
		next = record.Sequence + 1
		if record.Type == enhanced.EventUnreadable {
			c.report(enhanced.RuleLogUnreadable, "log", name, "the record can't be read")
			continue
		}
		if record.Time.Before(at) {
			c.report(enhanced.RuleLogTime, "log", name, "its time is before that of the record before it: it was altered, or the server's clock was")
		}
		at = record.Time
		if record.After != nil && (record.Before == nil || record.Before.Token != record.After.Token) {
			if record.After.Token <= token {
				c.report(enhanced.RuleLogToken, "log", name, "it grants token %d after token %d: it was altered, or the store's token was", record.After.Token, token)
			}
			token = record.After.Token
			c.use(token)
		}
		if key := record.Resource.Key(); key != noResource() && !enhanced.IsQueueEvent(record.Type) {
			words[key] = lastWord{record.Sequence, record.After}
		}
	}
	if next <= last {
		c.report(enhanced.RuleLogGap, "log", strconv.FormatUint(next, 10), "%s missing from the log", records(next, last))
		return
	}
	c.checkWords(words)
}

func (c *redisInspection) checkWords(words map[string]lastWord) {
	for _, key := range slices.Sorted(maps.Keys(words)) {
		word, r := words[key], c.read[key]
		switch {
		case c.unreadable[key]:
		case r == nil && word.after != nil:
			p := c.report(enhanced.RuleLogLock, "state", "l"+key, "log record %d, the last one on the resource, says: %s; nothing is stored",
				word.sequence, describeSummary(word.after)).repairs("log that the lock is lost")
			p.resource, p.lock = key, &lockRecord{Owner: word.after.Owner, Token: word.after.Token, Expires: micros(word.after.ExpiresAt)}
		case r != nil && !sameSummary(word.after, r.summary()):
			c.report(enhanced.RuleLogLock, "state", "l"+key, "log record %d, the last one on the resource, says otherwise: %s, and stored is %s",
				word.sequence, describeSummary(word.after), describeSummary(r.summary())).about(key, r).
				repairs("log the lock as it is stored")
		}
	}
}
