package enhanced

import (
	"context"
	"strings"
	"time"
)

// Fleet returns the mode of all adapters of the store, and the adapters. It answers
// INVALID_REQUEST if the backend keeps none.
func (m *EnhancedLockManager) Fleet(ctx context.Context) (Fleet, error) {
	store, err := m.fleetStore(ctx)
	if err != nil {
		return Fleet{}, err
	}
	return repeated(ctx, &m.repeat, mayPass, store.ReadFleet)
}

// SwitchMode sets the mode of all adapters of the store, see [Fleet.Switch]. They
// follow within seconds; the answer tells which have not yet. It needs an actor, in
// an owner's text form, and a reason.
func (m *EnhancedLockManager) SwitchMode(ctx context.Context, to Mode, actor, reason string) (Fleet, error) {
	return m.changeFleet(ctx, actor, reason, func(f *Fleet) error {
		return f.Switch(to, time.Now(), actor, reason)
	})
}

// ForgetAdapter removes an adapter that does not run any longer, see
// [Fleet.Forget]. It needs an actor, in an owner's text form, and a reason.
func (m *EnhancedLockManager) ForgetAdapter(ctx context.Context, name, actor, reason string) (Fleet, error) {
	return m.changeFleet(ctx, actor, reason, func(f *Fleet) error { return f.Forget(name) })
}

func (m *EnhancedLockManager) changeFleet(ctx context.Context, actor, reason string, change func(*Fleet) error) (Fleet, error) {
	store, err := m.fleetStore(ctx)
	if err != nil {
		return Fleet{}, err
	}
	if _, err := ParseOwner(actor); err != nil {
		return Fleet{}, err
	}
	if strings.TrimSpace(reason) == "" {
		return Fleet{}, NewInvalidError("reason is empty; say why the mode changes for everybody")
	}
	if err := ValidateReason(reason); err != nil {
		return Fleet{}, err
	}
	if err := m.authorize(ctx, AuthorizationRequest{Action: ActionMode, Actor: actor, Reason: reason}); err != nil {
		return Fleet{}, err
	}
	fleet, err := store.ChangeFleet(ctx, change)
	if err == nil {
		m.logger.Info("the mode is %s, epoch %d, since a change by %s: %s", fleet.Mode, fleet.Epoch, DescribeOwner(actor), reason)
	}
	return fleet, err
}

func (m *EnhancedLockManager) fleetStore(ctx context.Context) (FleetStore, error) {
	if _, err := m.ready(ctx); err != nil {
		return nil, err
	}
	store, ok := m.backend.(FleetStore)
	if !ok {
		return nil, NewInvalidError("the backend %T keeps no mode", m.backend)
	}
	return store, nil
}
