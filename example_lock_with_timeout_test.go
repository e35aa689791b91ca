package enhanced_test

import (
	"context"
	"fmt"
	"log"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
)

// The lock is free for everyone when its lease ends.
func ExampleLockingAdapter_LockWithTimeout() {
	config := enhanced.DefaultConfig()
	config.Enabled = true
	adapter, remove := newExampleAdapter(config)
	defer remove()

	ctx := context.Background()
	project := models.NewProject("org/app", "envs/prod", "")
	alice, bob := models.User{Username: "alice"}, models.User{Username: "bob"}
	if _, err := adapter.LockWithTimeout(ctx, project, "default", alice, 50*time.Millisecond); err != nil {
		log.Fatal(err)
	}
	<-time.After(50 * time.Millisecond)
	lock, err := adapter.LockWithTimeout(ctx, project, "default", bob, 30*time.Second)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("locked by", lock.User.Username)

	// Output:
	// locked by bob
}
