package enhanced_test

import (
	"fmt"
	"log"

	"github.com/runatlantis/atlantis/server/core/boltdb"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/events/models"
)

// Rolling back while Atlantis runs: its own database on the same file takes
// over with the locks that there are.
func ExampleLockingAdapter_UpdateConfiguration() {
	db, remove := openExampleFile()
	defer remove()
	config := enhanced.DefaultConfig()
	config.Enabled = true
	backend, err := backends.NewBoltBackend(db, config, nil)
	if err != nil {
		log.Fatal(err)
	}
	legacy, err := boltdb.NewWithDB(db, "runLocks", "globalLocks")
	if err != nil {
		log.Fatal(err)
	}
	manager := enhanced.NewEnhancedLockManager(backend, config, nil)
	adapter := enhanced.NewLockingAdapter(manager, backend, config, legacy, nil)

	project := models.NewProject("org/app", "envs/prod", "")
	lock := models.ProjectLock{Project: project, Workspace: "default", Pull: models.PullRequest{Num: 5}}
	if _, _, err := adapter.TryLock(lock); err != nil {
		log.Fatal(err)
	}

	config.Enabled = false // counts only from UpdateConfiguration on
	fmt.Println("enhanced:", adapter.IsEnhancedModeEnabled())
	if err := adapter.UpdateConfiguration(config); err != nil {
		log.Fatal(err)
	}
	fmt.Println("enhanced:", adapter.IsEnhancedModeEnabled())

	held, err := adapter.GetLock(project, "default")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("still held by pull request", held.Pull.Num)

	// Output:
	// enhanced: true
	// enhanced: false
	// still held by pull request 5
}
