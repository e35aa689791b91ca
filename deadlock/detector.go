package deadlock

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// DefaultInterval is the time between two looks of a [Detector] where none is
// given.
const DefaultInterval = 30 * time.Second

// Deadlock is a cycle and what ends it.
type Deadlock struct {
	Cycle Cycle
	// Moves are the waiters that dissolve the cycle by going to the front of their
	// queues, in the order in which they are moved. Empty where that doesn't help.
	Moves []Waiter
	// Victim is the waiter that is to give up where there are no Moves, or they can't
	// be done. Nil with PolicyNone.
	Victim *Waiter
	// Policy is the one that chose the victim.
	Policy Policy
}

// Options configure a [Detector]. Snapshot is required.
type Options struct {
	// Interval is the time between the end of a look and the next one. Zero is
	// DefaultInterval.
	Interval time.Duration
	// Snapshot returns the graph as it is now. It may be out of date by the time it
	// is looked at.
	Snapshot func(context.Context) (*Graph, error)
	// Resolver chooses who gives up. Nil is one for PolicyLowestPriority.
	Resolver *Resolver
	// Act is told of each deadlock, one after the other. It has to ask the store
	// again, see [Confirm], before it moves anybody or takes anybody out. Nil does
	// nothing: [Detector.Check] returns them anyway.
	Act func(context.Context, Deadlock) error
	// Failed is told of the errors of [Detector.Run]. Nil drops them.
	Failed func(error)
}

// Detector looks for deadlocks now and then ([Detector.Run]) and on demand
// ([Detector.Check]). It keeps nothing between two looks, and holds no lock while
// it looks: make it with [NewDetector]; it is safe for concurrent use.
type Detector struct {
	options Options
}

// NewDetector returns a detector. It answers [ErrInvalid] for a negative interval
// and without a Snapshot.
func NewDetector(options Options) (*Detector, error) {
	if options.Snapshot == nil {
		return nil, fmt.Errorf("%w: Snapshot is nil", ErrInvalid)
	}
	if options.Interval < 0 {
		return nil, fmt.Errorf("%w: Interval %v is negative", ErrInvalid, options.Interval)
	}
	if options.Interval == 0 {
		options.Interval = DefaultInterval
	}
	if options.Resolver == nil {
		resolver, err := NewResolver(PolicyLowestPriority, 0)
		if err != nil {
			return nil, err
		}
		options.Resolver = resolver
	}
	return &Detector{options}, nil
}

// Run looks after each interval until the context ends, and returns then.
func (d *Detector) Run(ctx context.Context) {
	timer := time.NewTimer(d.options.Interval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if _, err := d.Check(ctx); err != nil && ctx.Err() == nil && d.options.Failed != nil {
			d.options.Failed(err)
		}
		timer.Reset(d.options.Interval)
	}
}

// Check looks once, and returns the deadlocks that it has found: one for each
// strongly connected component, see [Graph.Cycles]. Act was told of all of them,
// unless the context ended before; the error has those of Snapshot and Act.
func (d *Detector) Check(ctx context.Context) ([]Deadlock, error) {
	graph, err := d.options.Snapshot(ctx)
	if err != nil {
		return nil, fmt.Errorf("looking for deadlocks: %w", err)
	}
	var found []Deadlock
	var errs []error
	for _, cycle := range graph.Cycles() {
		one := Deadlock{Cycle: cycle, Moves: graph.Reorder(cycle), Policy: d.options.Resolver.Policy()}
		if victim, chosen := d.options.Resolver.Choose(graph, cycle); chosen {
			one.Victim = &victim
		}
		found = append(found, one)
		if d.options.Act == nil {
			continue
		}
		if err := ctx.Err(); err != nil {
			return found, errors.Join(append(errs, err)...)
		}
		if err := d.options.Act(ctx, one); err != nil {
			errs = append(errs, fmt.Errorf("ending a deadlock: %w", err))
		}
	}
	return found, errors.Join(errs...)
}
