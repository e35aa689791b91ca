// Package deadlock finds owners of locks that wait for each other in a circle,
// and says what ends it. It knows nothing of where locks are kept, and uses the
// standard library only.
//
// # Which type to use
//
// A store that can look at its own state while it lets a request wait calls
// [Walk] first: it follows what the request would wait for, up to a limit, and
// finds the cycle that the request would close. That is prevention, and it is
// exact: of two requests that close one cycle together, the later one sees the
// earlier one.
//
// A [Graph] is a picture of all locks and waiters. A [Detector] looks at one now
// and then, and finds what prevention can't see: what was beyond the limit, and
// cycles that no new request closes, as when a lock is transferred or a waiter
// is moved. Pictures may be out of date, so [Confirm] is to be asked in the
// store's own step before anything is done about a cycle.
//
// # Edges
//
// An owner that waits for a resource waits for who holds it (a hard edge) and
// for all who are before it in the queue (soft edges). A cycle with a soft edge
// can often be dissolved without a victim: the waiter behind goes before the one
// that it waits for. [Graph.Reorder] finds the fewest waiters to be moved. The
// distinction, and the idea to re-order queues, are those of PostgreSQL, see
// "The Deadlock Detection Algorithm" in src/backend/storage/lmgr/README of its
// source. An owner may wait for several resources at once, and is stuck when any
// of them never comes, so each cycle is a deadlock (the AND model of Knapp,
// "Deadlock Detection in Distributed Databases", ACM Computing Surveys 19(4),
// 1987).
//
// What is behind an earlier waiter of the same owner, and who waits for what it
// holds itself, waits for nobody: the owner gets it without.
//
// # Concurrency
//
// A [Graph] is not safe for concurrent use while it is being filled; afterwards
// its methods may be called by any number of goroutines. A [Resolver] and a
// [Detector] are safe for concurrent use. Nothing here starts a goroutine.
package deadlock
