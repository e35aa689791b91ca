package enhanced_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
)

// A person's lock without lease, with a note, keeps Atlantis out of a project.
func ExampleEnhancedLockManager_maintenance() {
	config := enhanced.DefaultConfig()
	config.Enabled = true
	adapter, remove := newExampleAdapter(config)
	defer remove()

	project := models.NewProject("org/app", "envs/prod", "")
	_, _, err := adapter.Manager().TryAcquire(context.Background(), &enhanced.EnhancedLockRequest{
		Project:   project,
		Workspace: "default",
		User:      models.User{Username: "alice"},
		Timeout:   enhanced.NoTimeout,
		Metadata:  map[string]string{enhanced.MetadataNote: "moving the state until Monday"},
	})
	if err != nil {
		log.Fatal(err)
	}

	_, _, err = adapter.TryLock(models.ProjectLock{Project: project, Workspace: "default", Pull: models.PullRequest{Num: 5}})
	fmt.Println(err)
	fmt.Println("held:", errors.Is(err, enhanced.ErrLockExists))
	var refusal *enhanced.LockError
	if errors.As(err, &refusal) {
		fmt.Println("by:", refusal.Holder.Owner)
	}

	// Output:
	// org/app (path envs/prod, workspace default) is locked by user alice (note: moving the state until Monday)
	// held: true
	// by: user:alice
}
