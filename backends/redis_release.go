package backends

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// redisStep bounds the resources that one script changes: each takes about 50 µs,
// and no other client of the server gets an answer meanwhile.
const redisStep = 100

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
		lock, err := b.releaseID(ctx, request)
		if err != nil {
			return releasedBefore(request, err)
		}
		return lock, nil
	}
	resource := request.Resource.Normalized()
	if lock, err := b.releaseCommon(ctx, request, "", resource); !errors.Is(err, errElse) {
		return lock, err
	}
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
	located, err := b.known(ctx, request.LockID)
	if err != nil {
		return nil, err
	}
	defer b.locks.remove(request.LockID)
	resource := located.resource
	if request.Resource != (enhanced.ResourceIdentifier{}) && request.Resource.Normalized() != resource {
		return nil, enhanced.NewUnknownLockError(request.LockID)
	}
	token := strconv.FormatInt(located.token, 10)
	if lock, err := b.releaseCommon(ctx, request, token, resource); !errors.Is(err, errElse) {
		return lock, err
	}
	args := releaseArgs(token, request)
	a, err := b.step(ctx, "release lock "+request.LockID, b.scripts.release, enhanced.RepositoryTag(resource.Namespace), resource.Namespace,
		b.stockKeys(resource), append([]any{resource.Key()}, args...)...)
	if err != nil {
		return nil, err
	}
	return b.released(a, request, resource)
}

// releaseCommon has the common script release a lock. It answers errElse where
// the general one has to.
func (b *RedisBackend) releaseCommon(ctx context.Context, request enhanced.ReleaseRequest, token string, resource enhanced.ResourceIdentifier) (*enhanced.EnhancedLock, error) {
	if request.PullNumber != nil || request.Reserve || request.Reservation || !b.checked.Load() {
		return nil, errElse
	}
	how, actor := "", cmp.Or(request.Actor, request.Owner)
	switch {
	case request.Force:
		how = "1\n" + actor + "\n" + request.Reason
	case actor != request.Owner || request.Reason != "":
		how = "0\n" + actor + "\n" + request.Reason
	}
	known, has := b.locks.form(resource)
	knownToken := ""
	if has && !b.config.Load().PreserveLegacyFormat { // else what stock has is compared with it

		knownToken = strconv.FormatInt(known.token, 10)
	}
	d, err := b.decide(ctx, decision{
		repository: b.repository(resource.Namespace), stock: b.commonStockKeys(resource),
		args: []string{kindRelease, resource.Key(), token, request.Owner, how, knownToken},
	})
	switch {
	case errors.Is(err, errElse):
		return nil, err
	case err != nil:
		return nil, failure(ctx, "release "+resource.String(), true, err)
	}
	lock, err := releasedLock(&d, known, resource)
	if err != nil {
		return nil, enhanced.NewCorruptError(resource, b.keys.state(d.repository.tag))
	}
	if now, err := strconv.ParseInt(d.micros, 10, 64); err == nil {
		b.recorder.Released(time.UnixMicro(now).Sub(lock.AcquiredAt))
	}
	b.locks.forget(lock)
	lock.State = enhanced.LockStateReleased
	return lock, nil
}

// releasedLock is the lock that the common script has released.
func releasedLock(d *decision, known form, resource enhanced.ResourceIdentifier) (*enhanced.EnhancedLock, error) {
	header, details := d.parts[1], d.parts[2]
	if details == "" {
		r, err := decodeRedisRecord(header, "{")
		if err != nil {
			return nil, err
		}
		original := copied(known.original)
		return newLock(d.repository.tag, resource, r.lockRecord, &original), nil
	}
	lock, err := redisLock(header, details, d.repository.tag, resource)
	if err != nil {
		return withoutOriginal(header, details, resource)
	}
	return lock, nil
}

func releaseArgs(token string, request enhanced.ReleaseRequest) []any {
	number, force, reserve := "", "", ""
	if request.PullNumber != nil {
		number = strconv.Itoa(*request.PullNumber)
	}
	switch {
	case request.Reservation:
		force = "reservation"
	case request.Force:
		force = "1"
	}
	if request.Reserve {
		reserve = "1"
	}
	return []any{token, request.Owner, number, force, cmp.Or(request.Actor, request.Owner), request.Reason, reserve}
}

func (b *RedisBackend) released(a answer, request enhanced.ReleaseRequest, resource enhanced.ResourceIdentifier) (*enhanced.EnhancedLock, error) {
	if a.status != "released" && a.status != "ended" && a.status != "denied" {
		return nil, b.refusal(a, request.LockID, resource)
	}
	lock, err := redisLock(a.value(0), a.value(1), b.repository(resource.Namespace).tag, resource)
	if err != nil && a.status != "denied" {
		lock, err = withoutOriginal(a.value(0), a.value(1), resource)
	}
	if err != nil {
		return nil, enhanced.NewCorruptError(resource, b.keys.state(enhanced.RepositoryTag(resource.Namespace)))
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
	if a.status == "ended" { // it was no lock any more
		lock.ID = ""
	}
	lock.State = enhanced.LockStateReleased
	return lock, nil
}

// ReleaseByPull releases all locks of a pull request. See [enhanced.Backend].
func (b *RedisBackend) ReleaseByPull(ctx context.Context, repository string, number int, actor string) ([]*enhanced.EnhancedLock, error) {
	operation := fmt.Sprintf("release the locks of pull request %d of %s", number, repository)
	tag := enhanced.RepositoryTag(repository)
	all, err := b.records(ctx, operation, tag)
	if err != nil {
		return nil, err
	}
	followed, err := b.followAll(ctx, operation, repository, all.records)
	if err != nil {
		return nil, err
	}
	released, err := b.releaseLeftovers(ctx, operation, number, followed.leftovers)
	if err != nil {
		return released, err
	}
	mark := ""
	if b.config.Load().EnablePriorityQueue {
		mark = "released"
	}
	locks, err := b.releaseAll(ctx, operation, pullRelease{repository: repository, number: number, actor: actor, mark: mark})
	return append(released, locks...), err
}

// pullRelease is what is to be released, and by whom.
type pullRelease struct {
	repository string
	number     int
	actor      string
	// mark, closed and head are for the script. closed is the owner who was closed,
	// empty for none.
	mark, closed, head string
}

// releaseAll releases all that a pull request holds, has reserved and waits for, and
// leaves the tombstone of one that was closed.
func (b *RedisBackend) releaseAll(ctx context.Context, operation string, p pullRelease) (released []*enhanced.EnhancedLock, err error) {
	tag := enhanced.RepositoryTag(p.repository)
	for paged := false; ; {
		entries, waiters, more, err := b.ownerEntries(ctx, operation, p.repository, p.number)
		if err != nil && p.closed != "" {
			return released, b.buryOnly(ctx, operation, p, err)
		}
		if err != nil {
			return released, err
		}
		if len(entries) == 0 && !waiters && !paged && p.mark == "" && b.config.Load().RedisMinReplicasAck == 0 {
			return released, nil
		}
		args := []any{p.number, p.actor, p.mark, p.closed, p.head}
		if more {
			paged, args[2] = true, "1"
		}
		resources := make([]enhanced.ResourceIdentifier, len(entries))
		for i, entry := range entries {
			args = append(args, entry.text)
			resources[i] = entry.resource
		}
		a, err := b.step(ctx, operation, b.scripts.releasePull, tag, p.repository, b.stockKeys(resources...), args...)
		if err != nil {
			return released, err
		}
		if a.status == "again" {
			continue
		}
		released = append(released, b.releasedPage(p.repository, p.number, a.values)...)
		if !more || a.status == "closed" {
			return released, nil
		}
	}
}

// buryOnly leaves the tombstone where what the pull request has could not be listed,
// which is no error where nothing of it is to be released.
func (b *RedisBackend) buryOnly(ctx context.Context, operation string, p pullRelease, cause error) error {
	if !errors.Is(cause, enhanced.ErrInvalidRequest) {
		return cause
	}
	a, err := b.step(ctx, operation, b.scripts.releasePull, enhanced.RepositoryTag(p.repository), p.repository, nil,
		p.number, p.actor, "bury", p.closed, p.head)
	if err == nil && a.status == "marked" {
		return cause
	}
	return err
}

// indexEntry is an entry of an index that leads to a resource.
type indexEntry struct {
	text, key string
	// resource has no stock's keys if the key leads to none.
	resource enhanced.ResourceIdentifier
	err      error
}

func newIndexEntry(repository, text, key string) indexEntry {
	entry := indexEntry{text: text, key: key}
	if entry.resource, entry.err = enhanced.ParseResourceKey(repository, key); entry.err != nil {
		entry.resource = enhanced.ResourceIdentifier{Namespace: repository, Type: enhanced.ResourceTypeCustom}
	}
	return entry
}

// ownerEntries returns what a pull request holds, waits for and has reserved, as far as
// it fits into one step, whether there is more, and whether anybody waits in the
// repository. It refuses pull requests of several hosts.
func (b *RedisBackend) ownerEntries(ctx context.Context, operation, repository string, number int) (entries []indexEntry, waiters, more bool, err error) {
	tag := enhanced.RepositoryTag(repository)
	prefix := "p" + strconv.Itoa(number) + "/"
	reply, err := b.run(ctx, operation, b.scripts.owned, b.keys.reading(tag), prefix, redisStep+1)
	if err != nil {
		return nil, false, false, err
	}
	waiters = reply[1] != "" && reply[1] != "0"
	var owners []string
	for _, text := range reply[2:] {
		host, rest, _ := cutLine(text[1+len(prefix):])
		key, _, _ := cutLine(rest)
		entry := newIndexEntry(repository, text, key)
		entries = append(entries, entry)
		if entry.err != nil {
			// The step finds that it leads to nothing, and removes it.
			b.logger.Err("an entry of pull request %d in %q: %v", number, b.keys.queue(tag), entry.err)
			continue
		}
		if host, err := url.PathUnescape(host); err == nil {
			if owner := enhanced.PullOwner(host, repository, number).String(); !slices.Contains(owners, owner) {
				owners = append(owners, owner)
			}
		}
	}
	if err := ambiguousHosts(repository, number, owners); err != nil {
		return nil, false, false, err
	}
	if len(entries) > redisStep {
		return entries[:redisStep], waiters, true, nil
	}
	return entries, waiters, false, nil
}

// releasedPage decodes what a step of ReleaseByPull has released.
func (b *RedisBackend) releasedPage(repository string, number int, values []string) (locks []*enhanced.EnhancedLock) {
	for i := 0; i+2 < len(values); i += 3 {
		resource, err := enhanced.ParseResourceKey(repository, values[i+2])
		if err != nil {
			b.logger.Err("a lock of pull request %d: %v", number, err)
			continue
		}
		if values[i] == "" {
			b.logger.Err("%s of pull request %d stays locked: its record can't be read", resource, number)
			continue
		}
		lock, err := redisLock(values[i], values[i+1], b.repository(repository).tag, resource)
		if err != nil {
			if lock, err = withoutOriginal(values[i], values[i+1], resource); err != nil {
				b.logger.Err("%s of pull request %d was released; its record: %v", resource, number, err)
				continue
			}
		}
		lock.State = enhanced.LockStateReleased
		locks = append(locks, lock)
	}
	return locks
}
