package enhanced_test

import (
	"fmt"
	"log"
	"time"

	"github.com/runatlantis/atlantis/server/core/boltdb"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/runatlantis/atlantis/server/logging"
)

// The adapter is what Atlantis is given in place of its own database.
func Example_dropIn() {
	logger, err := logging.NewStructuredLogger()
	if err != nil {
		log.Fatal(err)
	}
	db, remove := openExampleFile()
	defer remove()

	config := enhanced.DefaultConfig()
	config.Enabled = true
	backend, err := backends.NewBoltBackend(db, config, logger)
	if err != nil {
		log.Fatal(err)
	}
	// Atlantis' own database, on the same file: to go back to at run time.
	legacy, err := boltdb.NewWithDB(db, "runLocks", "globalLocks")
	if err != nil {
		log.Fatal(err)
	}
	manager := enhanced.NewEnhancedLockManager(backend, config, logger)
	adapter := enhanced.NewLockingAdapter(manager, backend, config, legacy, logger)

	// All of Atlantis' methods work unchanged.
	projectLock := models.ProjectLock{
		Project:   models.NewProject("org/app", "envs/prod", ""),
		Workspace: "default",
		Pull:      models.PullRequest{Num: 5, BaseRepo: models.Repo{VCSHost: models.VCSHost{Hostname: "github.com"}}},
		User:      models.User{Username: "alice"},
		Time:      time.Now(),
	}
	acquired, _, err := adapter.TryLock(projectLock)
	fmt.Println("pull request 5:", acquired, err)

	projectLock.Pull.Num = 6
	acquired, resp, err := adapter.TryLock(projectLock)
	fmt.Println("pull request 6:", acquired, err, "held by", resp.Pull.Num)

	locks, err := adapter.List()
	fmt.Println("locks:", len(locks), err)

	unlocked, err := adapter.Unlock(projectLock.Project, projectLock.Workspace)
	fmt.Println("unlocked:", unlocked.Pull.Num, err)

	config.Enabled, config.LegacyFallback = false, true
	err = adapter.UpdateConfiguration(config)
	fmt.Println("enhanced:", adapter.IsEnhancedModeEnabled(), err)

	// Output:
	// pull request 5: true <nil>
	// pull request 6: false <nil> held by 5
	// locks: 1 <nil>
	// unlocked: 5 <nil>
	// enhanced: false <nil>
}
