package enhanced_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/events/models"
)

// A handle renews the lease of its lock while the work goes on, ends the work
// when the lock is lost, and releases the lock in the end, after a panic too.
func ExampleAcquireHandle() {
	db, remove := openExampleFile()
	defer remove()
	backend, err := backends.NewBoltBackend(db, nil, nil)
	if err != nil {
		log.Fatal(err)
	}
	manager := enhanced.NewEnhancedLockManager(backend, nil, nil)
	ctx := context.Background()
	handle, err := enhanced.AcquireHandle(ctx, manager, &enhanced.EnhancedLockRequest{
		Project:   models.NewProject("org/app", "envs/prod", ""),
		Workspace: "default",
		User:      models.User{Username: "alice"},
		Timeout:   30 * time.Second, // the lease
	}, enhanced.HandleOptions{MaxHold: time.Hour})
	if err != nil {
		log.Fatal(err)
	}
	err = handle.Do(ctx, func(ctx context.Context) error {
		for step := range 3 {
			// A pause can last longer than the lease: look before each change. What
			// must be safe from a pause between the look and the change compares
			// the token.
			if err := handle.Check(); err != nil {
				return err
			}
			fmt.Println("step", step, "with a token:", handle.Token() > 0)
		}
		return ctx.Err()
	})
	if errors.Is(err, enhanced.ErrLockLost) {
		log.Fatal("somebody else may have the lock: ", err)
	}
	fmt.Println("done:", err)

	// Output:
	// step 0 with a token: true
	// step 1 with a token: true
	// step 2 with a token: true
	// done: <nil>
}
