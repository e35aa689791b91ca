//go:build !windows

package tests

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/events/models"
	"go.etcd.io/bbolt"
)

// runFullDisk is a process whose files may not grow: to the store that is a
// full disk. It returns the exit code.
func runFullDisk(path string) int {
	if err := fullDisk(path); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func fullDisk(path string) error {
	signal.Ignore(syscall.SIGXFSZ)
	ctx := context.Background()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		return err
	}
	b, err := backends.NewBoltBackend(db, nil, nil)
	if err != nil {
		return err
	}
	var unlimited syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &unlimited); err != nil {
		return err
	}
	acquireLock := func(i int) (*enhanced.EnhancedLock, error) {
		return b.AcquireLock(ctx, &enhanced.EnhancedLockRequest{
			Project: models.NewProject("org/app", "p"+strconv.Itoa(i), ""), Workspace: "default",
			User: models.User{Username: "user"}, Timeout: enhanced.NoTimeout,
		})
	}
	acquire := func(i int) error {
		_, err := acquireLock(i)
		return err
	}

	// The store gets pages of the file in advance. It goes on where there is no room for
	// them, but for what is asked of it.
	if err := acquire(0); err != nil {
		return err
	}
	pair := func() error {
		lock, err := acquireLock(1)
		if err != nil {
			return err
		}
		if err := b.ReleaseLock(ctx, lock.ID); err != nil {
			return err
		}
		if err := acquire(0); !errors.Is(err, enhanced.ErrLockExists) { // after that, writing nothing
			return fmt.Errorf("a refused request's error is %w", err)
		}
		return b.HealthCheck(ctx)
	}
	freePages := func() int {
		stats := db.Stats()
		return stats.FreePageN + stats.PendingPageN
	}
	for freePages() < 50 {
		if err := pair(); err != nil {
			return err
		}
	}
	file, err := os.Stat(path)
	if err != nil {
		return err
	}
	full := syscall.Rlimit{Cur: uint64(file.Size()), Max: unlimited.Max}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &full); err != nil {
		return err
	}
	for more := 20; more > 0; {
		if freePages() < 12 { // it has tried, and failed
			more--
		}
		if err := pair(); err != nil {
			return fmt.Errorf("with room for a lock: %w", err)
		}
	}

	granted := 1
	for err = acquire(1); err == nil && granted < 10_000; err = acquire(granted) {
		granted++
	}
	if !errors.Is(err, enhanced.ErrBackend) {
		return fmt.Errorf("after %d grants the error is %w", granted, err)
	}
	// Neither the check itself nor a request that writes nothing makes it healthy.
	for range 3 {
		if err := b.HealthCheck(ctx); !errors.Is(err, enhanced.ErrBackend) {
			return fmt.Errorf("the health check says: %w", errors.Join(err, errors.New("which is no failure of the store")))
		}
		if err := acquire(0); !errors.Is(err, enhanced.ErrLockExists) {
			return fmt.Errorf("a refused request's error is %w", err)
		}
	}
	locks, err := b.ListLocks(ctx)
	if err != nil || len(locks) != granted {
		return fmt.Errorf("%d grants, %d locks, error %w", granted, len(locks), err)
	}

	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &unlimited); err != nil {
		return err
	}
	if err := b.HealthCheck(ctx); err != nil {
		return fmt.Errorf("with space again, and nobody who wants a lock: %w", err)
	}
	if err := acquire(granted); err != nil {
		return fmt.Errorf("with space again: %w", err)
	}
	if violations, err := backends.VerifyBolt(db); err != nil || len(violations) > 0 {
		return fmt.Errorf("%v, error %w", violations, err)
	}
	return errors.Join(b.Close(), db.Close())
}
