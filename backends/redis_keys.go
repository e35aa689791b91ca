package backends

import (
	"strings"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// All keys in Redis are built here. A repository is a fixed set of keys with
// one hash tag, so that a cluster keeps them on one shard and one script can
// change them in one step (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags):
//
//	PREFIX{TAG}:state      hash, see below
//	PREFIX{TAG}:deadlines  resources by when their lease ends, or a reservation
//	PREFIX{TAG}:log        stream of log records, see scripts/log.lua
//	PREFIX{TAG}:queue      who waits for what, and what each owner holds, see
//	                       scripts/queue.lua, and what runs have left, see
//	                       scripts/runs.lua, and sets, see scripts/whole.lua
//	PREFIX{TAG}:aside      what a repair could not read, if it met any
//	PREFIX{TAG}:events     sharded channel that tells that the log grew
//
// and for all repositories of a prefix
//
//	PREFIXevents:PROCESS   channel that tells a process of the turns of its calls
//	PREFIXevents           channel that tells of new repositories and, but for
//	                       sharded Pub/Sub, of logs that grew
//	PREFIXfleet            mode of all adapters, JSON of [enhanced.Fleet]
//	atlantis-locks:layout  version and prefix of the only layout of a server
//
// The fields of a state are
//
//	name                   of the repository
//	counters               numbers with spaces between, in this order: the last token and
//	                       sequence; how many locks there are, and have ended; until
//	                       when somebody wants to be woken; how many waiters,
//	                       tombstones and reservations there are; until when all
//	                       locks of a pull request are being released; how many
//	                       waiters are of sets, and how many there are beyond the
//	                       first of their owner for their resource; how many ended
//	                       locks were forgotten; up to where the log was trimmed
//	trimmed_time           of when the last record is that was trimmed
//	closing:N              until when the locks of a pull request with number N are
//	                       being released, and that pull request
//	l RESOURCE             header of a lock
//	d RESOURCE             details of a lock
//	i TOKEN                resource of a held lock, or how one has ended
//	r REQUEST              waiter, while the request waits, see scripts/queue.lua; from
//	                       then on the token that it got
//	e N                    when the Nth lock ended, and its token, until that is
//	                       forgotten
//	k RESOURCE             reservation, see scripts/runs.lua
//	alive                  processes that calls wait in, and until when they count
//	                       as alive
//	aging                  interval of ageing that ranks are by, in milliseconds
//
// Stock Atlantis' keys are pr/KEY, global/COMMAND/lock and HOST::REPOSITORY::NUMBER.
const (
	layoutKey     = "atlantis-locks:layout"
	layoutVersion = "2"
	stockPrefix   = "pr/"
	asideSuffix   = "aside"
)

// redisSuffixes are the last parts of a repository's keys, in the order of the
// scripts' KEYS.
func redisSuffixes() []string {
	return []string{"state", "deadlines", "log", "queue"}
}

// redisKeys builds the keys of one prefix.
type redisKeys struct{ prefix string }

// repository returns the keys of a repository in the order of the scripts' KEYS.
func (k redisKeys) repository(tag string) []string {
	suffixes := redisSuffixes()
	keys := make([]string, len(suffixes), len(suffixes)+2)
	for i, suffix := range suffixes {
		keys[i] = k.key(tag, suffix)
	}
	return keys
}

func (k redisKeys) key(tag, suffix string) string { return k.prefix + "{" + tag + "}:" + suffix }

func (k redisKeys) state(tag string) string { return k.key(tag, "state") }
func (k redisKeys) queue(tag string) string { return k.key(tag, "queue") }

// reading are the keys of a script that reads the state. There are always two,
// see scripts/read.lua.
func (k redisKeys) reading(tag string) []string { return []string{k.state(tag), k.queue(tag)} }

// news is the channel that tells of new repositories.
func (k redisKeys) news() string { return k.prefix + "events" }

// fleet is where the mode of all adapters is.
func (k redisKeys) fleet() string { return k.prefix + "fleet" }

// calls is the channel that tells a process of the turns of its calls.
func (k redisKeys) calls(process string) string { return k.news() + ":" + process }

// sharded is a repository's own channel on a cluster.
func (k redisKeys) sharded(tag string) string { return k.key(tag, "events") }

// wake returns the command and the channel that tell a repository's readers
// that its log grew.
func (k redisKeys) wake(tag string, sharded bool) (command, channel string) {
	if sharded {
		return "SPUBLISH", k.sharded(tag)
	}
	return "PUBLISH", k.news()
}

// layout is what the layout key holds.
func (k redisKeys) layout() string { return layoutVersion + " " + k.prefix }

// split returns the tag of a repository's key, and what comes after it.
func (k redisKeys) split(key string) (tag, suffix string, ok bool) {
	rest, found := strings.CutPrefix(key, k.prefix+"{")
	tag, suffix, cut := strings.Cut(rest, "}:")
	return tag, suffix, found && cut && len(tag) == 32
}

// stockKey is the legacy key behind its prefix, made as one string.
func stockKey(r enhanced.ResourceIdentifier) string {
	return stockPrefix + r.Namespace + "/" + r.Path + "/" + r.Workspace + "/" + r.Name
}

// oldStockKey is the key that Atlantis had for a resource before v0.40, when
// projects had no names.
func oldStockKey(resource enhanced.ResourceIdentifier) (key string, had bool) {
	return stockPrefix + oldLegacyKey(resource), resource.Name == ""
}

// hasStockKey reports whether stock knows such resources.
func hasStockKey(resource enhanced.ResourceIdentifier) bool {
	return resource.Type == enhanced.ResourceTypeProject
}

// globEscaped takes the special characters of Redis' glob patterns literally.
func globEscaped(text string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`).Replace(text)
}
