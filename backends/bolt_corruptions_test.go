package backends_test

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// corruption is a damage, and what is to be found.
type corruption struct {
	plant func(e *editor)
	// rules are all that are broken then, in the order of their names.
	rules []string
	// left are those that a person has to decide.
	left []string
	// rewritten says that the repair changes a lock record that can be read.
	rewritten bool
	// touched are locks that the damage or its repair changes.
	touched func(s *sample) []*enhanced.EnhancedLock
}

func corruptions() map[string]corruption {
	leased := func(s *sample) []*enhanced.EnhancedLock { return []*enhanced.EnhancedLock{s.leased} }
	plain := func(s *sample) []*enhanced.EnhancedLock { return []*enhanced.EnhancedLock{s.plain} }
	custom := func(s *sample) []*enhanced.EnhancedLock { return []*enhanced.EnhancedLock{s.custom} }
	all := map[string]corruption{
		"lock record cut off": {
			plant: func(e *editor) {
				e.put(e.app(), lockEntry(e.custom), e.get(e.app(), lockEntry(e.custom))[:30])
			},
			rules: []string{enhanced.RuleLockUnreadable}, touched: custom,
		},
		"lock record null": {
			plant: func(e *editor) { e.put(e.app(), lockEntry(e.leased), "null") },
			rules: []string{enhanced.RuleLockUnreadable}, touched: leased,
		},
		"lock under another key": {
			plant: func(e *editor) { e.move(e.app(), lockEntry(e.leased), "lproject/lease/default/") },
			rules: []string{enhanced.RuleLockKey},
		},
		"lock under no key": {
			plant: func(e *editor) { e.move(e.app(), lockEntry(e.plain), "lproject/pl%61in/default/") },
			rules: []string{enhanced.RuleLockKey},
		},
		"lock under no key, and nothing leads to it": {
			plant: func(e *editor) {
				e.put(e.app(), "lproject/pl%61in", strings.Replace(e.get(e.app(), lockEntry(e.frozen)), `"n":"`, `"n":"1`, 1))
			},
			rules: []string{enhanced.RuleLockKey},
		},
		"lock that no request can name": {
			plant: func(e *editor) {
				for _, key := range []string{lockEntry(e.custom), deadlineEntry(e.custom)} {
					e.move(e.app(), key, strings.Replace(key, "custom/db/w/", "project/db%2F/w/", 1))
				}
				e.edit(e.app(), lockEntry(e.custom)[:1]+"project/db%2F/w/", func(f map[string]any) { f["l"].(map[string]any)["Project"].(map[string]any)["Path"] = "db/" })
				e.put(e.app(), idEntry(e.custom), "project/db%2F/w/")
				e.remove(e.app(), logEntry(3))
				e.put(e.app(), logEntry(3), e.get(e.app(), logEntry(2)))
			},
			rules: []string{enhanced.RuleLockKey, enhanced.RuleLogToken}, left: []string{enhanced.RuleLockKey, enhanced.RuleLogToken}, touched: custom,
		},
		"own content unreadable": {
			plant: func(e *editor) { e.edit(e.app(), lockEntry(e.custom), func(f map[string]any) { f["l"] = "text" }) },
			rules: []string{enhanced.RuleLockContent}, touched: custom,
		},
		"own content of another owner": {
			plant: func(e *editor) {
				e.edit(e.app(), lockEntry(e.custom), func(f map[string]any) { f["l"].(map[string]any)["User"] = map[string]any{"Username": "eve"} })
			},
			rules: []string{enhanced.RuleLockContent}, touched: custom,
		},
		"owner of another repository": {
			plant: func(e *editor) {
				e.edit(e.app(), lockEntry(e.plain), func(f map[string]any) { f["o"] = "pr:github.com/org%2Felse/5" })
			},
			rules: []string{enhanced.RuleLockContent, enhanced.RuleLogLock}, left: []string{enhanced.RuleLockContent}, touched: plain,
		},
		"copy unreadable, as it was written": {
			plant: func(e *editor) { e.copyOf(e.plain, `{"Project":`) },
			rules: []string{enhanced.RuleLockContent}, rewritten: true, touched: plain,
		},
		"copy of another project, as it was written": {
			plant: func(e *editor) {
				e.copyOf(e.plain, strings.Replace(e.get(e.stock(), e.plain.Resource.LegacyKey()), `"plain"`, `"pla1n"`, 1))
			},
			rules: []string{enhanced.RuleLockContent}, rewritten: true, touched: plain,
		},
		"copy damaged": {
			plant: func(e *editor) {
				e.put(e.stock(), e.plain.Resource.LegacyKey(), e.get(e.stock(), e.plain.Resource.LegacyKey())[:40])
			},
			rules: []string{enhanced.RuleStockUnreadable}, rewritten: true, touched: plain,
		},
		"copy damaged to another project": {
			plant: func(e *editor) {
				e.put(e.stock(), e.plain.Resource.LegacyKey(), strings.Replace(e.get(e.stock(), e.plain.Resource.LegacyKey()), `"plain"`, `"pla1n"`, 1))
			},
			rules: []string{enhanced.RuleStockKey}, rewritten: true, touched: plain,
		},
		"credential in a copy": {
			plant: func(e *editor) {
				e.copyOf(e.plain, strings.Replace(e.get(e.stock(), e.plain.Resource.LegacyKey()), `"FullName"`, `"CloneURL":"https://bot:`+secret+`@github.com","FullName"`, 1))
			},
			rules: []string{enhanced.RuleCredential}, rewritten: true,
		},
		"credential in a record": {
			plant: func(e *editor) {
				e.edit(e.app(), lockEntry(e.custom), func(f map[string]any) {
					f["l"].(map[string]any)["Pull"] = map[string]any{"BaseRepo": map[string]any{"CloneURL": "https://bot:" + secret + "@github.com"}}
				})
			},
			rules: []string{enhanced.RuleCredential},
		},
		"two locks with one copy": {
			plant: func(e *editor) {
				second := enhanced.ResourceIdentifier{Type: "project", Namespace: "org", Path: "app/plain", Workspace: "default"}
				token := e.transferred.Version + 1
				bucket, err := e.tx.CreateBucket([]byte(enhanced.RepositoryTag("org")))
				require.NoError(e.t, err)
				e.put(bucket, "yname", "org")
				e.put(bucket, "l"+second.Key(), e.get(e.app(), lockEntry(e.plain)))
				e.edit(bucket, "l"+second.Key(), func(f map[string]any) {
					f["n"], f["o"] = json.Number(itoa(token)).String(), "user:eve"
					delete(f, "q")
				})
				e.put(bucket, "i"+num(token), second.Key())
				e.put(e.root(), "token", num(token))
			},
			rules: []string{enhanced.RuleStockShared}, rewritten: true,
		},
		"stock's record unreadable": {
			plant: func(e *editor) { e.put(e.stock(), "org/app/x/default/", `{"Project":`) },
			rules: []string{enhanced.RuleStockUnreadable},
		},
		"stock's record unreadable, of nobody": {
			plant: func(e *editor) { e.put(e.stock(), "\x1b[2J", "null") },
			rules: []string{enhanced.RuleStockUnreadable},
		},
		"stock's record lies": {
			plant: func(e *editor) {
				e.put(e.stock(), "org/new/x/default/", e.get(e.stock(), e.plain.Resource.LegacyKey()))
			},
			rules: []string{enhanced.RuleStockKey},
		},
		"deadline entry gone": {
			plant: func(e *editor) { e.remove(e.app(), deadlineEntry(e.leased)) },
			rules: []string{enhanced.RuleDeadlineMissing},
		},
		"deadline entries that lead nowhere": {
			plant: func(e *editor) {
				e.put(e.app(), "d"+num(5)+e.leased.Resource.Key(), "\x01")
				e.put(e.app(), "d"+num(5)+e.plain.Resource.Key(), "\x01")
				e.put(e.app(), "d"+num(5)+"project/none/default/", "\x01")
				e.put(e.app(), "dshort", "\x01")
			},
			rules: []string{enhanced.RuleDeadlineStray, enhanced.RuleDeadlineStray, enhanced.RuleDeadlineStray, enhanced.RuleDeadlineStray},
		},
		"ID gone": {
			plant: func(e *editor) { e.remove(e.app(), idEntry(e.leased)) },
			rules: []string{enhanced.RuleIDMissing},
		},
		"ID leads elsewhere": {
			plant: func(e *editor) {
				e.put(e.app(), idEntry(e.plain), "project/none/default/")
				e.put(e.app(), idEntry(e.custom), "project/none/default/")
			},
			rules: []string{enhanced.RuleIDMissing, enhanced.RuleIDMissing},
		},
		"ID says that its lock has ended": {
			plant: func(e *editor) {
				e.remove(e.app(), idEntry(e.leased))
				e.remember(e.leased, time.Now())
			},
			rules: []string{enhanced.RuleForgetStray, enhanced.RuleIDMissing},
		},
		"ID that leads nowhere": {
			plant: func(e *editor) {
				e.put(e.app(), "i"+num(17), "project/none/default/")
				e.put(e.app(), "i"+num(18), e.plain.Resource.Key())
				e.put(e.app(), "i"+num(19), "")
				e.put(e.app(), "i"+num(20), `{"how":"released"}`)
			},
			rules: slices.Repeat([]string{enhanced.RuleIDStray}, 4),
		},
		"endings unreadable": {
			plant: func(e *editor) {
				e.put(e.app(), "f"+num(17)+num(e.released.Version), "{")
				e.put(e.app(), "f"+num(18)+num(e.released.Version), `{"how":"released","resource":"none","owner":"user:eve"}`)
			},
			rules: []string{enhanced.RuleEnding, enhanced.RuleEnding},
		},
		"ending of a held lock": {
			plant: func(e *editor) { e.remember(e.plain, time.Now()) },
			rules: []string{enhanced.RuleForgetStray},
		},
		"entries of the formats before": {
			plant: func(e *editor) {
				e.put(e.app(), "rrequest-leased", num(e.leased.Version))
				e.put(e.app(), "f", "\x01")
				e.put(e.app(), pullEntry(e.plain, "5"), "\x01")
			},
			rules: []string{enhanced.RuleUnknownEntry, enhanced.RuleUnknownEntry, enhanced.RuleUnknownEntry},
		},
		"two locks with one token": {
			plant: func(e *editor) {
				e.put(e.app(), "lproject/twin/default/", e.get(e.app(), lockEntry(e.custom)))
				e.edit(e.app(), "lproject/twin/default/", func(f map[string]any) {
					f["l"].(map[string]any)["Project"].(map[string]any)["Path"] = "twin"
					f["l"].(map[string]any)["Workspace"] = "default"
				})
				e.put(e.app(), "d"+num(e.custom.ExpiresAt.UnixMicro())+"project/twin/default/", "\x01")
			},
			rules: []string{enhanced.RuleLockToken}, rewritten: true,
		},
		"token of the future": {
			plant: func(e *editor) {
				e.edit(e.app(), lockEntry(e.leased), func(f map[string]any) { f["n"], f["a"] = "9000000000000000000", e.leased.AcquiredAt.UnixMicro() })
			},
			rules:   []string{enhanced.RuleIDStray, enhanced.RuleLockToken, enhanced.RuleLogLock},
			touched: leased, rewritten: true,
		},
		"the store's token set back": {
			plant: func(e *editor) { e.put(e.root(), "token", num(17)) },
			rules: []string{enhanced.RuleTokenCounter},
		},
		"the store's token set back, and the log trimmed": {
			plant: func(e *editor) {
				e.put(e.root(), "token", num(17))
				for _, b := range []*bbolt.Bucket{e.app(), e.bucket("org/other")} {
					e.put(b, "ycheckpoint", `{"sequence":"`+itoa(int64(b.Sequence()))+`","time":5}`)
					e.removePrefix(b, "a")
				}
			},
			rules: []string{enhanced.RuleTokenCounter},
		},
		"the store's clock half an hour behind its log": {
			plant: func(e *editor) {
				e.edit(e.app(), logEntry(6), func(f map[string]any) { f["t"] = time.Now().Add(30 * time.Minute).UnixMicro() })
			},
			rules: []string{enhanced.RuleClockBehind},
		},
		"the store's clock gone": {
			plant: func(e *editor) { e.remove(e.root(), "clock") },
			rules: []string{enhanced.RuleClockBehind},
		},
		"the store's clock in the future": {
			plant: func(e *editor) { e.put(e.root(), "clock", num(time.Now().Add(25*time.Hour).UnixMicro())) },
			rules: []string{enhanced.RuleClockAhead}, left: []string{enhanced.RuleClockAhead},
			touched: func(s *sample) []*enhanced.EnhancedLock { return []*enhanced.EnhancedLock{s.leased, s.custom} },
		},
		"log record unreadable": {
			plant: func(e *editor) {
				e.put(e.app(), logEntry(1), "{")
				e.put(e.app(), logEntry(2), `{}`)
			},
			rules: []string{enhanced.RuleLogUnreadable, enhanced.RuleLogUnreadable},
		},
		"log records gone": {
			plant: func(e *editor) {
				e.remove(e.app(), logEntry(2))
				e.remove(e.app(), logEntry(3))
			},
			rules: []string{enhanced.RuleLogGap},
		},
		"end of the log gone": {
			plant: func(e *editor) {
				e.remove(e.app(), logEntry(5))
				e.remove(e.app(), logEntry(6))
			},
			rules: []string{enhanced.RuleLogGap},
		},
		"beginning of the log gone": {
			plant: func(e *editor) { e.remove(e.app(), logEntry(1)) },
			rules: []string{enhanced.RuleLogCheckpoint},
		},
		"the whole log gone": {
			plant: func(e *editor) { e.removePrefix(e.app(), "a") },
			rules: []string{enhanced.RuleLogGap},
		},
		"checkpoint beyond the log's beginning": {
			plant: func(e *editor) { e.put(e.app(), "ycheckpoint", `{"sequence":"3","time":5}`) },
			rules: []string{enhanced.RuleLogCheckpoint},
		},
		"checkpoint unreadable": {
			plant: func(e *editor) { e.put(e.app(), "ycheckpoint", `{"sequence":3`) },
			rules: []string{enhanced.RuleLogCheckpoint},
		},
		"checkpoint unreadable, and no log": {
			plant: func(e *editor) {
				e.put(e.app(), "ycheckpoint", `{"sequence":3`)
				e.removePrefix(e.app(), "a")
			},
			rules: []string{enhanced.RuleLogCheckpoint},
		},
		"sequence set back": {
			plant: func(e *editor) { require.NoError(e.t, e.app().SetSequence(2)) },
			rules: []string{enhanced.RuleLogSequence},
		},
		"record far beyond the log": {
			plant: func(e *editor) {
				e.put(e.app(), logEntry(1<<40), e.get(e.app(), logEntry(1)))
				e.put(e.app(), logEntry(0), e.get(e.app(), logEntry(1)))
			},
			rules: []string{enhanced.RuleLogSequence, enhanced.RuleLogSequence},
		},
		"log time altered": {
			plant: func(e *editor) {
				e.edit(e.app(), logEntry(3), func(f map[string]any) { f["t"], f["n"] = 5, itoa(e.custom.Version) })
			},
			rules: []string{enhanced.RuleLogTime}, left: []string{enhanced.RuleLogTime},
		},
		"log token altered": {
			plant: func(e *editor) {
				e.edit(e.app(), logEntry(5), func(f map[string]any) {
					f["n"] = "5"
					f["z"].(map[string]any)["n"] = "5"
				})
			},
			rules: []string{enhanced.RuleLogToken}, left: []string{enhanced.RuleLogToken},
		},
		"log of another owner": {
			plant: func(e *editor) {
				e.edit(e.app(), logEntry(2), func(f map[string]any) { f["z"].(map[string]any)["o"] = "user:eve" })
			},
			rules: []string{enhanced.RuleLogLock},
		},
		"lease that the log does not have": {
			plant: func(e *editor) {
				e.edit(e.app(), lockEntry(e.plain), func(f map[string]any) { f["x"] = time.Now().Add(time.Hour).UnixMicro() })
			},
			rules: []string{enhanced.RuleDeadlineMissing, enhanced.RuleLogLock}, touched: plain,
		},
		"lock gone": {
			plant: func(e *editor) {
				e.remove(e.app(), lockEntry(e.leased))
				e.remove(e.stock(), e.leased.Resource.LegacyKey())
			},
			rules:   []string{enhanced.RuleDeadlineStray, enhanced.RuleIDStray, enhanced.RuleLogLock},
			touched: leased,
		},
		"repository without a name": {
			plant: func(e *editor) { e.remove(e.app(), "yname") },
			rules: []string{enhanced.RuleRepositoryName},
		},
		"repository with another name": {
			plant: func(e *editor) { e.put(e.bucket("org/other"), "yname", "org/app") },
			rules: []string{enhanced.RuleRepositoryName},
		},
		"repository that nothing names": {
			plant: func(e *editor) {
				_, err := e.tx.CreateBucket([]byte(enhanced.RepositoryTag("org/third")))
				require.NoError(e.t, err)
			},
			rules: []string{enhanced.RuleRepositoryName}, left: []string{enhanced.RuleRepositoryName},
		},
		"entries of no kind": {
			plant: func(e *editor) {
				for _, key := range []string{"a", "q1", "i1", "z1", "yother", "cnobody", "cuser:alice", "\xff\x00"} {
					e.put(e.app(), key, "value")
				}
			},
			rules: slices.Repeat([]string{enhanced.RuleUnknownEntry}, 8),
		},
		"store entry of no kind": {
			plant: func(e *editor) { e.put(e.root(), "other", "x") },
			rules: []string{enhanced.RuleUnknownEntry}, left: []string{enhanced.RuleUnknownEntry},
		},
	}
	maps.Copy(all, valueCorruptions())
	return all
}
