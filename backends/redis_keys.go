package backends

import (
	"strings"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// All keys in Redis are built here. A repository is a fixed set of keys with
// one hash tag, so that a cluster keeps them on one shard and one script can
// change them in one step (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags):
//
//	PREFIX{TAG}:meta       name, last token, last sequence of the log, what was
//	                       trimmed, until when somebody reads, who is closing
//	PREFIX{TAG}:locks      resource -> lock record
//	PREFIX{TAG}:deadlines  resources by when their lease ends
//	PREFIX{TAG}:owners     what each owner holds, in lexical order
//	PREFIX{TAG}:memory     token -> resource or ending, request -> token
//	PREFIX{TAG}:forget     list of the times and tokens of endings
//	PREFIX{TAG}:log        stream of log records; its IDs are SEQUENCE-0
//	PREFIX{TAG}:aside      what a repair could not read, if it met any
//
//	PREFIX{TAG}:events     sharded channel that tells that the log grew
//
// and for all repositories of a prefix
//
//	PREFIXevents           channel that tells of new repositories and, but for
//	                       sharded Pub/Sub, of logs that grew
//	atlantis-locks:layout  version and prefix of the only layout of a server
//
// Stock Atlantis' keys are pr/KEY, global/COMMAND/lock and HOST::REPOSITORY::NUMBER.
const (
	layoutKey     = "atlantis-locks:layout"
	layoutVersion = "1"
	stockPrefix   = "pr/"
	asideSuffix   = "aside"
)

// redisSuffixes are the last parts of a repository's keys, in the order of the
// scripts' KEYS.
func redisSuffixes() []string {
	return []string{"meta", "locks", "deadlines", "owners", "memory", "forget", "log"}
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

func (k redisKeys) meta(tag string) string      { return k.key(tag, "meta") }
func (k redisKeys) locks(tag string) string     { return k.key(tag, "locks") }
func (k redisKeys) deadlines(tag string) string { return k.key(tag, "deadlines") }
func (k redisKeys) owners(tag string) string    { return k.key(tag, "owners") }
func (k redisKeys) memory(tag string) string    { return k.key(tag, "memory") }
func (k redisKeys) log(tag string) string       { return k.key(tag, "log") }

// news is the channel that tells of new repositories.
func (k redisKeys) news() string { return k.prefix + "events" }

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

func stockKey(resource enhanced.ResourceIdentifier) string { return stockPrefix + resource.LegacyKey() }

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
