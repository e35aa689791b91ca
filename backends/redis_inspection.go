package backends

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// redisChange is one change of a repair: a command, the last part of the key,
// and its arguments.
type redisChange struct{ command, key, field, value string }

// redisProblem is a violation, and the changes that end it.
type redisProblem struct {
	enhanced.Violation
	tag string
	// seen is the repository, when the violation was seen.
	seen    *redisSnapshot
	changes []redisChange
	// resource and lock are what it is about, stays whether the lock remains.
	resource string
	lock     *lockRecord
	stays    bool
}

// redisInspection checks one repository against the rules of a store.
type redisInspection struct {
	*redisSnapshot
	keys     redisKeys
	mirrored bool
	problems []redisProblem

	// read are the locks that can be read, unreadable the keys of the others.
	read       map[string]*redisRecord
	unreadable map[string]bool
	// kept are the reservations that can be read.
	kept map[string]*redisReservation
	// timed are the tokens that an entry says when to forget, ended is the number of
	// the last entry.
	timed   map[string]bool
	ended   int64
	highest int64
}

func (c *redisInspection) run() {
	for _, key := range c.mistyped {
		c.report(enhanced.RuleUnknownEntry, key, "", "the key has another type than in the store's format")
	}
	if enhanced.RepositoryTag(c.name) != c.tag {
		c.report(enhanced.RuleRepositoryName, "state", "", "the repository's name %q belongs to another tag; the rest of it was not checked", c.name)
		return
	}
	if len(c.mistyped) > 0 {
		return // what leads there can't be judged
	}
	c.read, c.unreadable = make(map[string]*redisRecord), make(map[string]bool)
	for _, key := range sortedKeys(c.locks) {
		c.checkRecord(key, c.locks[key])
	}
	for _, key := range sortedKeys(c.details) {
		if _, known := c.locks[key]; !known {
			c.report(enhanced.RuleUnknownEntry, "state", "d"+key, "details of a lock that is not there").
				repairs("remove it", redisChange{"HDEL", "state", "d" + key, ""})
		}
	}
	for _, key := range sortedKeys(c.read) {
		c.checkLock(key, c.read[key])
	}
	c.checkRuns()
	c.checkDeadlines()
	c.checkMemory()
	c.checkQueue()
	c.checkLog()
	c.checkToken()
	c.checkCount(enhanced.RuleLockCount, "locks", len(c.locks))
}

// sortedKeys returns all keys but that which keeps a hash or set from vanishing.
func sortedKeys[V any](m map[string]V) []string {
	keys := slices.Sorted(maps.Keys(m))
	return slices.DeleteFunc(keys, func(key string) bool { return key == "" })
}

func (c *redisInspection) report(rule, key, field, format string, args ...any) *redisProblem {
	record := c.keys.key(c.tag, key)
	if field != "" {
		record += " " + field
	}
	c.problems = append(c.problems, redisProblem{
		Violation: enhanced.Violation{Rule: rule, Record: record, Repository: c.name, Detail: fmt.Sprintf(format, args...)},
		tag:       c.tag, seen: c.redisSnapshot,
	})
	return &c.problems[len(c.problems)-1]
}

func (p *redisProblem) repairs(text string, changes ...redisChange) *redisProblem {
	p.Repair, p.changes = text, changes
	return p
}

// about says which lock the problem is about, one that a repair keeps.
func (p *redisProblem) about(resource string, lock *redisRecord) *redisProblem {
	p.resource, p.stays = resource, true
	if lock != nil {
		p.lock = lock.lockRecord
	}
	return p
}

// checkRecord reads a lock.
func (c *redisInspection) checkRecord(key, header string) {
	aside := []redisChange{
		{"HSET", asideSuffix, "l" + key, header}, {"HSET", asideSuffix, "d" + key, c.details[key]},
		{"HDEL", "state", "l" + key, ""}, {"HDEL", "state", "d" + key, ""},
	}
	if _, err := enhanced.ParseResourceKey(c.name, key); err != nil {
		c.unreadable[key] = true
		c.report(enhanced.RuleLockKey, "state", "l"+key, "no resource has this key: nothing can name the lock, and it keeps nobody out").
			repairs("move it aside, byte for byte", aside...)
		return
	}
	record, err := decodeRedisRecord(header, c.details[key])
	if err != nil {
		c.unreadable[key] = true
		c.report(enhanced.RuleLockUnreadable, "state", "l"+key, "the record can't be read; its resource counts as held").
			repairs("move it aside, byte for byte; the resource is free then, or what stock Atlantis has there counts", aside...).resource = key
		return
	}
	c.read[key] = record
}

// checkLock checks what is in a lock's record and what has to lead to it.
func (c *redisInspection) checkLock(key string, r *redisRecord) {
	c.use(r.Token)
	resource, err := enhanced.ParseResourceKey(c.name, key)
	if err != nil {
		return
	}
	original, err := decodeProjectLock([]byte(r.payload))
	switch {
	case err != nil:
		c.report(enhanced.RuleLockContent, "state", "l"+key, "stock's form of the lock can't be read; the lock counts as unreadable")
	case !isOf(original, resource, r.Owner):
		c.report(enhanced.RuleLockContent, "state", "l"+key, "stock's form of the lock names another resource or owner than the lock")
	case hasCredential(original):
		c.report(enhanced.RuleCredential, "state", "l"+key, "stock's form of the lock contains a credential")
	}
	token := strconv.FormatInt(r.Token, 10)
	switch leads, known := c.memory["i"+token]; {
	case !known:
		c.report(enhanced.RuleIDMissing, "state", "l"+key, "the lock's ID does not lead to it").about(key, r).
			repairs("write the ID", redisChange{"HSET", "state", "i" + token, key})
	case leads != key:
		c.report(enhanced.RuleLockToken, "state", "l"+key, "the lock's token %s is another lock's, too", token)
	}
	c.checkRequest(key, r)
	if member := memberOf(r.Owner, key, r.Request); !c.queue[member] {
		c.report(enhanced.RuleOwnerMissing, "state", "l"+key, "no entry of %s leads to the lock: closing the pull request would leave it", r.Owner).about(key, r).
			repairs("write the owner's entry", redisChange{"ZADD", "queue", member, "0"})
	}
	if at := c.deadlines[key]; r.Expires != 0 && at != r.Expires {
		c.report(enhanced.RuleDeadlineMissing, "state", "l"+key, "no deadline entry leads to the end of the lock's lease: it would end at another time").about(key, r).
			repairs("write the deadline entry", redisChange{"ZADD", "deadlines", key, strconv.FormatInt(r.Expires, 10)})
	}
}

// checkRequest checks that the request which got a lock leads to it. Where it waits, it
// does so by the token that its waiter has, and that waiter is not written over.
func (c *redisInspection) checkRequest(key string, r *redisRecord) {
	token := strconv.FormatInt(r.Token, 10)
	if r.Request == "" || c.tokenOf(r.Request) == token || c.remembers(r.Request) {
		return
	}
	p := c.report(enhanced.RuleRequestMissing, "state", "l"+key, "the request that got the lock does not lead to it: it could acquire again").about(key, r)
	if _, waits := c.waiters[r.Request]; !waits {
		p.repairs("write the request's entry", redisChange{"HSET", "state", "r" + r.Request, token})
	}
}

// tokenOf returns the token of the lock that a request got, "" for none.
func (c *redisInspection) tokenOf(request string) string {
	if token, got := c.memory["r"+request]; got {
		return token
	}
	w, err := decodeRedisWaiter(c.name, request, c.waiters[request])
	if err != nil {
		return ""
	}
	return w.given
}

// remembers reports whether a request's entry leads to a lock that it got.
func (c *redisInspection) remembers(request string) bool {
	value, known := c.memory["i"+c.tokenOf(request)]
	if !known {
		return false
	}
	if e, ended := parseEnding(value); ended {
		return e.Request == request
	}
	r := c.read[value]
	return r != nil && r.Request == request
}

// ownerEntry is the prelude's.
func ownerEntry(owner, resource string) string {
	parsed, err := enhanced.ParseOwner(owner)
	if err != nil || !strings.HasPrefix(owner, "pr:") {
		return owner + "\n" + resource
	}
	host, _, _ := strings.Cut(strings.TrimPrefix(owner, "pr:"), "/")
	return "p" + strconv.Itoa(parsed.Number) + "/" + host + "\n" + resource
}

// memberOf is the prelude's.
func memberOf(owner, resource, request string) string {
	return "o" + ownerEntry(owner, resource) + "\n" + request
}

// checkOwner checks a member of the queue that leads from an owner to no waiter.
func (c *redisInspection) checkOwner(member string) {
	_, rest, _ := cutLine(member)
	key, _, _ := cutLine(rest)
	r := c.read[key]
	if c.unreadable[key] || r != nil && memberOf(r.Owner, key, r.Request) == member {
		return
	}
	c.report(enhanced.RuleOwnerStray, "queue", member, "the owner neither holds such a lock nor waits for it").
		repairs("remove it", redisChange{"ZREM", "queue", member, ""})
}

func (c *redisInspection) checkDeadlines() {
	for _, key := range sortedKeys(c.deadlines) {
		if r := c.read[key]; c.unreadable[key] || c.kept[key] != nil || r != nil && r.Expires != 0 {
			continue
		}
		c.report(enhanced.RuleDeadlineStray, "deadlines", key, "no lock there has a lease, and nothing is reserved").
			repairs("remove it", redisChange{"ZREM", "deadlines", key, ""})
	}
}

// use notes a token that is in use.
func (c *redisInspection) use(token int64) { c.highest = max(c.highest, token) }

func (c *redisInspection) checkToken() {
	if c.meta[countersField] != "" && c.meta["token"] == "" {
		c.report(enhanced.RuleTokenCounter, "state", countersField, "the counters can't be read: nothing can be changed in the repository").
			repairs("count what is there", counts("token", strconv.FormatInt(c.highest, 10)))
		return
	}
	if token, err := strconv.ParseInt(c.meta["token"], 10, 64); err == nil && token >= c.highest || c.highest == 0 {
		return
	}
	highest := strconv.FormatInt(c.highest, 10)
	c.report(enhanced.RuleTokenCounter, "state", "token", "the token is %q, but %s is in use: tokens could be given twice", c.meta["token"], highest).
		repairs("raise it to "+highest, counts("token", highest))
}
