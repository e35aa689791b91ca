package enhanced

import "context"

// RunKeeper is a backend that knows which runs of Atlantis are going on, as far as
// Atlantis' own calls tell: what a run has reserved is kept for it, and what was
// closed takes no more locks. Both need the queue. All methods are safe for
// concurrent use; the owner must be a pull request, else they answer
// INVALID_REQUEST.
type RunKeeper interface {
	// EndRun says that a run of a pull request has ended: what it has reserved
	// goes to those who wait, and its tombstone is removed.
	EndRun(ctx context.Context, owner Owner) error
	// ClosePull says that a pull request is gone, with the head commit that a run
	// may be at work on. It leaves a tombstone: requests of the pull request are
	// refused with PERMISSION_DENIED until EndRun, until one comes with another
	// head commit, or for TombstoneTTL. What a run has taken since all locks of the
	// pull request were released, within the last minute, is released, too.
	ClosePull(ctx context.Context, owner Owner, headCommit string) error
}
