package backends

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"strconv"
	"strings"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
)

// TryAcquireLock takes the lock and returns it with true, or returns the
// holder's with false. See [enhanced.Backend].
func (b *RedisBackend) TryAcquireLock(ctx context.Context, request *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, bool, error) {
	config := b.config.Load()
	r, err := b.normalized(config, request)
	if err != nil {
		return nil, false, err
	}
	start := time.Now()
	a, err := b.acquire(ctx, r, false)
	countRequest(&b.recorder, a.granted, time.Since(start), err)
	a.report(ctx, err)
	return a.lock, a.granted, err
}

// DefaultLease implements [enhanced.DefaultLeaser]: RedisLockTTL, at most MaxTimeout.
func (b *RedisBackend) DefaultLease(config *enhanced.EnhancedConfig) time.Duration {
	return min(config.RedisLockTTL, config.MaxTimeout)
}

// normalized is a request with the defaults of a configuration.
func (b *RedisBackend) normalized(config *enhanced.EnhancedConfig, request *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLockRequest, error) {
	return enhanced.NormalizeRequest(request, b.DefaultLease(config), config.MaxTimeout)
}

// acquire decides a request. One that can wait, and has to, enters the queue.
func (b *RedisBackend) acquire(ctx context.Context, r *enhanced.EnhancedLockRequest, canWait bool) (acquisition, error) {
	owner, original := r.Owner(), r.ProjectLock()
	payload, err := b.payload(original)
	if err != nil {
		return acquisition{}, enhanced.NewInvalidError("the request can't be stored: %v", err)
	}
	lease := int64(0)
	if r.Timeout != enhanced.NoTimeout {
		lease = r.Timeout.Microseconds()
	}
	flag, config := "-", b.config.Load()
	detached := r.Detached && config.EnablePriorityQueue
	if config.PreserveLegacyFormat && b.mirrors(r.Resource) {
		flag = "m"
	}
	repository := b.repository(r.Resource.Namespace)
	if len(r.Metadata) == 0 && b.checked.Load() {
		text := owner.String()
		key := r.Resource.Key()
		d, err := b.decide(ctx, decision{repository: repository, stock: b.commonStockKeys(r.Resource), args: []string{
			strconv.FormatInt(lease, 10), key, r.ID, text, "o" + indexPrefix(owner) + "\n" + key + "\n" + r.ID,
			"\n" + flag + "\n" + strconv.Itoa(int(r.Priority)) + "\n", payload,
		}})
		switch {
		case errors.Is(err, errElse):
		case err != nil:
			return acquisition{}, failure(ctx, "acquire "+r.Resource.String(), true, err)
		case d.parts[0] == "g":
			lock, err := b.granted(r, repository.tag, text, original, d.parts[1], d.micros, d.parts[2])
			return acquisition{lock: lock, granted: err == nil}, err
		case d.parts[0] == "h" && !canWait && !detached:
			lock, err := b.lockIn(d.parts[1], d.parts[2], r.Resource)
			return acquisition{lock: lock}, err
		}
	}
	note, metadata, err := metadataLines(r.Metadata)
	if err != nil {
		return acquisition{}, enhanced.NewInvalidError("metadata: %v", err)
	}
	text := owner.String()
	args := append([]any{text, int(r.Priority), lease, r.ID, note, metadata, payload, flag}, b.waitingArgs(canWait, detached)...)
	args = append(args, headCommit(r))
	a, elsewhere, err := b.decideRequest(ctx, r, canWait || detached, args)
	switch {
	case err != nil:
		return acquisition{}, err
	case elsewhere != nil:
		return acquisition{lock: elsewhere}, nil
	}
	switch a.status {
	case "granted":
		lock, err := b.granted(r, repository.tag, text, original, a.value(0), a.value(1), a.value(2))
		return acquisition{lock: lock, granted: err == nil}, err
	case "waits": // behind whomever: a holder that can't be read is no reason to leave the waiter alone
		return acquisition{waits: true}, nil
	case "again", "claimed", "own", "held":
		lock, err := b.lockIn(a.value(0), a.value(1), r.Resource)
		got := acquisition{lock: lock, granted: (a.status == "again" || a.status == "claimed") && err == nil}
		if a.status == "claimed" && err == nil {
			got.claimed = []string{lock.ID}
		}
		return got, err
	case "kept":
		lock, err := b.lockIn(a.value(0), a.value(1), r.Resource)
		if err == nil { // it is no lock any more
			lock.ID, lock.State = "", enhanced.LockStatePending
		}
		return acquisition{lock: lock}, err
	case "full":
		holder, err := b.lockIn(a.value(0), a.value(1), r.Resource)
		if err != nil {
			return acquisition{}, err
		}
		length, _ := strconv.Atoi(a.value(2)) //nolint:errcheck // a script counts
		return acquisition{}, queueFullError(r, holder, length, b.config.Load().MaxQueueSize)
	case "ended":
		return acquisition{}, endedRequestError(r)
	case "reused":
		return acquisition{}, reusedError(r)
	case "closing":
		return acquisition{}, closingError(r.Resource, text)
	case "closed":
		return acquisition{}, closedError(r.Resource, text)
	}
	return acquisition{}, b.refusal(a, "", r.Resource)
}

// payload is stock's form of a lock, as a text of its own.
func (b *RedisBackend) payload(original models.ProjectLock) (string, error) {
	room, _ := b.rooms.Get().(*[]byte) //nolint:errcheck // nothing else is in it
	if room == nil {
		room = new(make([]byte, 0, usualStock))
	}
	defer b.rooms.Put(room)
	data, err := appendProjectLock((*room)[:0], original)
	*room = data[:0]
	return string(data), err
}

// headCommit is that of the pull request that asks, empty without one.
func headCommit(r *enhanced.EnhancedLockRequest) string {
	if r.Pull == nil {
		return ""
	}
	return r.Pull.HeadCommit
}

// indexPrefix is an owner's part of what leads from it to locks and waiters, see
// ownerEntry in the prelude.
func indexPrefix(owner enhanced.Owner) string {
	if owner.Kind != enhanced.OwnerPull {
		return owner.String()
	}
	return "p" + strconv.Itoa(owner.Number) + "/" + url.PathEscape(owner.Host)
}

// lockIn decodes a lock that a script has answered.
func (b *RedisBackend) lockIn(header, details string, resource enhanced.ResourceIdentifier) (*enhanced.EnhancedLock, error) {
	lock, err := redisLock(header, details, b.repository(resource.Namespace).tag, resource)
	if err != nil {
		return nil, enhanced.NewCorruptError(resource, b.keys.state(enhanced.RepositoryTag(resource.Namespace)))
	}
	return lock, nil
}

// grantedLock is the new lock of a request. The answer says token, time and end
// of the lease; all else is the request's.
func grantedLock(r *enhanced.EnhancedLockRequest, tag, owner string, original models.ProjectLock, token, acquired, expires string) (*enhanced.EnhancedLock, error) {
	record := &lockRecord{Owner: owner, Priority: r.Priority, Metadata: maps.Clone(r.Metadata)}
	if err := parseNumbers([]string{token, acquired, expires}, &record.Token, &record.Acquired, &record.Expires); err != nil {
		return nil, enhanced.NewBackendError("acquire "+r.Resource.String(), err)
	}
	return newLock(tag, r.Resource, record, &original), nil
}

// refusal is the error for what a step has answered instead of success.
func (b *RedisBackend) refusal(a answer, lockID string, resource enhanced.ResourceIdentifier) error {
	switch a.status {
	case "unreadable":
		return enhanced.NewCorruptError(resource, a.value(0))
	case "missing":
		return enhanced.NewNotFoundError(resource)
	case "unknown":
		return enhanced.NewUnknownLockError(lockID)
	case "gone":
		return identity{ending: &ending{How: a.value(0), Owner: a.value(1)}}.goneError(lockID, resource)
	}
	return enhanced.NewBackendError("lock "+resource.String(), fmt.Errorf("unexpected answer %q", a.status))
}

// countEndings counts the locks that a step has ended, and returns how many of
// them had a lease that ran out.
func (b *RedisBackend) countEndings(text string) (expired int) {
	if text == "" {
		return 0
	}
	for one := range strings.SplitSeq(text, ";") {
		event, digits, _ := strings.Cut(one, " ")
		micros, err := strconv.ParseInt(digits, 10, 64)
		if err != nil {
			b.logger.Err("a script has counted %q", one)
			continue
		}
		held := time.Duration(micros) * time.Microsecond
		if isExpiry(event) {
			b.recorder.Expired(held)
			expired++
		} else {
			b.recorder.Released(held)
		}
	}
	return expired
}

// RefreshLock makes the lease end extension from now. See [enhanced.Backend].
func (b *RedisBackend) RefreshLock(ctx context.Context, lockID string, extension time.Duration) error {
	if err := checkExtension(extension, b.config.Load().MaxTimeout); err != nil {
		return err
	}
	located, err := b.known(ctx, lockID)
	if err != nil {
		return err
	}
	if b.checked.Load() {
		_, err := b.decide(ctx, decision{
			repository: b.repository(located.resource.Namespace), stock: b.commonStockKeys(located.resource),
			args: []string{kindRefresh, located.resource.Key(), strconv.FormatInt(located.token, 10), strconv.FormatInt(extension.Microseconds(), 10)},
		})
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, errElse):
			return failure(ctx, "refresh lock "+lockID, true, err)
		}
	}
	a, err := b.changeLock(ctx, "refresh", b.scripts.refresh, lockID, located, extension.Microseconds())
	switch {
	case err != nil:
		return err
	case a.status == "refreshed":
		return nil
	case a.status == "permanent":
		return permanentError(lockID, located.resource)
	case a.status == "pending":
		return unclaimedError(lockID, located.resource)
	}
	return b.refusal(a, lockID, located.resource)
}

// TransferLock gives a held lock to another owner. See [enhanced.Backend].
func (b *RedisBackend) TransferLock(ctx context.Context, lockID, newOwner string) error {
	owner, err := enhanced.ParseOwner(newOwner)
	if err != nil {
		return err
	}
	lock, err := b.GetLock(ctx, lockID)
	if err != nil {
		return err
	}
	original, err := enhanced.TransferProjectLock(*lock.OriginalLock, owner)
	if err != nil {
		return err
	}
	payload, err := encodeProjectLock(original)
	if err != nil {
		return enhanced.NewInvalidError("the lock can't be stored for its new owner: %v", err)
	}
	_, metadata, err := metadataLines(lock.Metadata)
	if err != nil {
		return enhanced.NewInvalidError("metadata: %v", err)
	}
	located := location{resource: lock.Resource, token: lock.Version}
	a, err := b.changeLock(ctx, "transfer", b.scripts.transfer, lockID, located, newOwner, metadata, payload)
	switch {
	case err != nil || a.status == "transferred" || a.status == "own":
		return err
	case a.status == "closing":
		return closingError(lock.Resource, newOwner)
	}
	return b.refusal(a, lockID, lock.Resource)
}

// changeLock runs a script on the lock with the ID.
func (b *RedisBackend) changeLock(ctx context.Context, operation string, s script, lockID string, l location, args ...any) (answer, error) {
	all := append([]any{l.resource.Key(), l.token}, args...)
	return b.step(ctx, operation+" lock "+lockID, s, enhanced.RepositoryTag(l.resource.Namespace), l.resource.Namespace,
		b.stockKeys(l.resource), all...)
}
