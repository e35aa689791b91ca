package backends

import (
	"context"
	"encoding/json"
	"fmt"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"go.etcd.io/bbolt"
)

const (
	readFleet   = "read the mode of the fleet"
	changeFleet = "change the mode of the fleet"
)

func decodeFleet(key, value string) (enhanced.Fleet, error) {
	var fleet enhanced.Fleet
	if value == "" {
		return fleet, nil
	}
	if err := json.Unmarshal([]byte(value), &fleet); err != nil {
		return enhanced.Fleet{}, enhanced.NewBackendError(readFleet, fmt.Errorf("record %q: %w", key, enhanced.ErrCorruptRecord))
	}
	if _, err := enhanced.ParseMode(string(fleet.Mode)); err != nil {
		return enhanced.Fleet{}, enhanced.NewBackendError(readFleet, fmt.Errorf("record %q: %w", key, enhanced.ErrCorruptRecord))
	}
	return fleet, nil
}

// changedFleet returns the record after a change, and its value.
func changedFleet(key, value string, change func(*enhanced.Fleet) error) (enhanced.Fleet, string, error) {
	fleet, err := decodeFleet(key, value)
	if err != nil {
		return enhanced.Fleet{}, "", err
	}
	if err := change(&fleet); err != nil {
		return enhanced.Fleet{}, "", err
	}
	data, err := json.Marshal(fleet)
	if err != nil {
		return enhanced.Fleet{}, "", enhanced.NewBackendError(changeFleet, err)
	}
	return fleet, string(data), nil
}

// fleetViolation is a record that can't be read. There is no repair: nothing else
// says which database decides.
func fleetViolation(record string) enhanced.Violation {
	return enhanced.Violation{
		Rule: enhanced.RuleFleet, Record: record,
		Detail: "the mode of the fleet can't be read: adapters go on as they are, and none starts; stop them all, remove this record and set the mode again",
	}
}

// ReadFleet implements [enhanced.FleetStore].
func (b *RedisBackend) ReadFleet(ctx context.Context) (enhanced.Fleet, error) {
	value, err := b.getText(ctx, readFleet, b.keys.fleet())
	if err != nil {
		return enhanced.Fleet{}, err
	}
	return decodeFleet(b.keys.fleet(), value)
}

// ChangeFleet implements [enhanced.FleetStore].
func (b *RedisBackend) ChangeFleet(ctx context.Context, change func(*enhanced.Fleet) error) (fleet enhanced.Fleet, err error) {
	err = b.replace(ctx, changeFleet, b.keys.fleet(), func(value string) (next string, err error) {
		fleet, next, err = changedFleet(b.keys.fleet(), value, change)
		return next, err
	})
	if err != nil {
		return enhanced.Fleet{}, err
	}
	return fleet, nil
}

// ReadFleet implements [enhanced.FleetStore].
func (b *BoltBackend) ReadFleet(ctx context.Context) (fleet enhanced.Fleet, err error) {
	err = b.view(ctx, readFleet, func(tx *bbolt.Tx) (err error) {
		fleet, err = decodeFleet(string(fleetKey()), string(tx.Bucket(rootBucket()).Get(fleetKey())))
		return err
	})
	return fleet, err
}

// ChangeFleet implements [enhanced.FleetStore].
func (b *BoltBackend) ChangeFleet(ctx context.Context, change func(*enhanced.Fleet) error) (enhanced.Fleet, error) {
	return decide(ctx, b.committer, changeFleet, func(batch *batch) (enhanced.Fleet, error) {
		root := batch.tx.Bucket(rootBucket())
		value := string(root.Get(fleetKey()))
		fleet, next, err := changedFleet(string(fleetKey()), value, change)
		if err != nil || next == value {
			return fleet, err
		}
		batch.dirty = true
		return fleet, root.Put(fleetKey(), []byte(next))
	})
}
