// Package enhanced is a locking system for Atlantis: a drop-in replacement for
// its locking database with owner-checked locks, leases, fencing tokens, an
// audit log, events and statistics.
//
// # Which type to use
//
// Atlantis itself talks to a [LockingAdapter], which implements Atlantis'
// db.Database. People and tools use an [EnhancedLockManager]: locks by project
// and user. Programs that need more use a [Backend]: locks by resource and
// owner, addressed by lock ID. Package backends has the backends. Code that is to
// hold a lock just while it runs uses a [Handle].
//
// # The unit of consistency
//
// A repository is the unit of consistency. A pull request locks projects of
// its own repository only, so everything that can affect each other lives in
// one repository and changes in one atomic step over it: taking a lock,
// releasing it, and the log record of either. What crosses repositories (a
// list, statistics) is a scan that may be slightly stale.
//
// # Safety
//
// The store alone decides. At most one owner holds a resource at a time, in
// all processes that use the store. A manager keeps no lock state, so any
// number of them share one truth.
//
// A lock without lease is held until it is released. A lease ends by the
// store's clock and never by a client's; clocks of clients are never compared
// with each other. From its end on the lock is free for everyone, whether or
// not any process is running: the next step on the resource settles what is
// due before it decides. On bbolt the store's clock is the larger of the
// wall clock and the last time that was stored, so it never runs backwards.
//
// Each grant carries a fencing token, [EnhancedLock.Version], larger than every
// earlier one of its repository. A holder that was paused longer than its
// lease cannot know that it lost its lock; a protected resource that remembers
// the largest token it has seen can refuse it. Terraform's backends do not
// check the token: keep Terraform's own state locking on.
//
// When the store cannot be reached, nothing is granted. A call whose context
// ends while the store may still be working returns an error for which
// errors.Is(err, [ErrOutcomeUnknown]) holds.
//
// A stored record that cannot be read counts as held, is reported by name, and
// harms nothing else.
package enhanced
