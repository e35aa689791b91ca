package enhanced_test

import (
	"context"
	"fmt"
	"log"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
)

func ExampleLockingAdapter_GetEnhancedStats() {
	config := enhanced.DefaultConfig()
	config.Enabled = true
	adapter, remove := newExampleAdapter(config)
	defer remove()

	ctx := context.Background()
	project := models.NewProject("org/app", "envs/prod", "")
	for _, user := range []string{"alice", "bob"} {
		_, err := adapter.LockWithPriority(ctx, project, "default", models.User{Username: user}, enhanced.PriorityNormal)
		fmt.Println(user, "has the lock:", err == nil)
	}

	stats, err := adapter.GetEnhancedStats(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("Active Locks: %d\n", stats.ActiveLocks)
	fmt.Printf("Total Requests: %d\n", stats.TotalRequests)
	fmt.Printf("Success Rate: %.2f%%\n",
		float64(stats.SuccessfulAcquires)/float64(stats.TotalRequests)*100)
	fmt.Printf("Queue Depth: %d\n", stats.QueueDepth)
	fmt.Printf("Health Score: %d\n", stats.HealthScore)

	// Output:
	// alice has the lock: true
	// bob has the lock: false
	// Active Locks: 1
	// Total Requests: 2
	// Success Rate: 50.00%
	// Queue Depth: 0
	// Health Score: 100
}
