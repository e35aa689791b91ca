package enhanced_test

import (
	"context"
	"fmt"
	"log"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
)

func ExampleLockingAdapter_GetQueuePosition() {
	config := enhanced.DefaultConfig()
	config.Enabled = true
	adapter, remove := newExampleAdapter(config)
	defer remove()

	project := models.NewProject("org/app", "envs/prod", "")

	// Without an owner in the context it is the length of the queue.
	length, err := adapter.GetQueuePosition(context.Background(), project, "default")
	if err != nil {
		log.Fatal(err)
	}
	// With one it is that owner's place, 0 if it does not wait.
	ctx := enhanced.ContextWithOwner(context.Background(), enhanced.UserOwner("alice"))
	position, err := adapter.GetQueuePosition(ctx, project, "default")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("waiting:", length, "place of alice:", position)

	// Output:
	// waiting: 0 place of alice: 0
}
