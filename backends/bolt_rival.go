package backends

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// Stock's data can have two acknowledged owners for one project: it did not
// migrate the keys of nested paths when their form changed in v0.40, and granted
// those locks again. The same happens through a boltdb.BoltDB on our file where
// our locks have no copy that it can see. The lock that stands first counts; the
// record beside it is its rival. A rival is named, goes with its own pull
// request, and takes the lock's place in the step that ends it.

// rival is a record of stock's on a resource that is held otherwise.
type rival struct {
	key      string // in stock's bucket
	resource enhanced.ResourceIdentifier
	owner    enhanced.Owner
}

// rivals returns what stock has recorded of a resource beside our lock on it.
// Stock's copy of a mirrored lock is none.
func (r *repository) rivals(resource enhanced.ResourceIdentifier, mirrored bool) (found []finding) {
	if resource.Type != enhanced.ResourceTypeProject {
		return nil
	}
	present := resource.LegacyKey()
	// Keys from before v0.40 end before the name of the project, which was
	// never one with a slash.
	keys := [...]string{present[:strings.LastIndexByte(present, '/')], present}
	for i, key := range keys {
		if i == 1 && mirrored {
			continue
		}
		value := r.lookUpStock(key)
		if value == nil {
			continue
		}
		lock, err := decodeProjectLock(value)
		if err != nil {
			continue // it harms whoever comes to it, see inspect
		}
		other := enhanced.ProjectResource(lock.Project, lock.Workspace)
		if other.LegacyKey() != present || key != present && key != oldLegacyKey(other) {
			continue
		}
		found = append(found, finding{
			status: heldByStock, resource: other, tag: enhanced.RepositoryTag(other.Namespace), original: lock, legacyKey: key,
		})
	}
	return found
}

// rivalsOf returns the rivals of a lock that was found.
func (r *repository) rivalsOf(f *finding) []finding {
	if f.record == nil {
		return nil
	}
	return r.rivals(f.resource, f.record.Mirror != "")
}

// isOverdue reports whether a rival is to take the place of a lock whose lease
// has run out.
func (r *repository) isOverdue(known rival) bool {
	f := r.inspect(known.resource)
	if f.status != expired && f.status != expiredElsewhere {
		return false
	}
	return slices.ContainsFunc(r.rivalsOf(&f), func(g finding) bool { return g.legacyKey == known.key })
}

// isDisputed reports whether another owner than the lock's has a rival of it.
func (r *repository) isDisputed(f *finding) bool {
	owner := f.owner()
	return slices.ContainsFunc(r.rivalsOf(f), func(g finding) bool {
		return !isSamePull(owner, g.owner())
	})
}

// isUnnoted reports whether the lock does not say yet that it is disputed, or
// says so still.
func (r *repository) isUnnoted(f *finding) bool {
	return f.record != nil && f.record.Disputed != r.isDisputed(f)
}

// isSamePull reports whether both are one pull request, one of which may be
// from before Atlantis stored hosts.
func isSamePull(x, y enhanced.Owner) bool { return x.SamePull(y) || y.SamePull(x) }

// noteRivals logs, once, that two believe that they hold a lock.
func (s *repositoryStep) noteRivals(f *finding) error {
	if !s.isUnnoted(f) {
		return nil
	}
	holder := s
	if f.resource.Namespace != s.name {
		holder = s.backend.repositoryStep(s.batch, f.resource.Namespace)
	}
	f.record.Disputed = !f.record.Disputed
	if err := holder.putRecord(f.resource, f.record); err != nil || !f.record.Disputed {
		return err
	}
	var others []string
	for _, g := range s.rivalsOf(f) {
		others = append(others, fmt.Sprintf("%s has it in %q", g.owner(), legacyName(g.legacyKey)))
	}
	s.backend.logger.Warn("%s is held twice: by %s, and %s", f.resource, f.record.Owner, strings.Join(others, ", "))
	return holder.log(enhanced.EventConflict, f.resource, f.record, f.record, change{
		actor: enhanced.SystemAtlantis, cause: enhanced.CauseLegacy, reason: strings.Join(others, ", "),
	})
}

// finish releases a held lock and lets its rival take its place. A rival of the
// same pull request is the same lock, and goes with it.
func (s *repositoryStep) finish(f *finding, c change) error {
	if err := s.end(f, enhanced.EventReleased, c); err != nil {
		return err
	}
	return s.succeed(f, c)
}

// succeed is the rest of finish, once the lock has ended.
func (s *repositoryStep) succeed(f *finding, c change) error {
	for {
		rivals := s.rivals(f.resource, false)
		if len(rivals) == 0 {
			return s.serve(f.resource)
		}
		next := s.backend.repositoryStep(s.batch, rivals[0].resource.Namespace)
		heir, _, err := next.settle(rivals[0].resource)
		if err != nil || heir.status != held || !isSamePull(heir.owner(), f.owner()) {
			return err
		}
		if err := next.end(&heir, enhanced.EventReleased, c); err != nil {
			return err
		}
	}
}

// succeedAll is succeed for several locks, and hands over what was reserved. All of it is
// free before the first one is handed over: a set that waits for some can have them then.
func (s *repositoryStep) succeedAll(ended []finding, given []enhanced.ResourceIdentifier, c change) error {
	for i := range ended {
		if err := s.succeed(&ended[i], c); err != nil {
			return err
		}
	}
	for _, resource := range given {
		if err := s.serve(resource); err != nil {
			return err
		}
	}
	return nil
}

// endRival removes a rival while the lock beside it stays, and returns what it was.
func (s *repositoryStep) endRival(f, rival *finding, c change) (*enhanced.EnhancedLock, error) {
	lock := rival.lock()
	lock.State = enhanced.LockStateReleased
	err := errors.Join(s.deleteLegacy(rival.legacyKey), s.noteRivals(f))
	if err != nil {
		return nil, err
	}
	step := s
	if rival.resource.Namespace != s.name {
		step = s.backend.repositoryStep(s.batch, rival.resource.Namespace)
	}
	// It never had a token, so its record in the log has none.
	return lock, step.log(enhanced.EventReleased, rival.resource, &lockRecord{Owner: lock.Owner}, nil, c)
}

// endRivalsByPull does for the known rivals of a pull request what releaseByPull
// does for its locks.
func (s *repositoryStep) endRivalsByPull(number int, known []rival, c change) (released []*enhanced.EnhancedLock, err error) {
	for _, k := range known {
		if k.resource.Namespace != s.name || k.owner.Number != number {
			continue
		}
		f, _, err := s.settle(k.resource)
		if err != nil {
			return nil, err
		}
		if owner := f.owner(); f.status == held && owner.Kind == enhanced.OwnerPull && owner.Number == number {
			// It has taken the lock's place since it was seen.
			lock := f.lock()
			lock.State = enhanced.LockStateReleased
			released = append(released, lock)
			if err := s.finish(&f, c); err != nil {
				return nil, err
			}
			continue
		}
		for _, g := range s.rivalsOf(&f) {
			if g.legacyKey != k.key || g.resource != k.resource || g.owner().Number != number {
				continue
			}
			lock, err := s.endRival(&f, &g, c)
			if err != nil {
				return nil, err
			}
			released = append(released, lock)
		}
	}
	return released, nil
}

// endRequestedRival ends the rival of a lock that a request has the right to
// release. It returns nil if there is none.
func (s *repositoryStep) endRequestedRival(f *finding, request enhanced.ReleaseRequest) (*enhanced.EnhancedLock, error) {
	resource := request.Resource.Normalized()
	for _, g := range s.rivalsOf(f) {
		if g.resource != resource {
			continue
		}
		if c, err := releaseChange(request, &g); err == nil {
			return s.endRival(f, &g, c)
		}
	}
	return nil, nil
}
