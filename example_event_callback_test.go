package enhanced_test

import (
	"context"
	"fmt"
	"log"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
)

// Callbacks run apart from the locks: they can't delay or break them.
func ExampleLockingAdapter_AddEventCallback() {
	config := enhanced.DefaultConfig()
	config.Enabled = true
	config.EnableEvents = true
	adapter, remove := newExampleAdapter(config)

	adapter.AddEventCallback(func(_ context.Context, event *enhanced.ManagerEvent) {
		fmt.Println(event.Type, "-", event.Owner, "-", event.Resource)
	})

	ctx := context.Background()
	project := models.NewProject("org/app", "envs/prod", "")
	alice := models.User{Username: "alice"}
	if _, err := adapter.Manager().Lock(ctx, project, "default", alice); err != nil {
		log.Fatal(err)
	}
	if _, err := adapter.Manager().Lock(ctx, project, "default", models.User{Username: "bob"}); err == nil {
		log.Fatal("two owners of one lock")
	}
	if _, err := adapter.Manager().Unlock(ctx, project, "default", alice); err != nil {
		log.Fatal(err)
	}
	remove() // closing delivers what still waits

	// Output:
	// acquired - user:alice - org/app (path envs/prod, workspace default)
	// refused - user:bob - org/app (path envs/prod, workspace default)
	// released - user:alice - org/app (path envs/prod, workspace default)
}
