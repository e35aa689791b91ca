package enhanced_test

import (
	"context"
	"errors"
	"fmt"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

func ExampleLockingAdapter_HealthCheck() {
	config := enhanced.DefaultConfig()
	config.Enabled = true
	adapter, remove := newExampleAdapter(config)
	defer remove()

	ctx := context.Background()
	fmt.Println("healthy:", adapter.HealthCheck(ctx) == nil)

	if err := adapter.Close(); err != nil {
		fmt.Println(err)
	}
	err := adapter.HealthCheck(ctx)
	fmt.Println("the store failed:", errors.Is(err, enhanced.ErrBackend))
	fmt.Println("because it is closed:", errors.Is(err, enhanced.ErrClosed))
	stats, _ := adapter.GetEnhancedStats(ctx)
	fmt.Println("health score below 20:", stats.HealthScore < 20)

	// Output:
	// healthy: true
	// the store failed: true
	// because it is closed: true
	// health score below 20: true
}
