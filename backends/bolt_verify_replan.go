package backends

import (
	"bytes"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// checkReservedEntry checks a reservation, and that its owner leads to it.
func (c *inspection) checkReservedEntry(key, value []byte) {
	resourceKey := string(key[1:])
	resource, resourceErr := enhanced.ParseResourceKey(c.name, resourceKey)
	v, err := decodeReservation(value)
	if resourceErr != nil || err != nil || !isNameable(resource) || v.Since > c.now() {
		c.report(enhanced.RuleReservation, key, "the reservation can't be read, or is of a time that has not come").quarantinesEntry(c, key)
		return
	}
	if c.get(lockKey(resourceKey)) != nil {
		c.report(enhanced.RuleReservation, key, "%s is locked, and reserved at the same time", resource).about(resourceKey).removes(key)
		return
	}
	if v.isLapse() {
		return
	}
	owner, _ := enhanced.ParseOwner(v.Lock.Owner) // checked with the record
	if entry := reservesKey(owner, resourceKey); c.get(entry) == nil {
		c.report(enhanced.RuleReservation, key, "no entry of %s leads to the reservation: closing the pull request would leave it", owner).
			about(resourceKey).writes().
			repairs("write the owner's entry", func(s *repositoryStep, _ change) error { return s.put(entry, present()) })
	}
}

// checkReservesEntry checks that an owner's entry leads to a reservation of that
// owner.
func (c *inspection) checkReservesEntry(key []byte) {
	_, resourceKey, _ := bytes.Cut(key, []byte{0})
	if v := c.reservationOf(string(resourceKey)); v != nil && !v.isLapse() {
		owner, _ := enhanced.ParseOwner(v.Lock.Owner) // checked with the record
		if bytes.Equal(key, reservesKey(owner, string(resourceKey))) {
			return
		}
	}
	c.report(enhanced.RuleReservation, key, "that owner has no such reservation").removes(key)
}

// checkLastTryEntry checks when a pull request with reservations asked last. A
// time that has not come would keep them until then, or until their window ends.
func (c *inspection) checkLastTryEntry(key, value []byte) {
	owner, err := enhanced.ParseOwner(string(key[1:]))
	switch last := number(value); {
	case err != nil || owner.Kind != enhanced.OwnerPull || last <= 0 || last > c.now():
		c.report(enhanced.RuleReservation, key, "it is no pull request's, or of a time that has not come").quarantinesEntry(c, key)
	case len(c.reservedBy(reservesKey(owner, ""), 1)) == 0:
		c.report(enhanced.RuleReservation, key, "%s has nothing reserved", owner).removes(key)
	}
}

// checkTombstoneEntry checks a tombstone. One of the future would keep a pull
// request from taking locks until then.
func (c *inspection) checkTombstoneEntry(key, value []byte) {
	owner, err := enhanced.ParseOwner(string(key[1:]))
	t, valueErr := decodeTombstone(value)
	if err != nil || valueErr != nil || owner.Kind != enhanced.OwnerPull || t.Since > c.now() {
		c.report(enhanced.RuleTombstone, key, "the tombstone can't be read, or is of a time that has not come").quarantinesEntry(c, key)
	}
}

// checkReleasedEntry checks the mark that all locks of a pull request were
// released. One of the future would have those released that a later run takes.
func (c *inspection) checkReleasedEntry(key, value []byte) {
	if since := number(value); since <= 0 || since > c.now() || !isNumber(key[1:]) {
		c.report(enhanced.RuleTombstone, key, "no release of all locks of a pull request leaves such a mark").quarantinesEntry(c, key)
	}
}

func isNumber(text []byte) bool {
	digits := bytes.TrimPrefix(text, []byte("-"))
	return len(digits) > 0 && bytes.Trim(digits, "0123456789") == nil
}
