package backends

import (
	"bytes"
	"errors"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/queue"
)

// checkQueueEntry checks a waiter and what has to lead to it.
func (c *inspection) checkQueueEntry(key, value []byte) {
	at := len(key) - rankSize
	if at < 2 || key[at-1] != 0 {
		c.checkUnknown(key)
		return
	}
	resourceKey := string(key[1 : at-1])
	resource, resourceErr := enhanced.ParseResourceKey(c.name, resourceKey)
	record, err := decodeWaiterRecord(value)
	if resourceErr != nil || err != nil || !isNameable(resource) {
		c.report(enhanced.RuleQueueUnreadable, key, "the waiter can't be read; it is passed over").quarantinesEntry(c, key)
		return
	}
	w := &waiter{record, resource, parseRank(key[at:])}
	owner, _ := enhanced.ParseOwner(record.Owner) // checked with the record
	ranked := w.rank == c.order.Rank(int(w.Priority), time.UnixMicro(w.Enqueued), w.rank.Sequence)
	if !ranked && !isMoveOf(w.rank, c.lastSequence()) {
		c.report(enhanced.RuleQueueRank, key, "%s has another place in the queue for %s than its priority and the time when it came give",
			owner.Describe(), resource).about(resourceKey).
			repairs("give it that place", func(s *repositoryStep, _ change) error {
				moved := *w
				moved.rank = c.order.Rank(int(w.Priority), time.UnixMicro(w.Enqueued), w.rank.Sequence)
				return errors.Join(s.removeWaiter(w), s.putWaiter(&moved))
			})
		return
	}
	if c.get(waiterKey(w.Request)) == nil || c.get(append(waitsPrefix(owner, resourceKey), w.Request...)) == nil {
		c.report(enhanced.RuleQueueMissing, key, "what leads from the request or from %s to the waiter is missing", owner.Describe()).
			about(resourceKey).writes().repairs("write it", func(s *repositoryStep, _ change) error { return s.putWaiter(w) })
	}
}

// checkWaiterEntry checks that a request's entry leads to its waiter.
func (c *inspection) checkWaiterEntry(key, value []byte) {
	if record, err := decodeWaiterRecord(c.get(append([]byte{rangeQueue}, value...))); err != nil || record.Request != string(key[1:]) {
		c.report(enhanced.RuleQueueStray, key, "no such request waits").removes(key)
	}
}

// checkWaitsEntry checks that an owner's entry leads to a waiter of that owner.
func (c *inspection) checkWaitsEntry(key, value []byte) {
	parts := bytes.SplitN(key[1:], []byte{0}, 3)
	if len(parts) == 3 && len(value) == rankSize {
		resourceKey, request := string(parts[1]), string(parts[2])
		record, err := decodeWaiterRecord(c.get(queueKey(resourceKey, parseRank(value))))
		if err == nil && record.Request == request {
			owner, _ := enhanced.ParseOwner(record.Owner) // checked with the record
			if bytes.Equal(key, append(waitsPrefix(owner, resourceKey), request...)) {
				return
			}
		}
	}
	c.report(enhanced.RuleQueueStray, key, "that owner has no such request").removes(key)
}

// checkAging reads the interval that the ranks are by.
func (c *inspection) checkAging() {
	value := c.get(agingKey())
	c.order = queue.Order{AgingInterval: time.Duration(number(value)) * time.Microsecond}
	if value == nil || len(value) == 8 && c.order.Validate() == nil {
		return
	}
	c.order = queue.Order{}
	c.report(enhanced.RuleQueueRank, agingKey(), "no such interval of ageing can be configured").
		repairs("remove it: ranks are strict then", func(s *repositoryStep, _ change) error { return s.delete(agingKey()) })
}
