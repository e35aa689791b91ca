package backends_test

import (
	"context"
	"errors"
	"strconv"
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

// damaged is a store with two locks, one with a lease, and one that has ended.
type damaged struct {
	client *redis.Client
	*backends.RedisBackend
	plain, leased, ended *enhanced.EnhancedLock
}

func newDamaged(t *testing.T) *damaged {
	t.Helper()
	client := redistest.Start(t, redistest.Options{}).Client()
	config := enhanced.DefaultConfig()
	config.PreserveLegacyFormat = false // else stock's copy counts where ours is gone
	d := &damaged{client: client, RedisBackend: openRedis(t, client, config)}
	take := func(path string, lease time.Duration) *enhanced.EnhancedLock {
		r := by("org/app", path, "ann")
		r.Timeout, r.ID = lease, "request "+path
		lock, err := d.AcquireLock(t.Context(), r)
		require.NoError(t, err)
		return lock
	}
	d.plain, d.leased, d.ended = take("plain", enhanced.NoTimeout), take("leased", time.Hour), take("ended", time.Hour)
	require.NoError(t, d.ReleaseLock(t.Context(), d.ended.ID))
	return d
}

func (d *damaged) key(suffix string) string {
	return "atlantis:lock:{" + enhanced.RepositoryTag("org/app") + "}:" + suffix
}

const plainRequest = "request plain"

func token(lock *enhanced.EnhancedLock) string { return strconv.FormatInt(lock.Version, 10) }

// Each damage is found, named, and where the store's other entries tell what
// was there, repaired and logged.
func TestRedisVerifyFindsDamage(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	member := func(lock *enhanced.EnhancedLock) string {
		return "o" + lock.Owner + "\n" + lock.Resource.Key() + "\nrequest " + lock.Resource.Path
	}
	replaced := func(d *damaged, lock *enhanced.EnhancedLock, old, text string) error {
		for _, part := range []string{"l", "d"} {
			value, err := d.client.HGet(ctx, d.key("state"), part+lock.Resource.Key()).Result()
			if err != nil {
				return err
			}
			if err := d.client.HSet(ctx, d.key("state"), part+lock.Resource.Key(), strings.Replace(value, old, text, 1)).Err(); err != nil {
				return err
			}
		}
		return nil
	}
	for name, c := range map[string]struct {
		plant  func(d *damaged) error
		rule   string
		person bool // no repair
	}{
		"a key without a place": {plant: func(d *damaged) error { return d.client.Set(ctx, "atlantis:lock:x", 1, 0).Err() },
			rule: enhanced.RuleUnknownEntry, person: true},
		"a key of another type": {plant: func(d *damaged) error { return d.client.Set(ctx, d.key("queue"), 1, 0).Err() },
			rule: enhanced.RuleUnknownEntry, person: true},
		"another name": {plant: func(d *damaged) error { return d.client.HSet(ctx, d.key("state"), "name", "org/other").Err() },
			rule: enhanced.RuleRepositoryName, person: true},
		"a lower token": {plant: func(d *damaged) error { return setCount(ctx, d.client, d.key("state"), "token", 5) },
			rule: enhanced.RuleTokenCounter},
		"a lock of no resource": {plant: func(d *damaged) error { return d.client.HSet(ctx, d.key("state"), "lx", "y").Err() },
			rule: enhanced.RuleLockKey},
		"an unreadable lock": {plant: func(d *damaged) error {
			return d.client.HSet(ctx, d.key("state"), "l"+d.plain.Resource.Key(), "y").Err()
		}, rule: enhanced.RuleLockUnreadable},
		"stock's form of another": {plant: func(d *damaged) error { return replaced(d, d.plain, `"plain"`, `"other"`) },
			rule: enhanced.RuleLockContent, person: true},
		"a credential": {plant: func(d *damaged) error {
			return replaced(d, d.plain, `"User":`, `"Pull":{"BaseRepo":{"CloneURL":"https://u:`+secret+`@h/r.git"}},"User":`)
		}, rule: enhanced.RuleCredential, person: true},
		"a token of two": {plant: func(d *damaged) error { return replaced(d, d.plain, token(d.plain), token(d.leased)) },
			rule: enhanced.RuleLockToken, person: true},
		"details of no lock": {plant: func(d *damaged) error { return d.client.HSet(ctx, d.key("state"), "dx", "{}").Err() },
			rule: enhanced.RuleUnknownEntry},
		"another count": {plant: func(d *damaged) error { return setCount(ctx, d.client, d.key("state"), "locks", 7) },
			rule: enhanced.RuleLockCount},
		"no owner": {plant: func(d *damaged) error { return d.client.ZRem(ctx, d.key("queue"), member(d.plain)).Err() },
			rule: enhanced.RuleOwnerMissing},
		"an owner too many": {plant: func(d *damaged) error {
			return d.client.ZAdd(ctx, d.key("queue"), redis.Z{Member: member(d.ended)}).Err()
		}, rule: enhanced.RuleOwnerStray},
		"an owner too many, with a score": {plant: func(d *damaged) error {
			return d.client.ZAdd(ctx, d.key("queue"), redis.Z{Member: member(d.ended), Score: 5}).Err()
		}, rule: enhanced.RuleOwnerStray},
		"no deadline": {plant: func(d *damaged) error { return d.client.ZRem(ctx, d.key("deadlines"), d.leased.Resource.Key()).Err() },
			rule: enhanced.RuleDeadlineMissing},
		"a deadline too many": {plant: func(d *damaged) error {
			return d.client.ZAdd(ctx, d.key("deadlines"), redis.Z{Member: d.plain.Resource.Key(), Score: 1e15}).Err()
		}, rule: enhanced.RuleDeadlineStray},
		"no ID": {plant: func(d *damaged) error { return d.client.HDel(ctx, d.key("state"), "i"+token(d.plain)).Err() },
			rule: enhanced.RuleIDMissing},
		"an ID too many": {plant: func(d *damaged) error {
			return d.client.HSet(ctx, d.key("state"), "i7", d.plain.Resource.Key()).Err()
		}, rule: enhanced.RuleIDStray},
		"no request": {plant: func(d *damaged) error { return d.client.HDel(ctx, d.key("state"), "r"+plainRequest).Err() },
			rule: enhanced.RuleRequestMissing},
		"a request too many": {plant: func(d *damaged) error { return d.client.HSet(ctx, d.key("state"), "rx", token(d.plain)).Err() },
			rule: enhanced.RuleRequestStray},
		"an unreadable ending": {plant: func(d *damaged) error {
			return d.client.HSet(ctx, d.key("state"), "i"+token(d.ended), "a\nb\nc\nd").Err()
		}, rule: enhanced.RuleEnding},
		"an ending for ever": {plant: func(d *damaged) error {
			return errors.Join(d.client.HDel(ctx, d.key("state"), "e1").Err(), setCount(ctx, d.client, d.key("state"), "ended", 0))
		}, rule: enhanced.RuleEnding},
		"nothing to forget": {plant: func(d *damaged) error {
			return errors.Join(d.client.HSet(ctx, d.key("state"), "e2", "5 7").Err(), setCount(ctx, d.client, d.key("state"), "ended", 2))
		}, rule: enhanced.RuleForgetStray},
		"stock's unreadable": {plant: func(d *damaged) error { return d.client.Set(ctx, "pr/org/app/x/default/", "{", 0).Err() },
			rule: enhanced.RuleStockUnreadable, person: true},
		"a lost log record": {plant: func(d *damaged) error { return d.client.XDel(ctx, d.key("log"), "2-0").Err() },
			rule: enhanced.RuleLogGap, person: true},
		"the lost end of the log": {plant: func(d *damaged) error { return d.client.XDel(ctx, d.key("log"), "4-0").Err() },
			rule: enhanced.RuleLogGap, person: true},
		"a log beyond its end": {plant: func(d *damaged) error { return setCount(ctx, d.client, d.key("state"), "sequence", 3) },
			rule: enhanced.RuleLogSequence},
		"another checkpoint": {plant: func(d *damaged) error { return setCount(ctx, d.client, d.key("state"), "trimmed", 2) },
			rule: enhanced.RuleLogCheckpoint, person: true},
		"a lost lock": {plant: func(d *damaged) error {
			key := d.plain.Resource.Key()
			pipe := d.client.Pipeline()
			pipe.HDel(ctx, d.key("state"), "l"+key, "d"+key)
			pipe.ZRem(ctx, d.key("queue"), member(d.plain))
			pipe.HDel(ctx, d.key("state"), "i"+token(d.plain), "r"+plainRequest)
			_, err := pipe.Exec(ctx)
			return err
		}, rule: enhanced.RuleLogLock},
		"another owner": {plant: func(d *damaged) error {
			// Everything but the log agrees.
			if err := d.client.ZAdd(ctx, d.key("queue"), redis.Z{Member: "ouser:eve\n" + d.plain.Resource.Key() + "\n" + plainRequest}).Err(); err != nil {
				return err
			}
			if err := d.client.ZRem(ctx, d.key("queue"), member(d.plain)).Err(); err != nil {
				return err
			}
			if err := replaced(d, d.plain, "user:ann", "user:eve"); err != nil {
				return err
			}
			return replaced(d, d.plain, `"Username":"ann"`, `"Username":"eve"`)
		}, rule: enhanced.RuleLogLock},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDamaged(t)
			require.NoError(t, c.plant(d))
			found, err := d.Verify(ctx)
			require.NoError(t, err)
			require.NotEmpty(t, found)
			require.Equal(t, c.rule, found[0].Rule, "%+v", found)
			require.NotContains(t, found[0].Detail, secret)
			if c.person {
				return
			}
			require.NotEmpty(t, found[0].Repair)
			repaired, err := d.Repair(ctx, "user:admin", "a test")
			require.NoError(t, err)
			require.Equal(t, c.rule, repaired[0].Rule)
			found, err = d.Verify(ctx)
			require.NoError(t, err)
			require.Empty(t, found)
			page, err := d.ReadLog(ctx, "org/app", 4, 10)
			require.NoError(t, err)
			require.Len(t, page.Records, len(repaired))
			require.Equal(t, enhanced.EventRepaired, page.Records[0].Type)
			require.Equal(t, "user:admin", page.Records[0].Actor)
			require.Contains(t, page.Records[0].Reason, "a test")
			_, err = d.AcquireLock(ctx, by("org/app", "next", "bob"))
			require.NoError(t, err)
		})
	}
}

// What can't be read is kept, byte for byte.
func TestRedisRepairKeepsWhatItMoves(t *testing.T) {
	t.Parallel()
	d := newDamaged(t)
	ctx := t.Context()
	const bytes = "\x00\xff\n not a record"
	require.NoError(t, d.client.HSet(ctx, d.key("state"), "l"+d.plain.Resource.Key(), bytes).Err())
	_, err := d.Repair(ctx, "user:admin", "a test")
	require.NoError(t, err)
	kept, err := d.client.HGet(ctx, d.key("aside"), "l"+d.plain.Resource.Key()).Result()
	require.NoError(t, err)
	require.Equal(t, bytes, kept)
	_, err = d.AcquireLock(ctx, by("org/app", "plain", "bob"))
	require.NoError(t, err)
	backendtest.RequireSound(t, d)
}

// A healthy store stays the same byte for byte, and a repair without a name or
// reason is refused.
func TestRedisRepairLeavesHealthyAlone(t *testing.T) {
	t.Parallel()
	d := newDamaged(t)
	ctx := t.Context()
	image := func() map[string]string {
		keys, err := d.client.Keys(ctx, "*").Result()
		require.NoError(t, err)
		image := make(map[string]string)
		for _, key := range keys {
			image[key], err = d.client.Dump(ctx, key).Result()
			require.NoError(t, err)
		}
		return image
	}
	before := image()
	backendtest.RequireSound(t, d)
	require.Equal(t, before, image())
	_, err := d.Repair(ctx, "", "a test")
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
	_, err = d.Repair(ctx, "user:admin", " ")
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
}
