package enhanced_test

import (
	"context"
	"fmt"
	"log"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/events/models"
)

// A subscriber hears of all changes in the store, whoever makes them.
func ExampleBackend_subscribe() {
	db, remove := openExampleFile()
	defer remove()
	backend, err := backends.NewBoltBackend(db, nil, nil)
	if err != nil {
		log.Fatal(err)
	}
	manager := enhanced.NewEnhancedLockManager(backend, nil, nil)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	// Ends leases when they are due, so that "timeout" comes in time.
	if err := manager.Start(ctx); err != nil {
		log.Fatal(err)
	}

	eventChan, err := backend.Subscribe(ctx, []string{"acquired", "released", "timeout"})
	if err != nil {
		log.Fatal(err)
	}
	project := models.NewProject("org/app", "envs/prod", "")
	alice := models.User{Username: "alice"}
	if _, err := manager.Lock(ctx, project, "default", alice); err != nil {
		log.Fatal(err)
	}
	if _, err := manager.Unlock(ctx, project, "default", alice); err != nil {
		log.Fatal(err)
	}
	if _, err := manager.LockWithTimeout(ctx, project, "default", alice, 10*time.Millisecond); err != nil {
		log.Fatal(err)
	}
	for range 4 {
		event := <-eventChan
		fmt.Println(event.Type, event.Owner, event.Metadata["cause"])
	}
	if err := manager.Stop(ctx); err != nil {
		log.Fatal(err)
	}
	if err := backend.Close(); err != nil {
		log.Fatal(err)
	}

	// Output:
	// acquired user:alice request
	// released user:alice request
	// acquired user:alice request
	// timeout user:alice expired
}
