package backends

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// redisReservation is a reservation as the state has it, see scripts/runs.lua.
type redisReservation struct {
	since, until int64
	lock         *redisRecord
}

// isLapse reports whether it follows a lease that its holder has let end.
func (v *redisReservation) isLapse() bool { return v.lock.Expires != 0 }

// reservationLines is how many lines a reservation has before the details of its
// lock.
const reservationLines = 2 + headerLines

func decodeRedisReservation(text string) (*redisReservation, error) {
	lines := strings.SplitN(text, "\n", reservationLines+1)
	if len(lines) != reservationLines+1 {
		return nil, fmt.Errorf("reservation has %d lines", len(lines))
	}
	var v redisReservation
	if err := parseNumbers(lines[:2], &v.since, &v.until); err != nil {
		return nil, err
	}
	var err error
	if v.lock, err = decodeRedisRecord(strings.Join(lines[2:reservationLines], "\n"), lines[reservationLines]); err != nil {
		return nil, err
	}
	owner, err := enhanced.ParseOwner(v.lock.Owner)
	if err != nil {
		return nil, err
	}
	if !v.isLapse() && owner.Kind != enhanced.OwnerPull || v.since < max(v.lock.Expires, 1) || v.until < v.since {
		return nil, fmt.Errorf("reservation of %s since %d until %d", v.lock.Owner, v.since, v.until)
	}
	_, err = decodeProjectLock([]byte(v.lock.payload))
	return &v, err
}

// checkRuns checks what runs of pull requests have left.
func (c *redisInspection) checkRuns() {
	leads := make(map[string]bool)
	c.kept = make(map[string]*redisReservation)
	for _, key := range sortedKeys(c.reservations) {
		c.checkReservation(key, leads)
	}
	closed := 0
	for _, member := range sortedKeys(c.queue) {
		switch member[0] {
		case 's':
			if !leads[member] {
				c.report(enhanced.RuleReservation, "queue", member, "that owner has no such reservation").
					repairs("remove it", redisChange{"ZREM", "queue", member, ""})
			}
		case 't':
			closed++
			c.checkTombstone(member)
		case 'u':
			c.checkMark(member)
		}
	}
	c.checkCount(enhanced.RuleReservation, "kept", len(c.reservations))
	c.checkCount(enhanced.RuleTombstone, "gone", closed)
}

// checkCount checks how many there are of something. Where it says that there are
// none nobody looks for them.
func (c *redisInspection) checkCount(rule, field string, count int) {
	n := strconv.Itoa(count)
	if c.meta[field] != n && (c.meta[field] != "" || count > 0) {
		c.report(rule, "state", field, "it says %q, there are %s", c.meta[field], n).
			repairs("set it to "+n, counts(field, n))
	}
}

// checkReservation checks a reservation, that its owner leads to it, and that it
// ends in time.
func (c *redisInspection) checkReservation(key string, leads map[string]bool) {
	field, text := "k"+key, c.reservations[key]
	resource, err := enhanced.ParseResourceKey(c.name, key)
	v, readErr := decodeRedisReservation(text)
	if err = errors.Join(err, readErr); err != nil || v.since > c.now {
		c.report(enhanced.RuleReservation, "state", field, "the reservation can't be read, or is of a time that has not come").
			repairs("move it aside, byte for byte", redisChange{"HSET", asideSuffix, field, text}, redisChange{"HDEL", "state", field, ""})
		return
	}
	entry := "s" + ownerEntry(v.lock.Owner, key)
	leads[entry] = !v.isLapse()
	if _, locked := c.locks[key]; locked {
		c.report(enhanced.RuleReservation, "state", field, "%s is locked, and reserved at the same time", resource).about(key, c.read[key]).
			repairs("remove it", redisChange{"HDEL", "state", field, ""}, redisChange{"ZREM", "queue", entry, ""})
		return
	}
	c.kept[key] = v
	if leads[entry] && !c.queue[entry] {
		c.report(enhanced.RuleReservation, "queue", entry, "it is missing: closing %s would leave the reservation", enhanced.DescribeOwner(v.lock.Owner)).
			about(key, nil).repairs("write it", redisChange{"ZADD", "queue", entry, "0"})
	}
	if at := c.deadlines[key]; at <= 0 || at > v.until || v.isLapse() && at != v.until {
		c.report(enhanced.RuleReservation, "deadlines", key, "it is not when the reservation ends").
			about(key, nil).repairs("set it", redisChange{"ZADD", "deadlines", key, strconv.FormatInt(v.until, 10)})
	}
}

// checkTombstone checks a tombstone. One of the future would keep a pull request
// from taking locks until then.
func (c *redisInspection) checkTombstone(member string) {
	name, rest, _ := cutLine(member[1:])
	digits, _, found := strings.Cut(rest, " ")
	owner, err := enhanced.ParseOwner(name)
	if !found || err != nil || owner.Kind != enhanced.OwnerPull || !c.isPast(strings.TrimSuffix(digits, "+")) {
		c.reportMark(member, "the tombstone can't be read, or is of a time that has not come")
	}
}

// checkMark checks the mark that all locks of a pull request were released. One of
// the future would have those released that a later run takes.
func (c *redisInspection) checkMark(member string) {
	number, digits, _ := cutLine(member[1:])
	if _, err := strconv.Atoi(number); err != nil || !c.isPast(digits) {
		c.reportMark(member, "no release of all locks of a pull request leaves such a mark")
	}
}

func (c *redisInspection) reportMark(member, problem string) {
	c.report(enhanced.RuleTombstone, "queue", member, "%s", problem).
		repairs("move it aside, byte for byte", redisChange{"HSET", asideSuffix, member, ""}, redisChange{"ZREM", "queue", member, ""})
}

// isPast reports whether a text is a time that has come, in microseconds.
func (c *redisInspection) isPast(text string) bool {
	at, err := strconv.ParseInt(text, 10, 64)
	return err == nil && at > 0 && at <= c.now
}
