package queue_test

import (
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/queue"
)

func ExamplePriorityQueue() {
	q, err := queue.NewPriorityQueue[string](queue.Options{Limit: 3})
	if err != nil {
		log.Fatal(err)
	}
	for _, request := range []struct {
		id       string
		priority int
	}{{"pull-1", 1}, {"pull-2", 1}, {"hotfix", 3}, {"pull-3", 1}} {
		position, err := q.Push(request.id, "org/app/envs/prod", request.priority, "plan of "+request.id)
		var full *queue.FullError
		if errors.As(err, &full) {
			fmt.Printf("%s: %v\n", request.id, full)
			continue
		}
		fmt.Printf("%s: position %d\n", request.id, position)
	}
	for {
		next, found := q.Pop("org/app/envs/prod")
		if !found {
			break
		}
		fmt.Println(next.Value)
	}

	// Output:
	// pull-1: position 1
	// pull-2: position 2
	// hotfix: position 1
	// pull-3: queue of "org/app/envs/prod" is full: 3 of 3 wait
	// plan of hotfix
	// plan of pull-1
	// plan of pull-2
}

func ExamplePriorityQueue_MoveToFront() {
	q, err := queue.NewPriorityQueue[int](queue.Options{})
	if err != nil {
		log.Fatal(err)
	}
	for pull, id := range []string{"pull-0", "pull-1", "pull-2"} {
		if _, err := q.Push(id, "app", 1, pull); err != nil {
			log.Fatal(err)
		}
	}
	q.MoveToFront("pull-2")
	q.Remove("pull-0")
	for _, item := range q.Items("app") {
		fmt.Println(item.ID)
	}

	// Output:
	// pull-2
	// pull-1
}

// A store that keeps its waiters itself sorts them by their ranks.
func ExampleOrder() {
	noon := time.Date(2030, 1, 2, 12, 0, 0, 0, time.UTC)
	for _, order := range []queue.Order{{}, {AgingInterval: time.Hour}} {
		low := order.Rank(0, noon, 1)
		soon := order.Rank(2, noon.Add(time.Hour), 2)
		later := order.Rank(2, noon.Add(3*time.Hour), 3)
		fmt.Println(order.AgingInterval, soon.Compare(low) < 0, later.Compare(low) < 0, order.Moved(1).Compare(soon) < 0)
	}

	// Output:
	// 0s true true true
	// 1h0m0s true false true
}

func ExampleMemoryQueue() {
	q, err := queue.NewMemoryQueue[string](100)
	if err != nil {
		log.Fatal(err)
	}
	for _, value := range []string{"first", "second"} {
		if _, err := q.Push(value); err != nil {
			log.Fatal(err)
		}
	}
	next, _ := q.Pop()
	fmt.Println(next, "was served,", q.Len(), "waits")

	// Output:
	// first was served, 1 waits
}
