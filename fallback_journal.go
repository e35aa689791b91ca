package enhanced

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/google/uuid"
	"github.com/runatlantis/atlantis/server/core/db"
	"github.com/runatlantis/atlantis/server/events/models"
)

// journal is what the legacy database has granted and released while it answered
// alone, by stock's key: what the store has yet to learn. It outlives the process:
// it is kept in the legacy database, in the status of a pull request that no host
// can have, since stock's interface offers no other place.
type journal struct {
	db db.Database

	mu      sync.Mutex // protects below, and is held while it is written
	loaded  bool
	entries map[string]journalEntry
}

// journalEntry is what became of one resource.
type journalEntry struct {
	Resource ResourceIdentifier `json:"resource"`
	// Released are the owners whose lock was released.
	Released []string `json:"released,omitempty"`
	// Granted is who has it now, empty for nobody.
	Granted string `json:"granted,omitempty"`
}

// ownPull is a pull request for what the fallback keeps in a database of stock's.
// The commit decides whether a status replaces an earlier one.
func ownPull(number int) models.PullRequest {
	return models.PullRequest{
		Num: number, HeadCommit: uuid.NewString(),
		BaseRepo: models.Repo{FullName: "atlantis-locks/fallback", VCSHost: models.VCSHost{Hostname: "fallback.invalid"}},
	}
}

const (
	journalPull  = 1
	probePull    = 2
	standingPull = 3
)

// load reads the journal, once.
func (j *journal) load() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.loaded {
		return nil
	}
	entries := make(map[string]journalEntry)
	status, err := j.db.GetPullStatus(ownPull(journalPull))
	if err == nil && status != nil {
		err = json.Unmarshal([]byte(status.Pull.Body), &entries)
	}
	if err != nil {
		return fmt.Errorf("reading the fallback's journal from the legacy database: %w", err)
	}
	j.entries, j.loaded = entries, true
	return nil
}

// change stores the journal with another entry, nil for none.
func (j *journal) change(key string, entry *journalEntry) error {
	after := maps.Clone(j.entries)
	if after == nil {
		after = make(map[string]journalEntry)
	}
	if entry == nil {
		delete(after, key)
	} else {
		after[key] = *entry
	}
	return j.store(after)
}

func (j *journal) store(after map[string]journalEntry) error {
	pull := ownPull(journalPull)
	var err error
	if len(after) == 0 {
		err = j.db.DeletePullStatus(pull)
	} else {
		var text []byte
		if text, err = json.Marshal(after); err == nil {
			pull.Body = string(text)
			_, err = j.db.UpdatePullWithResults(pull, nil)
		}
	}
	if err != nil {
		return fmt.Errorf("writing the fallback's journal to the legacy database: %w", err)
	}
	j.entries = after
	return nil
}

// replace notes several resources at once, in place of what is known of them.
func (j *journal) replace(entries map[string]journalEntry) error {
	if len(entries) == 0 {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	after := maps.Clone(j.entries)
	maps.Copy(after, entries)
	return j.store(after)
}

// granted notes that an owner has been told that it holds a resource.
func (j *journal) granted(resource ResourceIdentifier, owner string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	entry, known := j.entries[resource.LegacyKey()]
	if known && entry.Granted == owner {
		return nil
	}
	entry.Resource, entry.Granted = resource, owner
	return j.change(resource.LegacyKey(), &entry)
}

// released notes that an owner's lock has been released.
func (j *journal) released(resource ResourceIdentifier, owner string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	entry := j.entries[resource.LegacyKey()]
	entry.Resource, entry.Granted = resource, ""
	if !slices.Contains(entry.Released, owner) {
		entry.Released = append(slices.Clone(entry.Released), owner)
	}
	return j.change(resource.LegacyKey(), &entry)
}

// settled forgets a resource: the store knows.
func (j *journal) settled(key string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, known := j.entries[key]; !known {
		return nil
	}
	return j.change(key, nil)
}

func (j *journal) entry(key string) (journalEntry, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	entry, known := j.entries[key]
	return entry, known
}

func (j *journal) keys() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Collect(maps.Keys(j.entries))
}

// isSameStore reports whether the legacy database and the backend keep stock's
// records in one place: what one writes, the other reads. It can't be seen from
// outside, so it is tried with a status, which nobody is shown.
func isSameStore(legacy db.Database, backend Backend) (bool, error) {
	statuses, ok := backend.(StatusStore)
	if !ok {
		return false, NewInvalidError("legacy_fallback: true, but the backend %T does not let anybody see whether the legacy database is in the same store: it keeps no pull status", backend)
	}
	pull := ownPull(probePull)
	if _, err := legacy.UpdatePullWithResults(pull, nil); err != nil {
		return false, legacyFailed(err)
	}
	status, err := statuses.GetPullStatus(pull)
	if removed := legacy.DeletePullStatus(pull); err == nil && removed != nil {
		return false, legacyFailed(removed)
	}
	return status != nil && status.Pull.HeadCommit == pull.HeadCommit, err
}

// legacyFailed is the error of a call that the legacy database has failed.
func legacyFailed(err error) error {
	return NewBackendError("the legacy database has failed", err)
}
