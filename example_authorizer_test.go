package enhanced_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/events/models"
)

// An authorizer decides who may force a lock open.
func ExampleWithAuthorizer() {
	db, remove := openExampleFile()
	defer remove()
	backend, err := backends.NewBoltBackend(db, nil, nil)
	if err != nil {
		log.Fatal(err)
	}
	manager := enhanced.NewEnhancedLockManager(backend, nil, nil, enhanced.WithAuthorizer(
		func(_ context.Context, request enhanced.AuthorizationRequest) error {
			if request.Action == enhanced.ActionForceRelease && request.Actor != "user:admin" {
				return errors.New("ask an administrator")
			}
			return nil
		}))

	ctx := context.Background()
	project := models.NewProject("org/app", "envs/prod", "")
	if _, err := manager.Lock(ctx, project, "default", models.User{Username: "alice"}); err != nil {
		log.Fatal(err)
	}
	for _, user := range []string{"bob", "admin"} {
		_, err := manager.Release(ctx, enhanced.ReleaseRequest{
			Resource: enhanced.ProjectResource(project, "default"),
			Force:    true,
			Actor:    enhanced.UserOwner(user).String(),
			Reason:   "alice is on holiday",
		})
		fmt.Println(user+":", err)
	}

	// Output:
	// bob: user bob may not force_release org/app (path envs/prod, workspace default): ask an administrator
	// admin: <nil>
}
