package backends

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/queue"
)

// rankText is the form of a rank in Redis, see scripts/queue.lua.
func rankText(rank queue.Rank) string {
	if rank.Score < 0 {
		return fmt.Sprintf("0%016d%016d", rank.Score+1<<53, rank.Sequence)
	}
	return fmt.Sprintf("1%016d%016d", rank.Score, rank.Sequence)
}

func parseRankText(text string) (rank queue.Rank, err error) {
	if len(text) != 33 || text[0] != '0' && text[0] != '1' {
		return rank, fmt.Errorf("rank %q has not the form of one", text)
	}
	if rank.Score, err = strconv.ParseInt(text[1:17], 10, 64); err != nil {
		return rank, err
	}
	if text[0] == '0' {
		rank.Score -= 1 << 53
	}
	rank.Sequence, err = strconv.ParseUint(text[17:], 10, 64)
	return rank, err
}

// members are those of a waiter in the queue, its place first.
func (w *redisWaiter) members() []string {
	key := w.resource.Key()
	members := []string{"q" + key + "\n" + w.rank + w.process + "\n" + w.Request, memberOf(w.Owner, key, w.Request)}
	if w.Set != nil {
		members = append(members, fmt.Sprintf("w%s\n%d %s\n%s", key, w.Enqueued, w.Set.ID, w.Request))
	}
	return members
}

// checkQueue checks the waiters, and what leads to them.
func (c *redisInspection) checkQueue() {
	order := c.checkAging()
	last, _ := strconv.ParseUint(c.meta["sequence"], 10, 64) //nolint:errcheck // checkLog reports it
	leads := make(map[string]bool)
	ofSets, twice, known := 0, 0, make(map[string]bool)
	for _, request := range sortedKeys(c.waiters) {
		w, err := decodeRedisWaiter(c.name, request, c.waiters[request])
		var rank queue.Rank
		if err == nil {
			rank, err = parseRankText(w.rank)
		}
		if err != nil {
			c.report(enhanced.RuleQueueUnreadable, "state", "r"+request, "the waiter can't be read; it is passed over").
				repairs("move it aside, byte for byte", redisChange{"HSET", asideSuffix, "r" + request, c.waiters[request]},
					redisChange{"HDEL", "state", "r" + request, ""})
			continue
		}
		members := w.members()
		for _, member := range members {
			leads[member] = true
		}
		if w.Set != nil {
			ofSets++
		}
		if entry := ownerEntry(w.Owner, w.resource.Key()); known[entry] {
			twice++
		} else {
			known[entry] = true
		}
		right := order.Rank(int(w.Priority), time.UnixMicro(w.Enqueued), rank.Sequence)
		if rank != right && !isMoveOf(rank, last) {
			moved := *w
			moved.rank = rankText(right)
			now := moved.members()[0]
			c.report(enhanced.RuleQueueRank, "state", "r"+request, "%s has another place in the queue for %s than its priority and the time when it came give",
				enhanced.DescribeOwner(w.Owner), w.resource).about(w.resource.Key(), nil).
				repairs("give it that place", redisChange{"HSET", "state", "r" + request, strings.Replace(c.waiters[request], w.rank, moved.rank, 1)},
					redisChange{"ZREM", "queue", members[0], ""}, redisChange{"ZADD", "queue", now, "0"})
		}
		if slices.ContainsFunc(members, func(member string) bool { return !c.queue[member] }) {
			var changes []redisChange
			for _, member := range members {
				changes = append(changes, redisChange{"ZADD", "queue", member, "0"})
			}
			c.report(enhanced.RuleQueueMissing, "state", "r"+request, "its place in the queue, or what leads from %s to the waiter, is missing",
				enhanced.DescribeOwner(w.Owner)).about(w.resource.Key(), nil).
				repairs("write it", changes...)
		}
	}
	for _, member := range sortedKeys(c.queue) {
		switch {
		case leads[member] || strings.ContainsAny(member[:1], "stu"): // see checkRuns
		case member[0] == 'o':
			c.checkOwner(member)
		default:
			c.report(enhanced.RuleQueueStray, "queue", member, "no such request waits").
				repairs("remove it", redisChange{"ZREM", "queue", member, ""})
		}
	}
	c.checkCount(enhanced.RuleQueueCount, "waiters", len(c.waiters))
	c.checkCount(enhanced.RuleQueueCount, "sets", ofSets)
	c.checkCount(enhanced.RuleQueueCount, "twice", twice)
}

// checkAging reads the interval that the ranks are by.
func (c *redisInspection) checkAging() queue.Order {
	text, known := c.meta["aging"]
	millis, err := strconv.ParseInt(text, 10, 64)
	order := queue.Order{AgingInterval: time.Duration(millis) * time.Millisecond}
	if !known || err == nil && order.Validate() == nil {
		return order
	}
	c.report(enhanced.RuleQueueRank, "state", "aging", "no such interval of ageing can be configured").
		repairs("remove it: ranks are strict then", redisChange{"HDEL", "state", "aging", ""})
	return queue.Order{}
}
