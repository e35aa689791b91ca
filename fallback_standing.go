package enhanced

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/runatlantis/atlantis/server/core/db"
)

// standing is what a legacy database has to do with the store. It outlives the
// process and is kept beside the journal; there is none where no fallback was.
type standing struct {
	// Alone is since when it decides without anybody telling the store, after it had
	// what the store holds. Zero while a fallback keeps it so.
	Alone time.Time `json:"alone,omitzero"`
	// Unknown are stock's keys of what it did not have then.
	Unknown []string `json:"unknown,omitempty"`
}

// readStanding returns nil for none, and for one that can't be read: it only says
// more than the locks do.
func readStanding(legacy db.Database) (*standing, error) {
	status, err := legacy.GetPullStatus(ownPull(standingPull))
	if err != nil || status == nil {
		return nil, err
	}
	var s standing
	if json.Unmarshal([]byte(status.Pull.Body), &s) != nil {
		return nil, nil
	}
	return &s, nil
}

func writeStanding(legacy db.Database, s standing) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	pull := ownPull(standingPull)
	pull.Body = string(text)
	_, err = legacy.UpdatePullWithResults(pull, nil)
	return err
}

// legacyIsAlone notes that the legacy database decides and the store is not told,
// where a fallback, that of an earlier process, kept it up to date.
func (a *LockingAdapter) legacyIsAlone() {
	a.noteOnce(func(s standing) error {
		if !s.Alone.IsZero() {
			return nil
		}
		return writeStanding(a.legacy, standing{Alone: time.Now().UTC()})
	})
}

// legacyIsLeft notes that the store decides and nobody tells the legacy database.
func (a *LockingAdapter) legacyIsLeft() {
	a.noteOnce(func(standing) error { return a.legacy.DeletePullStatus(ownPull(standingPull)) })
}

// noteOnce changes the standing of the legacy database, if it has one, before the first
// operation under a configuration. Where that fails, the operation goes on: what then
// counts as held by two is frozen later.
func (a *LockingAdapter) noteOnce(change func(standing) error) {
	if a.legacy == nil || a.noted.Load() {
		return
	}
	a.fallbackMu.Lock()
	defer a.fallbackMu.Unlock()
	if a.noted.Swap(true) {
		return
	}
	s, err := readStanding(a.legacy)
	if err == nil && s != nil {
		err = change(*s)
	}
	if err != nil {
		a.logger.Err("noting in the legacy database which database decides: %v", err)
	}
}

// standsBy notes that the legacy database has what the store holds, and is told of
// what changes.
func (f *fallback) standsBy() error {
	s, err := readStanding(f.legacy)
	if err == nil && (s == nil || !s.Alone.IsZero()) {
		err = writeStanding(f.legacy, standing{})
	}
	if err != nil {
		return legacyFailed(err)
	}
	return nil
}

// handOver has the legacy database hold what the store does, since it decides alone
// from now on. Nothing else is at work in the fallback.
func (f *fallback) handOver(ctx context.Context) {
	f.mu.Lock()
	to, notReady := f.route, f.notReady(time.Now())
	f.mu.Unlock()
	var err error
	switch to {
	case routeStart, routeStore:
		return
	case routeBoth:
		_, err = f.agree(ctx, false)
	case routeLegacy: // it has decided already, and the journal has what
		notReady = nil
	}
	switch {
	case err == nil || notReady == nil:
		f.mu.Lock()
		unknown := slices.Collect(maps.Keys(f.behind))
		f.mu.Unlock()
		err = writeStanding(f.legacy, standing{Alone: time.Now().UTC(), Unknown: unknown})
	default:
		f.logger.Err("the legacy database decides on project locks, and may lack what the store holds: %v", err)
		err = f.legacy.DeletePullStatus(ownPull(standingPull))
	}
	if err != nil {
		f.logger.Err("noting in the legacy database that it decides alone: %v", err)
	}
}

// learnDecided puts into the journal what the legacy database has decided since it is
// alone: the locks of the store that it has not any more, although it had them then,
// were released there, and what it has now was granted there.
func (f *fallback) learnDecided(all map[string]*bothSides) error {
	s, err := readStanding(f.legacy)
	if err != nil {
		return legacyFailed(err)
	}
	if s == nil || s.Alone.IsZero() {
		return nil
	}
	learned := make(map[string]journalEntry)
	for key, sides := range all {
		if slices.Contains(s.Unknown, key) || len(sides.store) > 1 {
			continue // it could not hold all of them
		}
		entry, noted := f.journal.entry(key)
		if decided, is := sides.decided(entry, s.Alone); is || noted {
			learned[key] = decided
		}
	}
	return f.journal.replace(learned)
}

// decided is what became of a key, of which the journal has an entry or none, in a
// legacy database that is alone since a time; false if the store has the same.
func (b *bothSides) decided(entry journalEntry, alone time.Time) (journalEntry, bool) {
	if entry.Granted != "" {
		entry.Released = append(slices.Clone(entry.Released), entry.Granted)
	}
	entry.Granted = ""
	if b.legacy != nil {
		entry.Resource, entry.Granted = legacyResource(*b.legacy), legacyOwner(*b.legacy).String()
	}
	if len(b.store) == 0 {
		return entry, false
	}
	lock := b.store[0]
	switch {
	case b.legacy != nil && isRecordOf(*b.legacy, lock):
		entry.Granted = lock.Owner
		return entry, false
	case b.legacy != nil && lock.Resource != entry.Resource:
		return entry, false
	case lock.AcquiredAt.Before(alone), b.legacy != nil && lock.State == LockStatePending:
		entry.Resource, entry.Released = lock.Resource, append(slices.Clone(entry.Released), lock.Owner)
		return entry, true
	default:
		return entry, false
	}
}
