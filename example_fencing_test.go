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

// A holder that was paused for longer than its lease can't know that it lost
// its lock. A protected resource that remembers the largest token refuses it.
func ExampleEnhancedLock_fencing() {
	db, remove := openExampleFile()
	defer remove()
	backend, err := backends.NewBoltBackend(db, nil, nil)
	if err != nil {
		log.Fatal(err)
	}
	manager := enhanced.NewEnhancedLockManager(backend, nil, nil)
	ctx := context.Background()
	acquire := func(user string, lease time.Duration) *enhanced.EnhancedLock {
		lock, err := manager.Acquire(ctx, &enhanced.EnhancedLockRequest{
			Project:   models.NewProject("org/app", "envs/prod", ""),
			Workspace: "default",
			User:      models.User{Username: user},
			Timeout:   lease,
		})
		if err != nil {
			log.Fatal(err)
		}
		return lock
	}

	var newest int64 // what the protected resource remembers
	write := func(lock *enhanced.EnhancedLock) {
		accepted := lock.Version >= newest
		newest = max(newest, lock.Version)
		fmt.Println("write of", lock.OriginalLock.User.Username, "accepted:", accepted)
	}

	paused := acquire("alice", 10*time.Millisecond)
	write(paused)
	<-time.After(10 * time.Millisecond)
	write(acquire("bob", time.Minute))
	write(paused) // alice wakes up

	// Output:
	// write of alice accepted: true
	// write of bob accepted: true
	// write of alice accepted: false
}
