package backends

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// ReleaseLock releases the lock with the ID. A lock that was released before,
// by whomever, is released: the answer is nil while that is remembered. See
// [enhanced.Backend].
func (b *RedisBackend) ReleaseLock(ctx context.Context, lockID string) error {
	_, err := b.releaseID(ctx, enhanced.ReleaseRequest{LockID: lockID})
	if errors.Is(err, errReleased) {
		return nil
	}
	return err
}

// Release releases one lock under a condition. See [enhanced.Backend].
func (b *RedisBackend) Release(ctx context.Context, request enhanced.ReleaseRequest) (*enhanced.EnhancedLock, error) {
	if err := request.Validate(); err != nil {
		return nil, err
	}
	if request.LockID != "" {
		return b.releaseID(ctx, request)
	}
	resource := request.Resource.Normalized()
	a, elsewhere, err := b.decideOn(ctx, "release "+resource.String(), b.scripts.release, resource, releaseArgs("", request)...)
	switch {
	case err != nil:
		return nil, err
	case elsewhere != nil:
		return nil, enhanced.NewNotFoundError(resource)
	}
	return b.released(a, request, resource)
}

func (b *RedisBackend) releaseID(ctx context.Context, request enhanced.ReleaseRequest) (*enhanced.EnhancedLock, error) {
	located, err := b.locate(ctx, request.LockID)
	if err != nil {
		return nil, err
	}
	resource := located.resource
	if request.Resource != (enhanced.ResourceIdentifier{}) && request.Resource.Normalized() != resource {
		return nil, enhanced.NewUnknownLockError(request.LockID)
	}
	args := releaseArgs(strconv.FormatInt(located.token, 10), request)
	a, err := b.step(ctx, "release lock "+request.LockID, b.scripts.release, enhanced.RepositoryTag(resource.Namespace), resource.Namespace,
		b.stockKeys(resource), append([]any{resource.Key()}, args...)...)
	if err != nil {
		return nil, err
	}
	return b.released(a, request, resource)
}

func releaseArgs(token string, request enhanced.ReleaseRequest) []any {
	number, force := "", ""
	if request.PullNumber != nil {
		number = strconv.Itoa(*request.PullNumber)
	}
	if request.Force {
		force = "1"
	}
	actor := request.Actor
	if actor == "" {
		actor = request.Owner
	}
	return []any{token, request.Owner, number, force, actor, request.Reason}
}

func (b *RedisBackend) released(a answer, request enhanced.ReleaseRequest, resource enhanced.ResourceIdentifier) (*enhanced.EnhancedLock, error) {
	if a.status != "released" && a.status != "denied" {
		return nil, b.refusal(a, request.LockID, resource)
	}
	lock, err := redisLock(a.value(0), resource)
	if err != nil {
		return nil, enhanced.NewCorruptError(resource, b.keys.locks(enhanced.RepositoryTag(resource.Namespace)))
	}
	if a.status == "denied" {
		actor := request.Owner
		if request.PullNumber != nil {
			actor = request.Actor
			if actor == "" {
				actor = "that pull request"
			}
		}
		return nil, enhanced.NewDeniedError(resource, lock, actor)
	}
	lock.State = enhanced.LockStateReleased
	return lock, nil
}

// ReleaseByPull releases all locks of a pull request. See [enhanced.Backend].
func (b *RedisBackend) ReleaseByPull(ctx context.Context, repository string, number int, actor string) ([]*enhanced.EnhancedLock, error) {
	operation := fmt.Sprintf("release the locks of pull request %d of %s", number, repository)
	if err := b.ready(ctx, operation); err != nil {
		return nil, err
	}
	tag := enhanced.RepositoryTag(repository)
	records, _, err := b.records(ctx, operation, tag, repository)
	if err != nil {
		return nil, err
	}
	if _, _, err := b.followAll(ctx, operation, repository, records); err != nil {
		return nil, err
	}
	var released []*enhanced.EnhancedLock
	for {
		entries, err := call(ctx, b, operation, false, func(ctx context.Context) ([]string, error) {
			prefix := "[p" + strconv.Itoa(number) + "/"
			page := redis.ZRangeBy{Min: prefix, Max: prefix + "\xff", Count: maxStep + 1}
			return atKey(ctx, b, b.keys.owners(tag), func(node redis.UniversalClient) ([]string, error) {
				return node.ZRangeByLex(ctx, b.keys.owners(tag), &page).Result()
			})
		})
		if err != nil {
			return released, err
		}
		if len(entries) == 0 {
			return released, nil
		}
		owners, resources, err := parseOwnerEntries(repository, number, entries)
		if err != nil {
			return released, enhanced.NewBackendError(operation, err)
		}
		if err := ambiguousHosts(repository, number, owners); err != nil {
			return released, err
		}
		more := ""
		if len(entries) > maxStep {
			more, entries, resources = "1", entries[:closingPage], resources[:closingPage]
		}
		stock := b.stockKeys(resources...)
		args := []any{number, actor, more, len(stock)}
		for _, entry := range entries {
			args = append(args, entry)
		}
		a, err := b.step(ctx, operation, b.scripts.releasePull, tag, repository, stock, args...)
		if err != nil {
			return released, err
		}
		if a.status == "again" {
			continue
		}
		released = append(released, b.releasedPage(repository, number, a.values)...)
		if more == "" {
			return released, nil
		}
	}
}

// releasedPage decodes what a step of ReleaseByPull has released.
func (b *RedisBackend) releasedPage(repository string, number int, values []string) (locks []*enhanced.EnhancedLock) {
	for i := 0; i+1 < len(values); i += 2 {
		resource, err := enhanced.ParseResourceKey(repository, values[i+1])
		if err != nil {
			b.logger.Err("a lock of pull request %d: %v", number, err)
			continue
		}
		lock, err := redisLock(values[i], resource)
		if err != nil {
			b.logger.Err("%s of pull request %d stays locked: its record can't be read", resource, number)
			continue
		}
		lock.State = enhanced.LockStateReleased
		locks = append(locks, lock)
	}
	return locks
}

// parseOwnerEntries reads entries of the owners' index, which are of one pull
// request on one or more hosts.
func parseOwnerEntries(repository string, number int, entries []string) (owners []string, resources []enhanced.ResourceIdentifier, err error) {
	seen := make(map[string]bool)
	for _, entry := range entries {
		owner, key, _ := strings.Cut(entry, "\n")
		_, escaped, _ := strings.Cut(owner, "/")
		resource, err := enhanced.ParseResourceKey(repository, key)
		if err != nil {
			return nil, nil, err
		}
		host, err := url.PathUnescape(escaped)
		if err != nil {
			return nil, nil, fmt.Errorf("owner %q: %w", owner, err)
		}
		resources = append(resources, resource)
		if text := enhanced.PullOwner(host, repository, number).String(); !seen[text] {
			seen[text] = true
			owners = append(owners, text)
		}
	}
	return owners, resources, nil
}

// CleanupExpiredLocks ends every lease that is due. See [enhanced.Backend].
func (b *RedisBackend) CleanupExpiredLocks(ctx context.Context) (int, error) {
	const operation = "end leases"
	repositories, err := b.repositories(ctx, operation)
	if err != nil {
		return 0, err
	}
	ended := 0
	for tag, name := range repositories {
		n, err := b.endDue(ctx, operation, tag, name)
		ended += n
		if err != nil {
			return ended, err
		}
		if _, err := b.step(ctx, operation, b.scripts.sweep, tag, name, nil, maxStep); err != nil {
			return ended, err
		}
	}
	return ended, nil
}

// endDue ends the due leases of a repository.
func (b *RedisBackend) endDue(ctx context.Context, operation, tag, name string) (int, error) {
	before := b.recorder.Snapshot().Expired
	for {
		due, err := call(ctx, b, operation, false, func(ctx context.Context) ([]string, error) {
			now, err := b.now(ctx, tag)
			if err != nil {
				return nil, err
			}
			page := redis.ZRangeBy{Min: "-inf", Max: strconv.FormatInt(now, 10), Count: maxStep}
			return atKey(ctx, b, b.keys.deadlines(tag), func(node redis.UniversalClient) ([]string, error) {
				return node.ZRangeByScore(ctx, b.keys.deadlines(tag), &page).Result()
			})
		})
		if err != nil {
			return 0, err
		}
		if len(due) == 0 {
			return int(b.recorder.Snapshot().Expired - before), nil
		}
		resources := make([]enhanced.ResourceIdentifier, 0, len(due))
		for _, key := range due {
			resource, err := enhanced.ParseResourceKey(name, key)
			if err != nil {
				return 0, enhanced.NewBackendError(operation, fmt.Errorf("deadline in %q: %w", b.keys.deadlines(tag), err))
			}
			resources = append(resources, resource)
		}
		if _, err := b.settleAll(ctx, operation, resources); err != nil {
			return 0, err
		}
	}
}

// settleAll does what is due on resources of one repository.
func (b *RedisBackend) settleAll(ctx context.Context, operation string, resources []enhanced.ResourceIdentifier) (answer, error) {
	name := resources[0].Namespace
	stock := b.stockKeys(resources...)
	args := []any{len(stock)}
	for _, resource := range resources {
		args = append(args, resource.Key())
	}
	return b.step(ctx, operation, b.scripts.settle, enhanced.RepositoryTag(name), name, stock, args...)
}
