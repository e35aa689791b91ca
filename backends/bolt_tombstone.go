package backends

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/go-json-experiment/json"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// A pull request can be closed while a run of it goes on. Its tombstone keeps
// that run from taking locks; another head commit, the end of the run and
// TombstoneTTL remove it. Atlantis releases the locks shortly before it says that
// the pull request is gone: what the run takes in between is found by the mark
// that the release leaves.

// tombstone is what is stored of a pull request that was closed.
type tombstone struct {
	Since int64  `json:"t"`
	Head  string `json:"h,omitzero"`
	// Releasing is set while its locks are not all released. Whatever it has it had
	// before.
	Releasing bool `json:"m,omitzero"`
}

func tombstoneKey(owner string) []byte { return append([]byte{rangeTombstone}, owner...) }

// releasedKey is that of the mark that all locks of a pull request were released.
func releasedKey(number int) []byte {
	return strconv.AppendInt([]byte{rangeReleased}, int64(number), 10)
}

func decodeTombstone(data []byte) (*tombstone, error) {
	var t tombstone
	if err := json.Unmarshal(data, &t); err != nil {
		return nil, err
	}
	if t.Since <= 0 {
		return nil, fmt.Errorf("tombstone since %d", t.Since)
	}
	return &t, nil
}

// checkTombstone refuses a request of a pull request that was closed.
func (s *repositoryStep) checkTombstone(r *enhanced.EnhancedLockRequest) error {
	if s.isVacant(rangeTombstone) {
		return nil
	}
	owner := r.Owner().String()
	data := s.get(tombstoneKey(owner))
	if data == nil {
		return nil
	}
	config := s.backend.config.Load()
	t, err := decodeTombstone(data)
	head := r.Pull.HeadCommit
	switch {
	case err != nil, !config.EnablePriorityQueue: // a damage keeps nobody from his locks
		return nil
	case s.now-t.Since >= config.TombstoneTTL.Microseconds(), head != "" && head != t.Head:
		return s.delete(tombstoneKey(owner))
	}
	return closedError(r.Resource, owner)
}

// closedError is the answer to a run of a pull request that was closed.
func closedError(resource enhanced.ResourceIdentifier, owner string) error {
	return &enhanced.LockError{
		Code: enhanced.ErrCodePermissionDenied, Resource: resource,
		Message: fmt.Sprintf("%s: %s was closed while this ran; it can lock again with another commit, or once this run has ended",
			resource, enhanced.DescribeOwner(owner)),
	}
}

// EndRun ends what a pull request keeps while it plans. See [enhanced.RunKeeper].
func (b *BoltBackend) EndRun(ctx context.Context, owner enhanced.Owner) error {
	return b.overRun(ctx, owner, "end the run of "+owner.Describe(), func(s *repositoryStep) (more bool, err error) {
		var errs []error
		for _, key := range [][]byte{tombstoneKey(owner.String()), releasedKey(owner.Number)} {
			if s.get(key) != nil {
				errs = append(errs, s.delete(key))
			}
		}
		more, err = s.endReservations(reservesKey(owner, ""), change{actor: owner.String(), cause: enhanced.CauseRequest})
		return more, errors.Join(append(errs, err)...)
	})
}

// ClosePull keeps a closed pull request from taking locks. See
// [enhanced.RunKeeper].
func (b *BoltBackend) ClosePull(ctx context.Context, owner enhanced.Owner, headCommit string) error {
	return b.overRun(ctx, owner, "close "+owner.Describe(), func(s *repositoryStep) (more bool, err error) {
		return s.closePull(owner, headCommit)
	})
}

// closePull leaves a tombstone, and releases what the pull request has taken after
// its locks were released, a page at a time. A close that was cut off goes on whenever
// it is done again.
func (s *repositoryStep) closePull(owner enhanced.Owner, headCommit string) (more bool, err error) {
	t := tombstone{Since: s.now, Head: headCommit}
	if before, err := decodeTombstone(s.get(tombstoneKey(owner.String()))); err == nil {
		t.Releasing = before.Releasing
	}
	if err := s.putTombstone(owner, t); err != nil {
		return false, err
	}
	mark := releasedKey(owner.Number)
	if since := number(s.get(mark)); s.now-since >= closingTimeout.Microseconds() && !t.Releasing {
		return false, nil
	}
	page, err := s.releaseByPull(owner.Number, nil, change{actor: enhanced.SystemAtlantis, cause: enhanced.CausePull})
	if err != nil {
		return false, err
	}
	if !page.more {
		err = s.delete(mark)
	}
	if t.Releasing != page.more {
		t.Releasing = page.more
		err = errors.Join(err, s.putTombstone(owner, t))
	}
	return page.more, err
}

func (s *repositoryStep) putTombstone(owner enhanced.Owner, t tombstone) error {
	data, err := encode(t)
	return errors.Join(err, s.put(tombstoneKey(owner.String()), data))
}

// overRun runs step on an owner's repository until there is no more to do.
func (b *BoltBackend) overRun(ctx context.Context, owner enhanced.Owner, operation string, step func(s *repositoryStep) (more bool, err error)) error {
	if err := checkPlans(owner); err != nil {
		return err
	}
	for {
		more, err := decide(ctx, b.committer, operation, func(batch *batch) (bool, error) {
			s := b.repositoryStep(batch, owner.Repository)
			return step(s)
		})
		if err != nil || !more {
			return err
		}
	}
}

// checkPlans refuses owners that have no runs.
func checkPlans(owner enhanced.Owner) error {
	if owner.Kind != enhanced.OwnerPull {
		return enhanced.NewInvalidError("owner %q is no pull request; only those plan", owner)
	}
	return nil
}

// outdatedMarks returns up to limit tombstones and marks that are over.
func (r *repository) outdatedMarks(config *enhanced.EnhancedConfig, limit int) (keys [][]byte) {
	for letter, age := range map[byte]int64{
		rangeTombstone: config.TombstoneTTL.Microseconds(),
		rangeReleased:  closingTimeout.Microseconds(),
	} {
		cursor := r.bucket.Cursor()
		for key, value := cursor.Seek([]byte{letter}); len(key) > 0 && key[0] == letter && len(keys) < limit; key, value = cursor.Next() {
			since := number(value)
			if t, err := decodeTombstone(value); letter == rangeTombstone && err == nil {
				since = t.Since
			}
			if since > 0 && r.now-since >= age {
				keys = append(keys, append([]byte{}, key...))
			}
		}
	}
	return keys
}

// sweepQueue takes out what is over: waiters, tombstones and marks.
func (s *repositoryStep) sweepQueue() error {
	err := s.dequeueLate(maxStep)
	for _, key := range s.outdatedMarks(s.backend.config.Load(), maxStep) {
		err = errors.Join(err, s.delete(key))
	}
	return err
}
