// Package queue has the queues in which requests wait for a resource, and the
// order that they wait in. It uses the standard library only.
//
// # Which type to use
//
// An [Order] computes the [Rank] of a waiter. A store that keeps its waiters
// itself, say in a sorted set of Redis, sorts them by it, so that all stores
// serve the same waiter first. A [PriorityQueue] keeps waiters in memory in
// that order, with a line for each resource. A [MemoryQueue] is one line in
// memory, first come first served.
//
// # Order
//
// A strict order (the zero Order) serves a higher priority first, and first
// come first served within one. A low priority may then wait for as long as
// higher ones keep coming.
//
// Ageing bounds that wait: a waiter rises by one priority for each
// [Order].AgingInterval that it has waited. All waiters rise equally fast, so
// which of two goes first never changes while they wait, and one number that
// is fixed when a waiter comes says it all: when it came, less its priority
// times the interval. With an interval I, a waiter of priority p is overtaken
// only by waiters of a priority q > p that came less than (q-p)*I after it. So
// whoever comes later than ([MaxPriority]-p)*I after it waits behind it. (See
// "aging" in the section on priority scheduling of Silberschatz, Galvin and
// Gagne, Operating System Concepts.)
//
// A waiter that is moved goes before all that are there, earlier moves
// included, whatever their priorities and however long they have waited. A
// move is the only exception to the bound.
//
// # Concurrency
//
// The methods of both queues may be called by any number of goroutines at
// once. Each takes effect as a whole, between the call and its return. None of
// them waits for an entry to come: a caller that wants to be woken needs a
// signal of its own.
//
// # Memory
//
// A queue drops its reference to a value when it gives the value out. What it
// keeps is the room for as many entries as waited in it at once, a few words
// each.
package queue
