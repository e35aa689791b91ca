package enhanced_test

import (
	"context"
	"fmt"
	"log"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// Before it is switched on, a test says whether Atlantis could use it.
func ExampleCompatibilityChecker() {
	adapter, remove := newExampleAdapter(enhanced.DefaultConfig())
	defer remove()

	checker := enhanced.NewCompatibilityChecker(adapter, nil)
	report, err := checker.RunCompatibilityTest(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	for _, check := range report.Checks {
		fmt.Println(check.Name+":", check.Result+check.Remedy)
	}
	fmt.Println("success:", report.Success)

	// Output:
	// answers: passed
	// lock and unlock: passed
	// concurrency: passed
	// unlock by pull request: passed
	// list: passed
	// pull status: passed
	// command locks: passed
	// clean up: passed
	// success: true
}
