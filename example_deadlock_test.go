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

// A request that would wait in a circle is refused, and says with whom.
func ExampleDeadlockReport() {
	config := enhanced.DefaultConfig()
	config.EnablePriorityQueue, config.DeadlockPrevention = true, true
	db, remove := openExampleFile()
	defer remove()
	backend, err := backends.NewBoltBackend(db, config, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer func() {
		if err := backend.Close(); err != nil {
			log.Fatal(err)
		}
	}()
	manager, ctx := enhanced.NewEnhancedLockManager(backend, config, nil), context.Background()

	vpc, dns := models.NewProject("org/app", "vpc", ""), models.NewProject("org/app", "dns", "")
	alice, bob := models.User{Username: "alice"}, models.User{Username: "bob"}
	for user, project := range map[*models.User]models.Project{&alice: vpc, &bob: dns} {
		if _, err := manager.Lock(ctx, project, "default", *user); err != nil {
			log.Fatal(err)
		}
	}
	// alice waits for dns in another goroutine, until its context ends.
	waiting, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if _, err := manager.Lock(waiting, dns, "default", alice); !errors.Is(err, enhanced.ErrTimeout) {
			log.Print(err)
		}
	}()
	for length := 0; length == 0; {
		var err error
		if length, err = manager.GetQueuePosition(ctx, dns, "default"); err != nil {
			log.Fatal(err)
		}
	}

	_, err = manager.Lock(ctx, vpc, "default", bob)
	fmt.Println(errors.Is(err, enhanced.ErrDeadlock))
	stop()
	<-ended

	// The repository's log is the history.
	records, err := enhanced.ReadDeadlocks(ctx, backend, "org/app", time.Time{})
	if err != nil {
		log.Fatal(err)
	}
	for _, record := range records {
		fmt.Println(record.Deadlock.Outcome)
		for _, wait := range record.Deadlock.Cycle {
			fmt.Println(wait.Owner, "waits for", wait.Resource.Path)
		}
	}

	// Output:
	// true
	// refused
	// user:bob waits for vpc
	// user:alice waits for dns
}
