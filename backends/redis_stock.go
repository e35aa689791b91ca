package backends

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
)

// On one server stock Atlantis' keys are looked at in every step, since a
// replica that runs stock may use them. On a cluster a resource's key lies on
// another shard than its repository, so stock's locks are imported instead.

// mirrors reports whether a resource has a key that stock may use.
func (b *RedisBackend) mirrors(resource enhanced.ResourceIdentifier) bool {
	return !b.isCluster() && hasStockKey(resource)
}

// stockKeys returns stock's keys of resources of one repository for a script's
// KEYS, see the prelude: two for each; none on a cluster.
func (b *RedisBackend) stockKeys(resources ...enhanced.ResourceIdentifier) []string {
	if b.isCluster() {
		return nil
	}
	keys := make([]string, 0, 2*len(resources))
	for _, resource := range resources {
		if !hasStockKey(resource) {
			none := b.keys.state(enhanced.RepositoryTag(resource.Namespace))
			keys = append(keys, none, none)
			continue
		}
		present := stockKey(resource)
		old := present
		if resource.Name == "" {
			old = strings.TrimSuffix(present, "/") // see oldStockKey
		}
		keys = append(keys, present, old)
	}
	return keys
}

// commonStockKeys are those for the common script, nil for a resource without.
func (b *RedisBackend) commonStockKeys(resource enhanced.ResourceIdentifier) []string {
	if !hasStockKey(resource) {
		return nil
	}
	return b.stockKeys(resource)
}

// maxFollow bounds how often a step is tried again because stock was faster.
const maxFollow = 20

// decideOn runs a script on one resource, after taking over what stock has put
// under the resource's keys. When that is a lock on another resource with the
// same key, it returns that lock.
func (b *RedisBackend) decideOn(ctx context.Context, operation string, s script, resource enhanced.ResourceIdentifier, args ...any) (answer, *enhanced.EnhancedLock, error) {
	all := append([]any{resource.Key()}, args...)
	tag, stock := enhanced.RepositoryTag(resource.Namespace), b.stockKeys(resource)
	for range maxFollow {
		a, err := b.step(ctx, operation, s, tag, resource.Namespace, stock, all...)
		if err != nil || a.status != "stock" && a.status != "old" {
			return a, nil, err
		}
		if a.status == "old" {
			mine, err := b.followOld(ctx, operation, resource, a.value(0))
			if err != nil {
				return answer{}, nil, err
			}
			if !mine {
				stock[1] = stock[0]
			}
			continue
		}
		lock, err := b.follow(ctx, operation, resource, a.value(0))
		switch {
		case err != nil:
			return answer{}, nil, err
		case lock != nil && lock.Resource != resource:
			return answer{}, lock, nil
		}
	}
	return answer{}, nil, enhanced.NewBackendError(operation, fmt.Errorf("stock Atlantis' key of %s changes all the time", resource))
}

// follow takes over the lock that stock has put under a resource's key. It
// returns the lock that is held there, nil if it has gone meanwhile.
func (b *RedisBackend) follow(ctx context.Context, operation string, resource enhanced.ResourceIdentifier, value string) (*enhanced.EnhancedLock, error) {
	original, err := decodeProjectLock([]byte(value))
	if err != nil {
		return nil, enhanced.NewCorruptError(resource, stockKey(resource))
	}
	holder := enhanced.ProjectResource(original.Project, original.Workspace)
	if holder.Validate() != nil || stockKey(holder) != stockKey(resource) {
		return nil, enhanced.NewCorruptError(resource, stockKey(resource))
	}
	if holder == resource {
		return b.adopt(ctx, operation, resource, value, original)
	}
	lock, err := b.LookupLock(ctx, holder)
	if isNotFound(err) {
		// Its lease may have ended, and its copy with it goes away.
		_, err = b.settleOne(ctx, operation, holder)
	}
	return lock, err
}

// followOld moves what an Atlantis before v0.40 has put under a resource's old
// key to the present one. It reports false when that is another resource's.
func (b *RedisBackend) followOld(ctx context.Context, operation string, resource enhanced.ResourceIdentifier, value string) (mine bool, err error) {
	key, _ := oldStockKey(resource)
	v := readStockValue(key, value, nil)
	switch {
	case v.problem != "":
		return false, enhanced.NewCorruptError(resource, key)
	case v.resource != resource:
		return false, nil
	}
	_, err = b.moveOldKey(ctx, operation, v)
	return true, err
}

func (b *RedisBackend) adopt(ctx context.Context, operation string, resource enhanced.ResourceIdentifier, value string, original *models.ProjectLock) (*enhanced.EnhancedLock, error) {
	payload, err := encodeProjectLock(*original)
	if err != nil {
		return nil, enhanced.NewCorruptError(resource, stockKey(resource))
	}
	a, err := b.step(ctx, operation, b.scripts.adopt, enhanced.RepositoryTag(resource.Namespace), resource.Namespace,
		b.stockKeys(resource), resource.Key(), value, enhanced.ProjectLockOwner(*original).String(),
		original.Time.UnixMicro(), int(enhanced.PriorityNormal), payload)
	if err != nil || a.status != "adopted" {
		return nil, err
	}
	return redisLock(a.value(0), a.value(1), b.repository(resource.Namespace).tag, resource)
}

// stockValue is what stock has under one of its keys; problem says why it can't
// be read.
type stockValue struct {
	key, value, problem string
	resource            enhanced.ResourceIdentifier
	original            *models.ProjectLock
}

// stockValues reads all of stock's locks, or those of one repository.
func (b *RedisBackend) stockValues(ctx context.Context, repository string) ([]stockValue, error) {
	pattern := stockPrefix + "*"
	if repository != "" {
		pattern = stockPrefix + globEscaped(repository) + "/*"
	}
	keys, err := b.scanKeys(ctx, b.client, pattern)
	if err != nil {
		return nil, err
	}
	var found []stockValue
	for page := range slices.Chunk(keys, scanPage) {
		pipe := b.client.Pipeline()
		gets := make([]*redis.StringCmd, len(page))
		for i, key := range page {
			gets[i] = pipe.Get(ctx, key)
		}
		if err := execute(ctx, pipe); err != nil {
			return nil, err
		}
		for i, get := range gets {
			value, err := get.Result()
			if err == redis.Nil { //nolint:errorlint // the client returns it as it is
				continue
			}
			found = append(found, readStockValue(page[i], value, err))
		}
	}
	return found, nil
}

func readStockValue(key, value string, err error) stockValue {
	v := stockValue{key: key, value: value}
	if err != nil {
		v.problem = err.Error()
		return v
	}
	if v.original, err = decodeProjectLock([]byte(value)); err != nil {
		v.problem = err.Error()
		return v
	}
	v.resource = enhanced.ProjectResource(v.original.Project, v.original.Workspace)
	if err := v.resource.Validate(); err != nil {
		v.problem = err.Error()
	}
	return v
}

// followed is what came of following stock.
type followed struct {
	// changed is set when something here has changed.
	changed bool
	// unreadable are the keys that can't be read.
	unreadable []string
	// unrecorded are locks of stock's that could not be taken over for now.
	unrecorded []*enhanced.EnhancedLock
	// leftovers are locks under keys of before Atlantis v0.40 whose resource has
	// another holder.
	leftovers []stockValue
}

// followAll takes over all that stock has locked, in a repository or in all of
// them, and ends what stock has unlocked.
func (b *RedisBackend) followAll(ctx context.Context, operation, repository string, records map[enhanced.ResourceIdentifier]*redisRecord) (followed, error) {
	var f followed
	if b.isCluster() {
		return f, nil
	}
	values, err := call(ctx, b, operation, false, func(ctx context.Context) ([]stockValue, error) { return b.stockValues(ctx, repository) })
	if err != nil {
		return f, err
	}
	seen := make(map[enhanced.ResourceIdentifier]bool, len(values))
	var behind []enhanced.ResourceIdentifier
	for _, v := range values {
		switch {
		case v.problem == "" && v.isOld():
			moved, err := b.moveOldKey(ctx, operation, v)
			if err != nil {
				return f, err
			}
			if moved {
				seen[v.resource] = true
				behind = append(behind, v.resource)
			} else {
				f.leftovers = append(f.leftovers, v)
			}
		case v.problem != "", v.key != stockKey(v.resource):
			f.unreadable = append(f.unreadable, v.key)
		default:
			seen[v.resource] = true
			if r, ours := records[v.resource]; !ours || r.payload != v.value {
				behind = append(behind, v.resource)
			}
		}
	}
	for resource, r := range records {
		if r.Mirror != "" && !seen[resource] {
			behind = append(behind, resource)
		}
	}
	for _, resource := range behind {
		if err := ctx.Err(); err != nil {
			return f, contextError(operation, err)
		}
		f.changed = true
		lock, err := b.LookupLock(ctx, resource)
		switch {
		case err == nil && lock.ID == "":
			f.unrecorded = append(f.unrecorded, lock)
		case isCorrupt(err), hasErrorPrefix(err, "WRONGTYPE"):
			f.unreadable = append(f.unreadable, stockKey(resource))
		case err != nil && !isNotFound(err):
			return f, err
		}
	}
	return f, nil
}

// releaseLeftovers removes what is left of a pull request under keys of before
// Atlantis v0.40.
func (b *RedisBackend) releaseLeftovers(ctx context.Context, operation string, number int, leftovers []stockValue) (released []*enhanced.EnhancedLock, err error) {
	for _, v := range leftovers {
		if v.original.Pull.Num != number {
			continue
		}
		reply, err := b.run(ctx, operation, b.scripts.status, []string{v.key}, v.value, "")
		if err != nil {
			return released, err
		}
		if reply[0] == "replaced" {
			lock := unrecorded(v.resource, v.original)
			lock.State = enhanced.LockStateReleased
			released = append(released, lock)
		}
	}
	return released, nil
}

// isOld reports whether the value is under the key of before Atlantis v0.40.
func (v stockValue) isOld() bool {
	key, had := oldStockKey(v.resource)
	return had && v.key == key
}

// moveOldKey moves a lock from a key of before Atlantis v0.40 to the present
// one. Where another lock is there, two hold the resource: it stays, and takes
// the place of the other one when that has ended.
func (b *RedisBackend) moveOldKey(ctx context.Context, operation string, v stockValue) (moved bool, err error) {
	return call(ctx, b, operation, true, func(ctx context.Context) (bool, error) {
		moved, err := b.client.RenameNX(ctx, v.key, stockKey(v.resource)).Result()
		if hasErrorPrefix(err, "no such key") {
			return true, nil // another replica was faster
		}
		return moved, err
	})
}

// unrecorded is a lock of stock's that could not be taken over: it has no ID.
func unrecorded(resource enhanced.ResourceIdentifier, original *models.ProjectLock) *enhanced.EnhancedLock {
	record := &lockRecord{
		Owner: enhanced.ProjectLockOwner(*original).String(), Priority: enhanced.PriorityNormal,
		Acquired: max(original.Time.UnixMicro(), 1),
	}
	sanitized := enhanced.SanitizeProjectLock(*original)
	lock := newLock(enhanced.RepositoryTag(resource.Namespace), resource, record, &sanitized)
	lock.ID, lock.AcquiredAt = "", time.UnixMicro(record.Acquired)
	return lock
}
