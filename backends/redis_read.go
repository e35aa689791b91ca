package backends

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"golang.org/x/sync/errgroup"
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
	reply, err := b.run(ctx, "look up lock "+lockID, b.scripts.locate, b.keys.reading(tag), token)
	if err != nil {
		return location{}, err
	}
	l := location{token: token}
	name, key := reply[0], reply[1]
	if how, rest, ended := cutLine(key); ended {
		resource, _, _ := cutLine(rest)
		l.ending, key = &ending{How: how}, resource
	}
	if l.resource, err = enhanced.ParseResourceKey(name, key); err != nil {
		return location{}, enhanced.NewUnknownLockError(lockID)
	}
	return l, nil
}

// reading is one resource at one moment.
type reading struct {
	now    int64        // the store's clock, in microseconds
	record *redisRecord // nil for none
	stock  string       // what is under stock's key, "" for nothing
	old    string       // what is under its key of before v0.40
	// problem names the key that can't be read.
	problem string
}

func (b *RedisBackend) read(ctx context.Context, operation string, resource enhanced.ResourceIdentifier) (reading, error) {
	tag := enhanced.RepositoryTag(resource.Namespace)
	keys := append(b.keys.reading(tag), b.stockKeys(resource)...)
	reply, err := b.run(ctx, operation, b.scripts.read, keys, resource.Key())
	if err != nil {
		return reading{}, err
	}
	if len(reply) != 5 {
		return reading{}, enhanced.NewBackendError(operation, fmt.Errorf("script read answered %d parts", len(reply)))
	}
	now, err := strconv.ParseInt(reply[0], 10, 64)
	if err != nil {
		return reading{}, enhanced.NewBackendError(operation, err)
	}
	r := reading{now: now, stock: reply[3], old: reply[4]}
	for i, value := range reply[3:] {
		if value == "?" {
			r.problem = keys[2+i]
		}
	}
	if reply[1] != "" {
		if r.record, err = decodeRedisRecord(reply[1], reply[2]); err != nil {
			r.problem = keys[0]
		} else {
			r.record.ended = r.record.expiredAt(now)
		}
	}
	return r, nil
}

// behind reports whether stock has done something that our record lacks.
func (r reading) behind(mirrors bool) bool {
	if !mirrors {
		return false
	}
	switch {
	case r.record == nil:
		return r.stock != "" || r.old != ""
	case r.record.ended:
		return r.stock != "" && r.stock != r.record.payload || r.old != ""
	case r.record.Mirror == "":
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
		case r.record.ended:
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
		return nil, enhanced.NewCorruptError(resource, b.keys.state(tag))
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
	case r.record == nil || r.record.ended:
		return nil, enhanced.NewNotFoundError(resource)
	}
	return b.lockOf(r.record, resource)
}

// followOne settles a resource that stock has used. When that fails, what stock
// has recorded is still the answer.
func (b *RedisBackend) followOne(ctx context.Context, operation string, resource enhanced.ResourceIdentifier, r reading) (*enhanced.EnhancedLock, error) {
	for range maxFollow {
		a, err := b.settleOne(ctx, operation, resource)
		switch status := a.value(0); {
		case err != nil:
		case status == "old":
			mine, oldErr := b.followOld(ctx, operation, resource, a.value(1))
			if err = oldErr; err == nil && !mine {
				return nil, nil
			}
		case status == "stock":
			v := readStockValue(stockKey(resource), a.value(1), nil)
			if v.problem == "" && v.key == stockKey(v.resource) && v.resource != resource {
				return nil, nil // another resource's lock
			}
			_, err = b.follow(ctx, operation, resource, a.value(1))
		case status == "held":
			lock, err := redisLock(a.value(1), a.value(2), b.repository(resource.Namespace).tag, resource)
			if err != nil {
				return nil, enhanced.NewCorruptError(resource, b.keys.state(enhanced.RepositoryTag(resource.Namespace)))
			}
			return lock, nil
		case status == "unreadable":
			return nil, enhanced.NewCorruptError(resource, a.value(1))
		default:
			return nil, nil
		}
		if errors.Is(err, enhanced.ErrBackend) {
			if v := readStockValue(stockKey(resource), r.stock, nil); r.stock != "" && v.problem == "" && v.resource == resource {
				b.logger.Err("following stock Atlantis on %s: %v", resource, err)
				return unrecorded(resource, v.original), nil
			}
		}
		if err != nil {
			return nil, err
		}
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
	var mu sync.Mutex
	var found []string
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readers)
	for name := range splits(key) {
		tag := enhanced.RepositoryTag(name)
		group.Go(func() error {
			reply, err := b.run(ctx, operation, b.scripts.recorded, b.keys.reading(tag))
			if err == nil && reply[0] == name {
				mu.Lock()
				defer mu.Unlock()
				found = append(found, name)
			}
			return ignoreWrongType(err)
		})
	}
	err := group.Wait()
	slices.Sort(found)
	return found, err
}

// recordedSplits returns the resources of a repository with a record of ours
// that have the rest of a key.
func (b *RedisBackend) recordedSplits(ctx context.Context, operation, repository, rest string) (found []enhanced.ResourceIdentifier, err error) {
	tag := enhanced.RepositoryTag(repository)
	if n := strings.Count(rest, "/"); n*n > maxSplits {
		all, err := b.records(ctx, operation, tag)
		for resource := range all.records {
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
	args := make([]any, len(all))
	for i, resource := range all {
		args[i] = resource.Key()
	}
	reply, err := b.run(ctx, operation, b.scripts.recorded, b.keys.reading(tag), args...)
	if err != nil {
		return nil, ignoreWrongType(err)
	}
	for _, key := range reply[1:] {
		if resource, err := enhanced.ParseResourceKey(repository, key); err == nil {
			found = append(found, resource)
		}
	}
	return found, nil
}
