package deadlock_test

import (
	"context"
	"fmt"
	"log"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/deadlock"
)

// Two pull requests have planned one directory each, and want the other one's.
func ExampleGraph() {
	g := deadlock.NewGraph()
	g.Hold("PR 12", "vpc")
	g.Hold("PR 15", "db")
	g.Wait(deadlock.Waiter{Owner: "PR 12", Resource: "db", Request: "1"})
	g.Wait(deadlock.Waiter{Owner: "PR 15", Resource: "vpc", Request: "2"})
	for _, cycle := range g.Cycles() {
		fmt.Println(cycle)
	}

	// Output:
	// PR 12 waits for db, held by PR 15; PR 15 waits for vpc, held by PR 12
}

// The queues of vpc and db have the same two waiters in opposite orders. No lock
// has to be given up: one of them goes first in both.
func ExampleGraph_Reorder() {
	g := deadlock.NewGraph()
	g.Hold("PR 1", "vpc")
	g.Hold("PR 2", "db")
	g.Wait(deadlock.Waiter{Owner: "PR 12", Resource: "vpc", Request: "1"})
	g.Wait(deadlock.Waiter{Owner: "PR 15", Resource: "vpc", Request: "2"})
	g.Wait(deadlock.Waiter{Owner: "PR 15", Resource: "db", Request: "3"})
	g.Wait(deadlock.Waiter{Owner: "PR 12", Resource: "db", Request: "4"})
	for _, cycle := range g.Cycles() {
		fmt.Println(cycle)
		for _, w := range g.Reorder(cycle) {
			fmt.Println("move", w.Owner, "to the front of the queue for", w.Resource)
		}
	}

	// Output:
	// PR 12 waits for db, in the queue behind PR 15; PR 15 waits for vpc, in the queue behind PR 12
	// move PR 12 to the front of the queue for db
}

// A store asks before it lets a request wait.
func ExampleWalk() {
	g := deadlock.NewGraph()
	g.Hold("PR 12", "vpc")
	g.Hold("PR 15", "db")
	g.Wait(deadlock.Waiter{Owner: "PR 12", Resource: "db", Request: "1"})

	walked := deadlock.Walk(g, deadlock.Waiter{Owner: "PR 15", Resource: "vpc", Request: "2"}, 1000)
	fmt.Println(walked.Outcome)
	fmt.Println(walked.Cycle)

	// Output:
	// cycle
	// PR 15 waits for vpc, held by PR 12; PR 12 waits for db, held by PR 15
}

func ExampleDetector_Check() {
	g := deadlock.NewGraph()
	g.Hold("PR 12", "vpc")
	g.Hold("PR 15", "db")
	g.Wait(deadlock.Waiter{Owner: "PR 12", Resource: "db", Request: "1", Priority: 2})
	g.Wait(deadlock.Waiter{Owner: "PR 15", Resource: "vpc", Request: "2", Priority: 1})
	detector, err := deadlock.NewDetector(deadlock.Options{
		Snapshot: func(context.Context) (*deadlock.Graph, error) { return g, nil },
	})
	if err != nil {
		log.Fatal(err)
	}
	found, err := detector.Check(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	for _, one := range found {
		fmt.Printf("%s gives up waiting for %s (%s)\n", one.Victim.Owner, one.Victim.Resource, one.Policy)
	}

	// Output:
	// PR 15 gives up waiting for vpc (lowest_priority)
}

func ExampleResolver_Choose() {
	g := deadlock.NewGraph()
	g.Hold("PR 12", "vpc")
	g.Hold("PR 15", "db")
	g.Hold("PR 15", "dns")
	g.Wait(deadlock.Waiter{Owner: "PR 12", Resource: "db", Request: "1"})
	g.Wait(deadlock.Waiter{Owner: "PR 15", Resource: "vpc", Request: "2"})
	for _, policy := range []deadlock.Policy{deadlock.PolicyFewestLocks, deadlock.PolicyMostLocks} {
		resolver, err := deadlock.NewResolver(policy, 0)
		if err != nil {
			log.Fatal(err)
		}
		victim, _ := resolver.Choose(g, g.Cycles()[0])
		fmt.Println(policy, victim.Owner)
	}

	// Output:
	// fewest_locks PR 12
	// most_locks PR 15
}

func ExampleCycle_Mermaid() {
	g := deadlock.NewGraph()
	g.Hold("PR 12", "vpc")
	g.Hold("PR 15", "db")
	g.Wait(deadlock.Waiter{Owner: "PR 12", Resource: "db", Request: "1"})
	g.Wait(deadlock.Waiter{Owner: "PR 15", Resource: "vpc", Request: "2"})
	fmt.Print(g.Cycles()[0].Mermaid())

	// Output:
	// flowchart LR
	//   o0["PR 12"]
	//   o1["PR 15"]
	//   o0 -->|"db"| o1
	//   o1 -->|"vpc"| o0
}
