package enhanced

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/runatlantis/atlantis/server/events/models"
)

// reconcile makes both databases agree, while nothing is granted, if it is still
// needed then. The caller does not hold f.mu, needed does.
func (f *fallback) reconcile(ctx context.Context, needed func() bool) error {
	if err := f.gate.Acquire(ctx, wholeGate); err != nil {
		return contextError(ctx.Err())
	}
	defer f.gate.Release(wholeGate)
	f.mu.Lock()
	if !needed() {
		f.mu.Unlock()
		return nil
	}
	atStart := f.route == routeStart
	f.mu.Unlock()

	if atStart {
		same, err := isSameStore(f.legacy, f.store.backend)
		if isStoreFailure(err) {
			return err
		}
		if same {
			err = errors.New("the legacy database is in the same store; it mirrors the locks there")
		}
		if err != nil {
			f.arrive(routeStore, time.Time{}, err)
			f.logger.Info("legacy_fallback: true has no effect: %v", err)
			return nil
		}
	}
	if err := f.journal.load(); err != nil {
		return err
	}
	if err := f.subscribe(ctx); err != nil {
		return err
	}
	start := time.Now()
	reason, err := f.agree(ctx, atStart)
	if err == nil {
		err = f.standsBy()
	}
	if err != nil {
		return err
	}
	f.arrive(routeBoth, start, reason)
	return nil
}

// arrive goes on with a route, once both databases agree as of mark. The reason
// is why they do not quite.
func (f *fallback) arrive(to route, mark time.Time, reason error) {
	f.mu.Lock()
	wasOpen, since := f.route == routeLegacy, f.since
	if f.route != to {
		f.since = time.Now()
	}
	f.route, f.mark, f.reason = to, mark, reason
	if to == routeBoth && !f.running && f.ctx.Err() == nil {
		f.running = true
		go f.run()
	}
	f.mu.Unlock()
	if !wasOpen {
		return
	}
	f.logger.Warn("the fallback is closed after %v, the store decides on project locks", time.Since(since).Round(time.Millisecond))
	f.publish(&ManagerEvent{LockEvent: LockEvent{Type: EventFallbackClosed, Timestamp: time.Now()}})
}

// bothSides is what the two databases hold under one of stock's keys.
type bothSides struct {
	resource ResourceIdentifier
	store    []*EnhancedLock
	legacy   *models.ProjectLock
}

// agree compares all locks. It returns an error if it has to be done again, and
// a reason if the legacy database can't be known to be up to date.
func (f *fallback) agree(ctx context.Context, atStart bool) (reason, err error) {
	locks, err := f.store.backend.ListLocks(ctx)
	if err != nil {
		return nil, err
	}
	stats, err := f.store.backend.GetStats(ctx)
	if err != nil {
		return nil, err
	}
	if n := len(stats.UnreadableRecords); n > 0 {
		reason = fmt.Errorf("the store has %d records that can't be read and count as held, %q among them; repair it", n, stats.UnreadableRecords[0])
	}
	records, err := f.legacy.List()
	if err != nil {
		return nil, legacyFailed(err)
	}
	all := make(map[string]*bothSides)
	at := func(resource ResourceIdentifier) *bothSides {
		key := resource.LegacyKey()
		if all[key] == nil {
			all[key] = &bothSides{resource: resource}
		}
		return all[key]
	}
	for _, lock := range locks {
		if lock.Resource.Type == ResourceTypeProject {
			sides := at(lock.Resource)
			sides.store = append(sides.store, lock)
		}
	}
	for _, record := range records {
		at(legacyResource(record)).legacy = &record
	}
	for _, key := range f.journal.keys() {
		if entry, is := f.journal.entry(key); is {
			at(entry.Resource)
		}
	}
	if atStart {
		if err := f.learnDecided(all); err != nil {
			return nil, err
		}
	}
	past := &history{backend: f.store.backend, ends: make(map[string]map[ending]time.Time)}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		switch err := f.agreeOn(ctx, all[key], past, atStart); {
		case err == nil:
		case isStoreFailure(err):
			return nil, err
		default:
			f.fell(all[key].resource, err)
			f.logger.Err("nobody is granted %s until the two databases agree: %v", all[key].resource, err)
		}
	}
	return reason, nil
}

// settle makes both databases agree on a resource that reconciling has left over.
func (f *fallback) settle(ctx context.Context, resource ResourceIdentifier) error {
	key := resource.LegacyKey()
	if _, is := f.journal.entry(key); !is {
		return nil
	}
	sides := &bothSides{resource: resource}
	var err error
	if sides.store, err = f.store.backend.LocksByLegacyKey(ctx, key); err != nil {
		return err
	}
	if sides.legacy, err = f.legacy.GetLock(resource.Project(), resource.Workspace); err != nil {
		return legacyFailed(err)
	}
	if err := f.agreeOn(ctx, sides, nil, false); err != nil && !isStoreFailure(err) {
		return &LockError{Code: ErrCodeLockExists, Resource: resource, Err: err,
			Message: fmt.Sprintf("%s counts as locked: what the legacy database decided on it while the store failed can't be brought into the store", resource)}
	} else if err != nil {
		return err
	}
	return nil
}

// giveUp forgets what the legacy database decided on a resource, because a
// person has it unlocked by force.
func (f *fallback) giveUp(ctx context.Context, resource ResourceIdentifier) error {
	if _, is := f.journal.entry(resource.LegacyKey()); !is {
		return nil
	}
	if err := f.journal.settled(resource.LegacyKey()); err != nil {
		return legacyFailed(err)
	}
	f.refollow(ctx, resource, nil)
	return nil
}

// agreeOn makes both databases agree on one of stock's keys. The history is nil
// where the journal has the resource.
func (f *fallback) agreeOn(ctx context.Context, sides *bothSides, past *history, atStart bool) error {
	key := sides.resource.LegacyKey()
	if entry, is := f.journal.entry(key); is {
		if err := f.replay(ctx, entry, sides); err != nil {
			return err
		}
		if err := f.journal.settled(key); err != nil {
			return legacyFailed(err)
		}
		return f.follow(ctx, sides.resource)
	}
	record := sides.legacy
	switch {
	case record == nil:
		return f.adopt(sides.resource, sides.store)
	case slices.ContainsFunc(sides.store, func(lock *EnhancedLock) bool { return isRecordOf(*record, lock) }):
		return f.adopt(legacyResource(*record), sides.store)
	}
	gone, err := f.isGone(ctx, *record, past)
	if err != nil {
		return err
	}
	holder := on(legacyResource(*record), sides.store)
	switch {
	case gone && len(sides.store) == 0:
		f.drop(sides.resource)
		return nil
	case gone:
		return f.adopt(sides.resource, sides.store)
	case holder == nil:
		// The store does not know of it: it has lost it, or the lock is from
		// before. If somebody is faster, that one counts, since it was told so.
		holder, err := f.takeInStore(ctx, *record)
		if err == nil && holder != nil && holder.State == LockStatePending {
			err = f.giveOrFreeze(ctx, holder, legacyOwner(*record))
		}
		switch {
		case isStoreFailure(err):
			return err // it has not decided: to follow it would forget the lock
		case err != nil:
			// It counts as locked until the store takes it, or a person gives it up.
			return errors.Join(err, f.journal.granted(legacyResource(*record), legacyOwner(*record).String()))
		}
		return f.follow(ctx, sides.resource)
	case atStart && record.Pull.BaseRepo.CloneURL == "":
		// Written here, by a process that ended before the store had answered:
		// records that stock writes have a URL. Nobody was told of it.
		return f.adopt(sides.resource, sides.store)
	default:
		return f.giveOrFreeze(ctx, holder, legacyOwner(*record))
	}
}

func on(resource ResourceIdentifier, locks []*EnhancedLock) *EnhancedLock {
	for _, lock := range locks {
		if lock.Resource == resource {
			return lock
		}
	}
	return nil
}

// adopt has the legacy database hold what the store does, a resource's lock if
// there is one.
func (f *fallback) adopt(resource ResourceIdentifier, locks []*EnhancedLock) error {
	if len(locks) == 0 {
		return nil
	}
	lock := on(resource, locks)
	if lock == nil {
		lock = locks[0]
	}
	if err := f.put(lock); err != nil {
		return err
	}
	var err error
	if len(locks) > 1 {
		err = errCrowded
	}
	f.fell(lock.Resource, err)
	return nil
}

// isGone reports whether a record of the legacy database is of a lock that has
// ended, or never was.
func (f *fallback) isGone(ctx context.Context, record models.ProjectLock, past *history) (bool, error) {
	f.mu.Lock()
	owner, unsure := f.unsure[legacyResource(record).LegacyKey()]
	f.mu.Unlock()
	if unsure && owner == legacyOwner(record) {
		return true, nil
	}
	return past.hasEnded(ctx, record)
}

// replay does in the store what the legacy database has decided alone.
func (f *fallback) replay(ctx context.Context, entry journalEntry, sides *bothSides) error {
	const reason = "released while the store could not be reached"
	holder := on(entry.Resource, sides.store)
	if holder != nil && holder.Owner != entry.Granted && slices.Contains(entry.Released, holder.Owner) {
		var err error
		if entry.Granted != "" {
			// In one step, so that nobody gets it between.
			err = f.store.backend.TransferLock(ctx, holder.ID, entry.Granted)
		} else {
			_, err = f.store.backend.Release(ctx, ReleaseRequest{
				LockID: holder.ID, Resource: entry.Resource, Owner: holder.Owner, Actor: SystemAtlantis, Reason: reason,
			})
		}
		if err == nil || entry.Granted == "" && (errors.Is(err, ErrLockNotFound) || errors.Is(err, ErrLockExpired) || errors.Is(err, ErrPermissionDenied)) {
			return nil
		}
		return err
	}
	if entry.Granted == "" {
		return nil
	}
	owner, err := ParseOwner(entry.Granted)
	if err != nil {
		return err
	}
	if holder == nil {
		record := models.ProjectLock{Project: entry.Resource.Project(), Workspace: entry.Resource.Workspace}
		if sides.legacy != nil && isRecordOf(*sides.legacy, &EnhancedLock{Resource: entry.Resource, Owner: entry.Granted}) {
			record = *sides.legacy
		}
		if holder, err = f.takeInStore(ctx, legacyRecord(entry.Resource, owner, record)); err != nil {
			return err
		}
	}
	if holder == nil || sameOwner(holder.Owner, owner) {
		return nil
	}
	return f.giveOrFreeze(ctx, holder, owner)
}

// takeInStore acquires in the store, without a lease, what the legacy database
// holds. It returns who has it if that is somebody else.
func (f *fallback) takeInStore(ctx context.Context, record models.ProjectLock) (*EnhancedLock, error) {
	owner := legacyOwner(record)
	request := &EnhancedLockRequest{
		Resource: legacyResource(record), User: record.User, Timeout: NoTimeout, RequestedAt: record.Time, Priority: PriorityNormal,
	}
	if owner.Kind == OwnerPull {
		request.Pull = &record.Pull
	}
	config := f.store.state.Load().config
	request, err := NormalizeRequest(request, config.DefaultTimeout, config.MaxTimeout)
	if err != nil {
		return nil, err
	}
	var lock *EnhancedLock
	for range 3 {
		var acquired bool
		lock, acquired, err = f.store.backend.TryAcquireLock(ctx, request)
		switch {
		case err != nil || acquired || sameOwner(lock.Owner, owner):
			return nil, err
		case lock.ID != "" || lock.State != LockStatePending:
			return lock, nil
		}
		if err = f.endKeeping(ctx, lock, "the legacy database has granted it to "+owner.Describe()); err != nil {
			return nil, err
		}
	}
	return nil, NewHeldError(request.Resource, lock)
}

// endKeeping ends what the store keeps a resource for, which nobody was told to hold: a
// plan of a pull request, or a set that waits for others.
func (f *fallback) endKeeping(ctx context.Context, kept *EnhancedLock, reason string) error {
	// Its owner can have taken it meanwhile, in another process, and was told so.
	_, err := f.store.backend.Release(ctx, ReleaseRequest{Resource: kept.Resource, Force: true, Reservation: true, Actor: SystemAtlantis, Reason: reason})
	if errors.Is(err, ErrLockNotFound) {
		err = f.store.backend.CancelRequest(ctx, kept.Resource, kept.Owner, SystemAtlantis)
	}
	if errors.Is(err, ErrLockNotFound) {
		return nil // it has ended by itself
	}
	return err
}

// giveOrFreeze is for what the store holds and the legacy database has granted to a
// rival. Who waited for it in the store, and has not claimed it, was not told.
func (f *fallback) giveOrFreeze(ctx context.Context, holder *EnhancedLock, rival Owner) error {
	if holder.ID != "" && holder.State == LockStatePending {
		return f.store.backend.TransferLock(ctx, holder.ID, rival.String())
	}
	return f.freeze(ctx, holder, rival)
}

// frozenPrefix begins the name of the user that holds a frozen resource.
const frozenPrefix = "frozen: held by "

// freeze keeps a resource from everybody that two owners have been told to hold,
// until a person unlocks it by force: the store's lock goes to a user that nobody
// is, and whose name says who they are.
func (f *fallback) freeze(ctx context.Context, holder *EnhancedLock, rival Owner) error {
	frozen, err := ParseOwner(holder.Owner)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(frozen.Name, frozenPrefix) || !strings.Contains(frozen.Name, rival.Describe()) {
		name := frozenPrefix + DescribeOwner(holder.Owner) + " and by " + rival.Describe()
		if holder.ID == "" {
			return fmt.Errorf("%s keeps it, and %s was granted it while the store failed", DescribeOwner(holder.Owner), rival.Describe())
		}
		if err := f.store.backend.TransferLock(ctx, holder.ID, UserOwner(name).String()); err != nil {
			return err
		}
		f.logger.Err("%s is frozen until a person unlocks it by force: %s", holder.Resource, name)
		event := LockEvent{Type: EventConflict, LockID: holder.ID, Resource: holder.Resource, Owner: holder.Owner, Timestamp: time.Now()}
		event.Metadata = map[string]string{"reason": name}
		f.publish(&ManagerEvent{LockEvent: event})
	}
	locks, err := f.store.backend.LocksByLegacyKey(ctx, holder.Resource.LegacyKey())
	if err != nil {
		return err
	}
	return f.adopt(holder.Resource, locks)
}
