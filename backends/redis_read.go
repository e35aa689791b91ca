package backends

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// location is where a lock ID leads to.
type location struct {
	resource enhanced.ResourceIdentifier
	token    int64
	ending   *ending
}

// locate finds the resource of a lock ID, or the reason why the ID leads
// nowhere.
func (b *RedisBackend) locate(ctx context.Context, lockID string) (location, error) {
	tag, token, ok := enhanced.ParseLockID(lockID)
	if !ok {
		return location{}, enhanced.NewUnknownLockError(lockID)
	}
	operation := "look up lock " + lockID
	if err := b.ready(ctx, operation); err != nil {
		return location{}, err
	}
	type found struct{ name, value string }
	f, err := call(ctx, b, operation, false, func(ctx context.Context) (found, error) {
		pipe := b.client.Pipeline()
		name := pipe.HGet(ctx, b.keys.meta(tag), "name")
		value := pipe.HGet(ctx, b.keys.memory(tag), "i"+strconv.FormatInt(token, 10))
		if err := execute(ctx, pipe); err != nil {
			return found{}, err
		}
		return found{name.Val(), value.Val()}, nil
	})
	if err != nil {
		return location{}, err
	}
	l := location{token: token}
	key := f.value
	if how, rest, ended := cutLine(f.value); ended {
		resource, _, _ := cutLine(rest)
		l.ending, key = &ending{How: how}, resource
	}
	if l.resource, err = enhanced.ParseResourceKey(f.name, key); err != nil {
		return location{}, enhanced.NewUnknownLockError(lockID)
	}
	return l, nil
}

// reading is one resource at one moment.
type reading struct {
	now    int64
	record *redisRecord // nil for none
	stock  string       // what is under stock's key, "" for nothing
	// problem names the key that can't be read.
	problem string
}

func (b *RedisBackend) read(ctx context.Context, operation string, resource enhanced.ResourceIdentifier) (reading, error) {
	if err := b.ready(ctx, operation); err != nil {
		return reading{}, err
	}
	locks := b.keys.locks(enhanced.RepositoryTag(resource.Namespace))
	keys := append([]string{locks}, b.stockKeys(resource)...)
	return call(ctx, b, operation, false, func(ctx context.Context) (reading, error) {
		list, err := b.run(ctx, b.scripts.read, keys, resource.Key())
		if err != nil {
			return reading{}, err
		}
		parts, err := texts(b.scripts.read, list)
		if err != nil || len(parts) != 4 {
			return reading{}, errors.Join(err, fmt.Errorf("script read answered %d parts", len(parts)))
		}
		r := reading{stock: parts[3]}
		if r.now, err = microseconds(parts[0], parts[1]); err != nil {
			return reading{}, err
		}
		if parts[2] != "" {
			if r.record, err = decodeRedisRecord(parts[2]); err != nil {
				r.problem = locks
			}
		}
		if r.stock == "?" {
			r.problem = keys[1]
		}
		return r, nil
	})
}

// behind reports whether stock has done something that our record lacks.
func (r reading) behind(mirrors bool) bool {
	if !mirrors {
		return false
	}
	if r.record == nil {
		return r.stock != ""
	}
	if r.record.expiredAt(r.now) {
		return r.stock != "" && r.stock != r.record.payload
	}
	if r.record.Mirror == "" {
		return r.stock != ""
	}
	return !r.record.conflict && r.stock != r.record.payload || r.record.conflict && r.stock == ""
}

// GetLock returns the lock with the ID. See [enhanced.Backend].
func (b *RedisBackend) GetLock(ctx context.Context, lockID string) (*enhanced.EnhancedLock, error) {
	for range maxFollow {
		l, err := b.locate(ctx, lockID)
		if err != nil {
			return nil, err
		}
		if l.ending != nil {
			return nil, identity{ending: l.ending}.goneError(lockID, l.resource)
		}
		r, err := b.read(ctx, "get lock "+lockID, l.resource)
		switch {
		case err != nil:
			return nil, err
		case r.problem != "":
			return nil, enhanced.NewCorruptError(l.resource, r.problem)
		case r.record == nil || r.record.Token != l.token:
			continue // it ended between the two reads
		case r.record.expiredAt(r.now):
			return nil, enhanced.NewExpiredError(lockID, l.resource)
		case r.record.Mirror == "m" && r.stock == "" && b.mirrors(l.resource):
			return nil, enhanced.NewUnknownLockError(lockID) // stock has released it
		}
		return b.lockOf(r.record, l.resource)
	}
	return nil, enhanced.NewUnknownLockError(lockID) // the store breaks a rule: an ID leads to another lock
}

func (b *RedisBackend) lockOf(r *redisRecord, resource enhanced.ResourceIdentifier) (*enhanced.EnhancedLock, error) {
	tag := enhanced.RepositoryTag(resource.Namespace)
	lock, err := r.lock(tag, resource)
	if err != nil {
		return nil, enhanced.NewCorruptError(resource, b.keys.locks(tag))
	}
	return lock, nil
}

// LookupLock returns the lock on a resource. See [enhanced.Backend].
func (b *RedisBackend) LookupLock(ctx context.Context, resource enhanced.ResourceIdentifier) (*enhanced.EnhancedLock, error) {
	resource = resource.Normalized()
	if err := resource.Validate(); err != nil {
		return nil, err
	}
	operation := "look up " + resource.String()
	r, err := b.read(ctx, operation, resource)
	if err != nil {
		return nil, err
	}
	if r.problem == "" && r.behind(b.mirrors(resource)) {
		lock, err := b.followOne(ctx, operation, resource, r)
		if err != nil || lock != nil {
			return lock, err
		}
		return nil, enhanced.NewNotFoundError(resource)
	}
	switch {
	case r.problem != "":
		return nil, enhanced.NewCorruptError(resource, r.problem)
	case r.record == nil || r.record.expiredAt(r.now):
		return nil, enhanced.NewNotFoundError(resource)
	}
	return b.lockOf(r.record, resource)
}

// followOne settles a resource that stock has used. When that fails, what stock
// has recorded is still the answer.
func (b *RedisBackend) followOne(ctx context.Context, operation string, resource enhanced.ResourceIdentifier, r reading) (*enhanced.EnhancedLock, error) {
	for range maxFollow {
		a, err := b.settleAll(ctx, operation, []enhanced.ResourceIdentifier{resource})
		if err == nil && a.value(0) == "stock" {
			v := readStockValue(stockKey(resource), a.value(1), nil)
			if v.problem == "" && v.key == stockKey(v.resource) && v.resource != resource {
				return nil, nil // another resource's lock
			}
			if _, err = b.follow(ctx, operation, resource, a.value(1)); err == nil {
				continue
			}
		}
		switch {
		case err == nil && a.value(0) == "held":
			lock, err := redisLock(a.value(1), resource)
			if err != nil {
				return nil, enhanced.NewCorruptError(resource, b.keys.locks(enhanced.RepositoryTag(resource.Namespace)))
			}
			return lock, nil
		case err == nil && a.value(0) == "unreadable":
			return nil, enhanced.NewCorruptError(resource, a.value(1))
		case err == nil:
			return nil, nil
		case errors.Is(err, enhanced.ErrBackend):
			if v := readStockValue(stockKey(resource), r.stock, nil); r.stock != "" && v.problem == "" && v.resource == resource {
				b.logger.Err("following stock Atlantis on %s: %v", resource, err)
				return unrecorded(resource, v.original), nil
			}
		}
		return nil, err
	}
	return nil, enhanced.NewBackendError(operation, fmt.Errorf("stock Atlantis' key of %s changes all the time", resource))
}

// LocksByLegacyKey returns the locks whose resources have stock's key. See
// [enhanced.Backend].
func (b *RedisBackend) LocksByLegacyKey(ctx context.Context, key string) ([]*enhanced.EnhancedLock, error) {
	operation := "look up key " + key
	if err := b.ready(ctx, operation); err != nil {
		return nil, err
	}
	candidates, err := b.resourcesOf(ctx, operation, key)
	if err != nil {
		return nil, err
	}
	var locks []*enhanced.EnhancedLock
	for _, resource := range candidates {
		lock, err := b.LookupLock(ctx, resource)
		switch {
		case err == nil:
			locks = append(locks, lock)
		case !isNotFound(err):
			return nil, err
		}
	}
	return locks, nil
}

// maxSplits is up to how many ways to split a key they are tried one by one.
const maxSplits = 1000

// resourcesOf returns the resources with stock's key that have a record of ours
// or of stock's.
func (b *RedisBackend) resourcesOf(ctx context.Context, operation, key string) (candidates []enhanced.ResourceIdentifier, err error) {
	if !b.isCluster() {
		value, err := b.getText(ctx, operation, stockPrefix+key)
		if err != nil {
			return nil, err
		}
		if v := readStockValue(stockPrefix+key, value, nil); v.problem == "" {
			candidates = append(candidates, v.resource)
		}
	}
	repositories, err := b.repositoriesOf(ctx, operation, key)
	if err != nil {
		return nil, err
	}
	for _, repository := range repositories {
		found, err := b.recordedSplits(ctx, operation, repository, strings.TrimPrefix(key, repository+"/"))
		if err != nil {
			return nil, err
		}
		for _, resource := range found {
			if !slices.Contains(candidates, resource) {
				candidates = append(candidates, resource)
			}
		}
	}
	return candidates, nil
}

// repositoriesOf returns the repositories in the store that a key can start with.
func (b *RedisBackend) repositoriesOf(ctx context.Context, operation, key string) ([]string, error) {
	return call(ctx, b, operation, false, func(ctx context.Context) ([]string, error) {
		pipe := b.client.Pipeline()
		var names []string
		var exist []*redis.IntCmd
		for name := range splits(key) {
			names = append(names, name)
			exist = append(exist, pipe.Exists(ctx, b.keys.meta(enhanced.RepositoryTag(name))))
		}
		if len(names) == 0 {
			return nil, nil
		}
		if err := execute(ctx, pipe); err != nil {
			return nil, err
		}
		var found []string
		for i, name := range names {
			if exist[i].Val() == 1 {
				found = append(found, name)
			}
		}
		return found, nil
	})
}

// recordedSplits returns the resources of a repository with a record of ours
// that have the rest of a key.
func (b *RedisBackend) recordedSplits(ctx context.Context, operation, repository, rest string) (found []enhanced.ResourceIdentifier, err error) {
	tag := enhanced.RepositoryTag(repository)
	if n := strings.Count(rest, "/"); n*n > maxSplits {
		records, _, err := b.records(ctx, operation, tag, repository)
		for resource := range records {
			if resource.LegacyKey() == repository+"/"+rest && resource.Type == enhanced.ResourceTypeProject {
				found = append(found, resource)
			}
		}
		return found, err
	}
	var all []enhanced.ResourceIdentifier
	for path, rest := range splits(rest) {
		for workspace, name := range splits(rest) {
			all = append(all, enhanced.ResourceIdentifier{
				Type: enhanced.ResourceTypeProject, Namespace: repository, Path: path, Workspace: workspace, Name: name,
			})
		}
	}
	if len(all) == 0 {
		return nil, nil
	}
	return call(ctx, b, operation, false, func(ctx context.Context) ([]enhanced.ResourceIdentifier, error) {
		fields := make([]string, len(all))
		for i, resource := range all {
			fields[i] = resource.Key()
		}
		values, err := atKey(ctx, b, b.keys.locks(tag), func(node redis.UniversalClient) ([]any, error) {
			return node.HMGet(ctx, b.keys.locks(tag), fields...).Result()
		})
		for i, value := range values {
			if value != nil {
				found = append(found, all[i])
			}
		}
		return found, err
	})
}
