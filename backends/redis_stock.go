package backends

import (
	"context"
	"fmt"
	"slices"
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

// stockKeys returns stock's keys of resources for a script's KEYS: one for each
// resource, or none.
func (b *RedisBackend) stockKeys(resources ...enhanced.ResourceIdentifier) []string {
	if b.isCluster() {
		return nil
	}
	keys := make([]string, len(resources))
	for i, resource := range resources {
		if !hasStockKey(resource) {
			return nil
		}
		keys[i] = stockKey(resource)
	}
	return keys
}

// maxFollow bounds how often a step is tried again because stock was faster.
const maxFollow = 20

// decideOn runs a script on one resource, after taking over what stock has put
// under the resource's key. When that is a lock on another resource with the
// same key, it returns that lock.
func (b *RedisBackend) decideOn(ctx context.Context, operation string, s script, resource enhanced.ResourceIdentifier, args ...any) (answer, *enhanced.EnhancedLock, error) {
	all := append([]any{resource.Key()}, args...)
	for range maxFollow {
		a, err := b.step(ctx, operation, s, enhanced.RepositoryTag(resource.Namespace), resource.Namespace, b.stockKeys(resource), all...)
		if err != nil || a.status != "stock" {
			return a, nil, err
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
		return nil, nil
	}
	return lock, err
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
	return redisLock(a.value(0), resource)
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
	keys, err := scanKeys(ctx, b.client, pattern)
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

// followAll takes over all that stock has locked, in a repository or in all of
// them, and ends what stock has unlocked. It returns the keys that can't be
// read.
func (b *RedisBackend) followAll(ctx context.Context, operation, repository string, records map[enhanced.ResourceIdentifier]*redisRecord) (changed bool, unreadable []string, err error) {
	if b.isCluster() {
		return false, nil, nil
	}
	values, err := call(ctx, b, operation, false, func(ctx context.Context) ([]stockValue, error) { return b.stockValues(ctx, repository) })
	if err != nil {
		return false, nil, err
	}
	seen := make(map[enhanced.ResourceIdentifier]string, len(values))
	var behind []enhanced.ResourceIdentifier
	for _, v := range values {
		switch {
		case v.problem != "":
			unreadable = append(unreadable, v.key)
			continue
		case v.key != stockKey(v.resource):
			if err := b.moveOldKey(ctx, operation, v); err != nil {
				return changed, unreadable, err
			}
			behind = append(behind, v.resource)
			continue
		}
		seen[v.resource] = v.value
		if r, ours := records[v.resource]; !ours || r.payload != v.value {
			behind = append(behind, v.resource)
		}
	}
	for resource, r := range records {
		if _, found := seen[resource]; r.Mirror != "" && !found {
			behind = append(behind, resource)
		}
	}
	for _, resource := range behind {
		if err := ctx.Err(); err != nil {
			return changed, unreadable, contextError(operation, err)
		}
		changed = true
		if _, err := b.LookupLock(ctx, resource); err != nil && !isNotFound(err) {
			if !isCorrupt(err) {
				return changed, unreadable, err
			}
			unreadable = append(unreadable, stockKey(resource))
		}
	}
	return changed, unreadable, nil
}

// moveOldKey moves a lock from a key of before Atlantis v0.40 to the present
// one, unless something is there.
func (b *RedisBackend) moveOldKey(ctx context.Context, operation string, v stockValue) error {
	_, err := call(ctx, b, operation, true, func(ctx context.Context) (struct{}, error) {
		err := b.client.RenameNX(ctx, v.key, stockKey(v.resource)).Err()
		if hasErrorPrefix(err, "no such key") {
			err = nil // another replica was faster
		}
		return struct{}{}, err
	})
	return err
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
