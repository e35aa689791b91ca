package backends

import (
	"context"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// maxFloor is the largest token that a script in Redis counts exactly with room
// for more.
const maxFloor = 1 << 52

// checkFloor refuses a floor that a store can't count from.
func checkFloor(repository string, floor int64) error {
	if floor < 0 || floor > maxFloor {
		return enhanced.NewInvalidError("token %d of %q is outside 0 to %d; it can't be carried, and a later one would be smaller", floor, repository, int64(maxFloor))
	}
	return enhanced.ResourceIdentifier{Type: enhanced.ResourceTypeCustom, Namespace: repository}.Validate()
}

// RaiseToken makes every later fencing token of the repository larger than
// floor: a store that takes over locks goes on where the other one was. A
// repository that is there already, or is not, changes in nothing else. A floor
// that can't be counted from is an INVALID_REQUEST.
func (b *RedisBackend) RaiseToken(ctx context.Context, repository string, floor int64) error {
	if err := checkFloor(repository, floor); err != nil {
		return err
	}
	_, err := b.step(ctx, "raise the token of "+repository, b.scripts.raise, enhanced.RepositoryTag(repository), repository, nil, floor)
	return err
}

// RaiseToken is that of [RedisBackend]. One counter serves all repositories of a
// file.
func (b *BoltBackend) RaiseToken(ctx context.Context, repository string, floor int64) error {
	if err := checkFloor(repository, floor); err != nil {
		return err
	}
	_, err := decide(ctx, b.committer, "raise the token of "+repository, func(batch *batch) (none struct{}, err error) {
		if batch.token < floor {
			batch.token, batch.dirty = floor, true
		}
		return none, nil
	})
	return err
}
