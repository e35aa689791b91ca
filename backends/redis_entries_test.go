package backends_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
)

// streamEntry is an entry of a log as the server has it.
type streamEntry struct {
	id     string
	fields []string // names and texts
}

// entriesOf reads the entries of a log.
func entriesOf(t *testing.T, client *redis.Client, key string) (entries []streamEntry) {
	t.Helper()
	all, err := client.Do(t.Context(), "XRANGE", key, "-", "+").Slice()
	require.NoError(t, err)
	for _, one := range all {
		parts := one.([]any)
		e := streamEntry{id: parts[0].(string)}
		for _, field := range parts[1].([]any) {
			e.fields = append(e.fields, field.(string))
		}
		entries = append(entries, e)
	}
	return entries
}

// textsOf are the texts of a log's records, however they share entries.
func textsOf(t *testing.T, client *redis.Client, key string) (texts []string) {
	t.Helper()
	for _, e := range entriesOf(t, client, key) {
		for i := 1; i < len(e.fields); i += 2 {
			texts = append(texts, e.fields[i])
		}
	}
	return texts
}

// handsOver lets a lock go through the hands of n waiters, and returns all
// records of its repository: acquired, n times queued, n times released and granted.
func handsOver(t *testing.T, b *backends.RedisBackend, n int) []*enhanced.LogRecord {
	t.Helper()
	lock, err := b.AcquireLock(t.Context(), by("org/app", ".", "ann"))
	require.NoError(t, err)
	var requests []*enhanced.EnhancedLockRequest
	for i := range n {
		requests = append(requests, by("org/app", ".", fmt.Sprint("u", i)))
	}
	answers := waits(t, b, requests...)
	for range n {
		_, err := b.Release(t.Context(), enhanced.ReleaseRequest{Resource: lock.Resource, Force: true, Actor: "user:max", Reason: "a test"})
		require.NoError(t, err)
		require.NoError(t, <-answers)
	}
	page, err := b.ReadLog(t.Context(), "org/app", 0, 1000)
	require.NoError(t, err)
	require.Len(t, page.Records, 1+3*n)
	return page.Records
}

// requireRecords reads the events of records, in order.
func requireRecords(t *testing.T, events <-chan *enhanced.LockEvent, records []*enhanced.LogRecord) {
	t.Helper()
	for _, record := range records {
		select {
		case event := <-events:
			require.Equal(t, record.Event(), event)
		case <-time.After(30 * time.Second):
			t.Fatalf("the event of record %d is missing", record.Sequence)
		}
	}
}

// The two records of a hand-over are one entry of the stream. Readers see two, from
// wherever they begin and however many they ask for.
func TestRedisLogOfHandOvers(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t, redistest.Options{}).Client()
	b := openRedis(t, client, queueOn())
	live, err := b.Subscribe(t.Context(), nil)
	require.NoError(t, err)
	const n = 3
	all := handsOver(t, b, n)
	types := []string{enhanced.EventAcquired}
	types = append(types, slices.Repeat([]string{enhanced.EventQueued}, n)...)
	types = append(types, slices.Repeat([]string{enhanced.EventReleased, enhanced.EventGranted}, n)...)
	for i, record := range all {
		require.Equal(t, uint64(i+1), record.Sequence)
		require.Equal(t, types[i], record.Type)
	}
	require.Len(t, entriesOf(t, client, repositoryKey("org/app", "log")), 1+2*n)
	requireRecords(t, live, all)
	for after := range all {
		for limit := 1; limit <= len(all)-after; limit++ {
			page, err := b.ReadLog(t.Context(), "org/app", uint64(after), limit)
			require.NoError(t, err)
			require.Equal(t, all[after:after+limit], page.Records, "%d after %d", limit, after)
			require.Equal(t, after+limit < len(all), page.More, "%d after %d", limit, after)
		}
		events, err := b.SubscribeFrom(t.Context(), nil, enhanced.LogPosition{"org/app": uint64(after)})
		require.NoError(t, err)
		requireRecords(t, events, all[after:])
	}
	backendtest.RequireSound(t, b)
	// A reader goes on after the last one, too.
	events, err := b.Subscribe(t.Context(), nil)
	require.NoError(t, err)
	_, err = b.AcquireLock(t.Context(), by("org/app", "next", "ann"))
	require.NoError(t, err)
	requireEvents(t, events, "next")
}

// An entry is trimmed as a whole, once none of its records is to be kept, and the
// log says what is gone.
func TestRedisTrimsHandOversAsAWhole(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t, redistest.Options{}).Client()
	b := openRedis(t, client, queueOn())
	all := handsOver(t, b, 4) // 13 records; 6 and 7, 8 and 9, 10 and 11, 12 and 13 share an entry
	for _, c := range []struct{ most, trimmed int }{{12, 1}, {7, 5}, {6, 7}, {5, 7}, {4, 9}, {3, 9}, {1, 11}} {
		config := queueOn()
		config.LogMaxRecords = c.most
		small := openRedis(t, client, config)
		_, err := small.CleanupExpiredLocks(t.Context())
		require.NoError(t, err)
		page, err := b.ReadLog(t.Context(), "org/app", 0, 100)
		require.NoError(t, err)
		require.Equal(t, uint64(c.trimmed), page.Trimmed, "at most %d", c.most)
		require.Equal(t, all[c.trimmed:], page.Records, "at most %d", c.most)
		backendtest.RequireSound(t, b)
		// Who has read up to there goes on, and who comes from before is told.
		from := enhanced.LogPosition{"org/app": uint64(c.trimmed + 1)}
		events, err := b.SubscribeFrom(t.Context(), nil, from)
		require.NoError(t, err)
		requireRecords(t, events, all[c.trimmed+1:])
		from["org/app"] = uint64(c.trimmed - 1)
		events, err = b.SubscribeFrom(t.Context(), nil, from)
		require.NoError(t, err)
		requireEvents(t, events, "") // of type skipped, which names no resource
		requireRecords(t, events, all[c.trimmed:])
	}
}

// Age trims entries as a whole, too.
func TestRedisTrimsOldHandOvers(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t, redistest.Options{}).Client()
	config := queueOn()
	b := openRedis(t, client, config)
	all := handsOver(t, b, 2)
	config.LogMaxAge = time.Microsecond
	_, err := openRedis(t, client, config).CleanupExpiredLocks(t.Context())
	require.NoError(t, err)
	page, err := b.ReadLog(t.Context(), "org/app", 0, 100)
	require.NoError(t, err)
	require.Empty(t, page.Records)
	require.Equal(t, uint64(len(all)), page.Trimmed)
	backendtest.RequireSound(t, b)
}

// An entry that can't be read is one record, which readers pass and verify names.
func TestRedisLogEntriesThatCannotBeRead(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for name, fields := range map[string]func(text string) []string{
		"another field":            func(text string) []string { return []string{"x", text} },
		"another field behind":     func(text string) []string { return []string{"d", text, "x", text} },
		"another field before":     func(text string) []string { return []string{"x", text, "d", text} },
		"a text that is no record": func(string) []string { return []string{"d", "x"} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := redistest.Start(t, redistest.Options{}).Client()
			b := openRedis(t, client, queueOn())
			all := handsOver(t, b, 2) // the last two are 6 and 7
			key := repositoryKey("org/app", "log")
			require.NoError(t, client.XDel(ctx, key, "7-0").Err())
			require.NoError(t, client.XAdd(ctx, &redis.XAddArgs{Stream: key, ID: "8-0", Values: fields(textsOf(t, client, key)[4])}).Err())
			require.NoError(t, setCount(ctx, client, repositoryKey("org/app", "state"), "sequence", 8))
			page, err := b.ReadLog(ctx, "org/app", 0, 100)
			require.NoError(t, err)
			require.Equal(t, all[:5], page.Records[:5])
			require.Len(t, page.Records, 6)
			require.Equal(t, enhanced.EventUnreadable, page.Records[5].Type)
			require.Equal(t, uint64(8), page.Records[5].Sequence)
			found, err := b.Verify(ctx)
			require.NoError(t, err)
			var rules []string
			for _, v := range found {
				rules = append(rules, v.Rule)
			}
			require.Contains(t, rules, enhanced.RuleLogUnreadable)
			require.Contains(t, rules, enhanced.RuleLogGap)
			// Whoever has read it sees what comes after it, and nothing again.
			events, err := b.Subscribe(ctx, nil)
			require.NoError(t, err)
			_, err = b.AcquireLock(ctx, by("org/app", "next", "ann"))
			require.NoError(t, err)
			requireEvents(t, events, "next")
		})
	}
}

// An entry never has the records of the one before a second time.
func TestRedisLogEntriesThatOverlap(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	client := redistest.Start(t, redistest.Options{}).Client()
	b := openRedis(t, client, queueOn())
	all := handsOver(t, b, 2)
	key := repositoryKey("org/app", "log")
	text := textsOf(t, client, key)[6]
	for _, n := range []int{3, 30} {
		last := uint64(len(all) + 1)
		require.NoError(t, client.XAdd(ctx, &redis.XAddArgs{Stream: key, ID: fmt.Sprint(last, "-0"), Values: slices.Repeat([]string{"d", text}, n)}).Err())
		page, err := b.ReadLog(ctx, "org/app", 0, 100)
		require.NoError(t, err)
		require.Equal(t, all, page.Records[:last-1])
		require.Len(t, page.Records, int(last))
		require.Equal(t, last, page.Records[last-1].Sequence)
		all = page.Records
	}
}

// What is missing of entries with two records is named.
func TestRedisVerifyNamesLostHandOvers(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	client := redistest.Start(t, redistest.Options{}).Client()
	b := openRedis(t, client, queueOn())
	handsOver(t, b, 3) // 5 and 6, 7 and 8, 9 and 10 share an entry
	key := repositoryKey("org/app", "log")
	require.NoError(t, client.XDel(ctx, key, "8-0").Err())
	found, err := b.Verify(ctx)
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.Equal(t, enhanced.RuleLogGap, found[0].Rule)
	require.True(t, strings.HasSuffix(found[0].Record, " 7"), found[0].Record)
	require.Contains(t, found[0].Detail, "7 to 8")
}
