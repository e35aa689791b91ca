package enhanced_test

import (
	"context"
	"fmt"
	"log"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
)

func ExampleLockingAdapter_LockWithPriority() {
	config := enhanced.DefaultConfig()
	config.Enabled = true
	adapter, remove := newExampleAdapter(config)
	defer remove()

	ctx := context.Background()
	project := models.NewProject("org/app", "envs/prod", "")
	lock, err := adapter.LockWithPriority(ctx, project, "default", models.User{Username: "alice"}, enhanced.PriorityHigh)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(lock.Project.Path, "is locked by", lock.User.Username)

	_, err = adapter.LockWithPriority(ctx, project, "default", models.User{Username: "bob"}, enhanced.PriorityCritical)
	fmt.Println(err)

	// Output:
	// envs/prod is locked by alice
	// org/app (path envs/prod, workspace default) is locked by user alice
}
