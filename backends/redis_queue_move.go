package backends

import (
	"context"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

var _ enhanced.RequestMover = (*RedisBackend)(nil)

// MoveRequest puts an owner's requests for a resource before all others. See
// [enhanced.RequestMover].
func (b *RedisBackend) MoveRequest(ctx context.Context, resource enhanced.ResourceIdentifier, owner, actor, reason string) error {
	resource, err := checkMove(resource, owner, reason)
	if err != nil {
		return err
	}
	a, elsewhere, err := b.decideOn(ctx, "move a request for "+resource.String(), b.scripts.move, resource, owner, actor, reason)
	switch {
	case err != nil:
		return err
	case elsewhere != nil || a.status == "missing":
		return enhanced.NewNotWaitingError(resource, owner)
	}
	return nil
}

// checkMove checks what a move is asked for, and returns the resource as it is
// stored.
func checkMove(resource enhanced.ResourceIdentifier, owner, reason string) (enhanced.ResourceIdentifier, error) {
	resource = resource.Normalized()
	if err := resource.Validate(); err != nil {
		return resource, err
	}
	if _, err := enhanced.ParseOwner(owner); err != nil {
		return resource, err
	}
	return resource, enhanced.ValidateReason(reason)
}
