// Package backends has the stores of package enhanced. [BoltBackend] keeps
// locks in a bbolt file, embedded and used by one process, the file of stock
// Atlantis included.
package backends

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/recorder"
	"github.com/runatlantis/atlantis/server/logging"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
)

// BoltBackend is an [enhanced.Backend] in a bbolt file. It shares the file
// with stock Atlantis' boltdb: locks that stock has put there are honoured from
// the first call, and with PreserveLegacyFormat stock can read what it takes.
// One process can have the file open. Make it with [NewBoltBackend]; all
// methods are safe for concurrent use.
type BoltBackend struct {
	db *bbolt.DB
	// opened is how the file was found at the start, nil if it was not.
	opened    os.FileInfo
	logger    logging.SimpleLogging
	config    atomic.Pointer[enhanced.EnhancedConfig]
	committer *committer
	clock     clock
	recorder  recorder.Recorder
	feeds     feeds
	clean     cleanState
	turns     *turns
	sets      setMembers
	// memories are of the repositories that this backend has used, by their
	// tags, while no other one has written. Only steps use them.
	memories map[string]*memory
	// grants are the latest ones. Only steps use them.
	grants grants
	// last is what our last commit has stored. Only steps use it.
	last stored
}

var (
	_ enhanced.Backend     = (*BoltBackend)(nil)
	_ enhanced.StatusStore = (*BoltBackend)(nil)
)

// NewBoltBackend returns a backend in db, an open and writable bbolt file. It
// makes the buckets that are missing and leaves stock Atlantis' records as they
// are: a lock of stock's is taken over by the first call that needs it. A nil
// config means [enhanced.DefaultConfig]. It refuses an invalid configuration, a
// file that was opened read-only, and a file that a newer version has written.
// The caller keeps db and closes it after [BoltBackend.Close].
func NewBoltBackend(db *bbolt.DB, config *enhanced.EnhancedConfig, logger logging.SimpleLogging) (*BoltBackend, error) {
	if db == nil {
		return nil, enhanced.NewInvalidError("db is nil; pass an open bbolt file")
	}
	if config == nil {
		config = enhanced.DefaultConfig()
	}
	b := &BoltBackend{db: db, logger: enhanced.LoggerOrNoop(logger)}
	if err := b.UpdateConfiguration(config); err != nil {
		return nil, err
	}
	if named := b.config.Load().Backend; named != enhanced.BackendBoltDB {
		b.logger.Warn("configuration names the backend %q; the one that was passed counts: %q", named, enhanced.BackendBoltDB)
	}
	if err := prepare(db); err != nil {
		return nil, enhanced.NewBackendError(fmt.Sprintf("preparing %q", db.Path()), err)
	}
	b.opened, _ = os.Stat(db.Path()) //nolint:errcheck // [checkFile] says that it is not there
	b.start()
	if err := b.countDetached(); err != nil {
		return nil, enhanced.NewBackendError(fmt.Sprintf("reading %q", db.Path()), err)
	}
	return b, nil
}

// start makes what steps and calls need.
func (b *BoltBackend) start() {
	b.turns = &turns{waiting: newWaiting(b.watch), store: boltQueue{b}, recorder: &b.recorder, logger: b.logger}
	b.committer = newCommitter(b.db, b.logger)
	b.committer.run = b.runStep
	b.committer.committed = b.committed
	b.committer.undone = b.undone
	b.memories, b.grants = make(map[string]*memory), make(grants)
	b.committer.ended = b.clock.end
}

// prepare makes the buckets, stock's included: stock's NewWithDB expects them.
// It writes nothing where all are there. From then on, commits do not write bbolt's
// list of free pages, which follows from the other pages.
func prepare(db *bbolt.DB) (err error) {
	tx, err := db.Begin(true)
	if err != nil {
		return err
	}
	defer func() {
		// After a commit there is nothing to roll back.
		if rollbackErr := tx.Rollback(); !errors.Is(rollbackErr, bbolterrors.ErrTxClosed) {
			err = errors.Join(err, rollbackErr)
		}
	}()
	// While this transaction lasts, no other one reads it.
	db.NoFreelistSync = true
	changed := false
	for _, name := range []string{legacyLocksBucket, legacyPullsBucket, legacyCommandsBucket, string(rootBucket())} {
		if tx.Bucket([]byte(name)) != nil {
			continue
		}
		changed = true
		if _, err := tx.CreateBucket([]byte(name)); err != nil {
			return fmt.Errorf("bucket %q: %w", name, err)
		}
	}
	spare, err := deleteSpare(tx)
	if err != nil {
		return err
	}
	changed = changed || spare
	root := tx.Bucket(rootBucket())
	if root.Get(probeKey()) != nil {
		changed = true
		if err := root.Delete(probeKey()); err != nil {
			return err
		}
	}
	switch version := string(root.Get(formatKey())); version {
	case formatVersion:
	case "", firstFormat, secondFormat:
		changed = true
		if err := errors.Join(convert(tx, version), root.Put(formatKey(), []byte(formatVersion))); err != nil {
			return err
		}
	default:
		return formatError(version)
	}
	if !changed {
		return nil
	}
	return tx.Commit()
}

// UpdateConfiguration replaces the configuration. Calls in progress finish
// with the one they started with.
func (b *BoltBackend) UpdateConfiguration(config *enhanced.EnhancedConfig) error {
	if err := config.Validate(); err != nil {
		return err
	}
	if config.RedisClusterMode {
		return enhanced.NewInvalidError("redis_cluster_mode: true contradicts the backend %q: cluster mode needs a Redis Cluster client", enhanced.BackendBoltDB)
	}
	b.config.Store(config.WithDefaults())
	return nil
}

// SingleProcess says that one process at a time has the store: bbolt locks its
// file. See [enhanced.SingleProcessStore].
func (b *BoltBackend) SingleProcess() bool { return true }

// Close refuses further calls, ends those that wait for a lock, waits for those
// that are writing, and ends all subscriptions. It leaves the bbolt file open. Closing twice does nothing.
func (b *BoltBackend) Close() error {
	b.turns.close()
	b.committer.close()
	b.feeds.close()
	return nil
}

// view runs fn in a read transaction. It can't be interrupted: bbolt reads
// from mapped memory.
func (b *BoltBackend) view(ctx context.Context, operation string, fn func(tx *bbolt.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return contextError(operation, err)
	}
	if err := b.committer.state(); err != nil {
		return enhanced.NewBackendError(operation, err)
	}
	return stepError(operation, b.db.View(fn))
}

// runStep gives a step the store's clock and the last token, and stores both.
func (b *BoltBackend) runStep(batch *batch, step func(*batch) error) error {
	root := batch.tx.Bucket(rootBucket())
	if batch.now == 0 {
		if b.last.txid != batch.txid-1 { // somebody else has written since
			b.readStored(root)
		}
		batch.now, batch.token = b.clock.begin(b.last.now), b.last.token
	}
	err := step(batch)
	if err == nil || isDecision(err) {
		if serveErr := b.serveAll(batch); serveErr != nil {
			err = serveErr
		}
	}
	if err != nil && !isDecision(err) || !batch.dirty {
		return err
	}
	putErr := errors.Join(root.SetSequence(b.last.writes+1), root.Put(clockKey(), appendNumber(nil, batch.now)))
	if putErr != nil {
		return errors.Join(err, putErr)
	}
	if batch.token == b.last.token {
		return err
	}
	return errors.Join(err, root.Put(tokenKey(), appendNumber(nil, batch.token)))
}

// stored is what a transaction of ours has left in the store's own bucket.
type stored struct {
	txid       int
	now, token int64
	// writes counts the transactions of all backends on the file, not those of stock.
	writes uint64
}

// readStored finds what others have left there. Where another backend on the same open
// file has written, the memories no longer follow from the file.
func (b *BoltBackend) readStored(root *bbolt.Bucket) {
	writes := root.Sequence()
	if writes != b.last.writes {
		clear(b.memories)
	}
	b.last = stored{now: number(root.Get(clockKey())), token: number(root.Get(tokenKey())), writes: writes}
}

// nextToken returns a fencing token: the store's clock in microseconds, or one
// more than the last token where the clock has not moved on. One counter serves
// all repositories of the file.
func (b *batch) nextToken() int64 {
	b.token = max(b.token+1, b.now)
	return b.token
}

// committed runs after each commit, in order, before the callers are answered.
func (b *BoltBackend) committed(batch *batch) {
	b.last = stored{batch.txid, batch.now, batch.token, b.last.writes + 1}
	if !batch.stock {
		b.clean.extend(batch.txid)
	}
	for _, after := range batch.after {
		after()
	}
	b.feeds.wake(batch.touched)
}

// repository opens a repository in a transaction. In a read transaction the
// bucket of a repository that was never used is nil.
func (b *BoltBackend) repository(tx *bbolt.Tx, name string, now int64) *repository {
	tag := enhanced.RepositoryTag(name)
	return &repository{
		tag:      tag,
		name:     name,
		now:      now,
		tx:       tx,
		bucket:   repositoryBucket(tx, tag),
		legacy:   tx.Bucket(legacyLocks()),
		preserve: b.config.Load().PreserveLegacyFormat,
	}
}
