package enhanced_test

import (
	"context"
	"fmt"
	"log"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
)

// projectsOf asks for the locks of a pull request on several projects.
func projectsOf(pull models.PullRequest, paths ...string) (requests []*enhanced.EnhancedLockRequest) {
	for _, path := range paths {
		requests = append(requests, &enhanced.EnhancedLockRequest{
			Project: models.NewProject(pull.BaseRepo.FullName, path, ""), Workspace: "default", Pull: &pull, Timeout: enhanced.NoTimeout,
		})
	}
	return requests
}

func ExampleLockingAdapter_LockAll() {
	config := enhanced.DefaultConfig()
	config.Enabled = true
	adapter, remove := newExampleAdapter(config)
	defer remove()

	ctx := context.Background()
	repository := models.Repo{FullName: "org/app", VCSHost: models.VCSHost{Hostname: "github.com"}}
	first := models.PullRequest{Num: 5, BaseRepo: repository}
	locks, err := adapter.LockAll(ctx, projectsOf(first, "envs/prod", "envs/staging"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(locks), "locked")

	second := models.PullRequest{Num: 6, BaseRepo: repository}
	_, err = adapter.LockAll(ctx, projectsOf(second, "envs/dev", "envs/staging"))
	fmt.Println(err)

	// The next plan needs other projects. Nobody else can have staging meanwhile.
	owner := enhanced.PullOwner("github.com", "org/app", 5)
	replaced, err := adapter.ReplaceLocks(ctx, owner, projectsOf(first, "envs/staging", "envs/test"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("taken:", replaced.Taken[0].Resource)
	fmt.Println("freed:", replaced.Freed[0].Resource)

	// Output:
	// 2 locked
	// 1 of 2 is locked, none was taken: org/app (path envs/staging, workspace default) is locked by pull request 5 on github.com
	// taken: org/app (path envs/test, workspace default)
	// freed: org/app (path envs/prod, workspace default)
}
