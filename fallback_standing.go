package enhanced

import (
	"context"
	"encoding/json"
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
	// Had are the locks that it had then.
	Had []ending `json:"had,omitempty"`
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
		records, err := a.legacy.List()
		if err != nil {
			return err
		}
		s.Alone = time.Now().UTC()
		for _, record := range records {
			s.Had = append(s.Had, ending{legacyResource(record), legacyOwner(record).String()})
		}
		return writeStanding(a.legacy, s)
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
	if a.noted.Load() {
		return
	}
	defer a.noted.Store(true) // others wait until it is
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
	if to != routeBoth {
		return // nothing is known of the store, or the journal has what was decided
	}
	if _, err := f.agree(ctx, false); err != nil && notReady != nil {
		f.logger.Err("the legacy database decides on project locks, and may lack what the store holds: %v", err)
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
	had := make(map[ending]bool, len(s.Had))
	for _, lock := range s.Had {
		had[lock] = true
	}
	learned := make(map[string]journalEntry)
	for key, sides := range all {
		if len(sides.store) > 1 {
			continue // it could not hold all of them
		}
		entry, noted := f.journal.entry(key)
		if decided, is := sides.decided(entry, had, s.Alone); is || noted {
			learned[key] = decided
		}
	}
	return f.journal.replace(learned)
}

// decided is what became of a key, of which the journal has an entry or none, in a
// legacy database that is alone since a time, and had some locks then; false if that is
// for the store to say.
func (b *bothSides) decided(entry journalEntry, had map[ending]bool, alone time.Time) (journalEntry, bool) {
	if entry.Granted != "" {
		entry.Released = append(slices.Clone(entry.Released), entry.Granted)
	}
	entry.Granted = ""
	if b.legacy != nil {
		entry.Resource, entry.Granted = legacyResource(*b.legacy), legacyOwner(*b.legacy).String()
	}
	isNew := b.legacy != nil && (b.legacy.Time.After(alone) || !had[ending{entry.Resource, entry.Granted}])
	if len(b.store) == 0 {
		return entry, isNew
	}
	lock := b.store[0]
	switch {
	case b.legacy != nil && isRecordOf(*b.legacy, lock):
		entry.Granted = lock.Owner
		return entry, false
	case b.legacy != nil && lock.Resource != entry.Resource:
		return entry, false
	case lock.AcquiredAt.Before(alone) && had[ending{lock.Resource, lock.Owner}], b.legacy != nil && lock.State == LockStatePending:
		entry.Resource, entry.Released = lock.Resource, append(slices.Clone(entry.Released), lock.Owner)
		return entry, true
	default:
		return entry, isNew
	}
}
