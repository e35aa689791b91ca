package backends

import (
	"errors"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// releasedError is errReleased with who had the lock.
type releasedError struct{ owner string }

func (*releasedError) Error() string { return errReleased.Error() }

func (*releasedError) Is(target error) bool { return target == errReleased }

// releasedBefore answers a release of a lock that was released before, whose owner had
// the right to it, with what is known of that lock; any other error it returns.
func releasedBefore(request enhanced.ReleaseRequest, err error) (*enhanced.EnhancedLock, error) {
	var before *releasedError
	var gone *enhanced.LockError
	if request.Force || !errors.As(err, &before) || !errors.As(err, &gone) {
		return nil, err
	}
	if request.Resource != (enhanced.ResourceIdentifier{}) && request.Resource.Normalized() != gone.Resource {
		return nil, err
	}
	owner, ownerErr := enhanced.ParseOwner(before.owner)
	if ownerErr != nil || !mayHaveReleased(request, owner) {
		return nil, err
	}
	_, token, _ := enhanced.ParseLockID(request.LockID)
	return &enhanced.EnhancedLock{
		ID: request.LockID, Resource: gone.Resource, State: enhanced.LockStateReleased, Owner: before.owner, Version: token,
	}, nil
}

// mayHaveReleased reports whether a request meets the condition of an owner's lock.
func mayHaveReleased(request enhanced.ReleaseRequest, owner enhanced.Owner) bool {
	if request.PullNumber != nil && (owner.Kind != enhanced.OwnerPull || owner.Number != *request.PullNumber) {
		return false
	}
	if request.Owner == "" || request.Owner == owner.String() {
		return true
	}
	wanted, err := enhanced.ParseOwner(request.Owner)
	return err == nil && isSamePull(owner, wanted)
}
