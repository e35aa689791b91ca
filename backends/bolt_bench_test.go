package backends_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/runatlantis/atlantis/server/core/boltdb"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// pairOf is what stock and ours have in common: one acquire and release.
type pairOf func(number int, path string) error

// store is one candidate of a comparison.
type store struct {
	name string
	// pair acquires and releases.
	pair pairOf
}

// benchmarkStores opens stock's store and ours, each in a file of its own in
// which locks are held.
func benchmarkStores(b *testing.B, locks int) []store {
	b.Helper()
	ours := benchmarkBackend(b)
	hold(b, ours, locks, 50)
	stock := benchmarkStock(b, locks)
	return []store{
		{"store=stock", func(number int, path string) error {
			lock := stockLock("org/app", number, path)
			if _, _, err := stock.TryLock(lock); err != nil {
				return err
			}
			_, err := stock.Unlock(lock.Project, lock.Workspace)
			return err
		}},
		// As stock's, these calls can't be ended.
		{"store=ours", ourPair(context.Background(), ours)},
		{"store=ours-that-can-end", ourPair(b.Context(), ours)},
	}
}

func ourPair(ctx context.Context, ours *backends.BoltBackend) pairOf {
	return func(number int, path string) error {
		lock, err := ours.AcquireLock(ctx, request(stockLock("org/app", number, path)))
		if err != nil {
			return err
		}
		return ours.ReleaseLock(ctx, lock.ID)
	}
}

// benchmarkStock fills stock's bucket in one transaction: its own TryLock would
// take a minute.
func benchmarkStock(b *testing.B, locks int) *boltdb.BoltDB {
	b.Helper()
	db := benchmarkFile(b)
	require.NoError(b, db.Update(func(tx *bbolt.Tx) error {
		bucket, err := tx.CreateBucketIfNotExists([]byte("runLocks"))
		require.NoError(b, err)
		_, err = tx.CreateBucketIfNotExists([]byte("globalLocks"))
		require.NoError(b, err)
		for i := range locks {
			lock := heldLock(i, 50)
			value, err := json.Marshal(lock)
			require.NoError(b, err)
			require.NoError(b, bucket.Put([]byte(models.GenerateLockKey(lock.Project, lock.Workspace)), value))
		}
		return nil
	}))
	stock, err := boltdb.NewWithDB(db, "runLocks", "globalLocks")
	require.NoError(b, err)
	return stock
}

func benchmarkFile(b *testing.B) *bbolt.DB {
	b.Helper()
	db, err := bbolt.Open(filepath.Join(b.TempDir(), "atlantis.db"), 0o600, nil)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, db.Close()) })
	return db
}

func benchmarkBackend(b *testing.B) *backends.BoltBackend {
	b.Helper()
	ours, err := backends.NewBoltBackend(benchmarkFile(b), nil, nil)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, ours.Close()) })
	return ours
}

// BenchmarkBoltPair is one acquire and release, beside stock on the same disk
// with the same durability.
func BenchmarkBoltPair(b *testing.B) {
	for _, held := range []int{0, 100_000} {
		b.Run(fmt.Sprintf("held=%d", held), func(b *testing.B) {
			stores := benchmarkStores(b, held)
			for _, callers := range []int{1, 16, 64} {
				for _, store := range stores {
					b.Run(fmt.Sprintf("callers=%d/%s", callers, store.name), func(b *testing.B) {
						benchmarkPair(b, store.pair, callers)
					})
				}
			}
		})
	}
}

func benchmarkPair(b *testing.B, pair pairOf, callers int) {
	b.Helper()
	var next atomic.Int64
	b.ReportAllocs()
	b.ResetTimer()
	together(callers, func(caller int) {
		for next.Add(1) <= int64(b.N) {
			if err := pair(caller+1, "p"+strconv.Itoa(caller)); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pairs/s")
}

func together(n int, run func(i int)) {
	done := make(chan struct{})
	for i := range n {
		go func() {
			run(i)
			done <- struct{}{}
		}()
	}
	for range n {
		<-done
	}
}

// heldLock is the ith of many locks over repositories.
func heldLock(i, repositories int) models.ProjectLock {
	return stockLock("org/held"+strconv.Itoa(i%repositories), 1_000_000+i, "p"+strconv.Itoa(i))
}

// hold fills a store with locks over repositories, in few transactions.
func hold(tb testing.TB, ours *backends.BoltBackend, locks, repositories int) {
	tb.Helper()
	var next atomic.Int64
	together(256, func(int) {
		for {
			i := int(next.Add(1)) - 1
			if i >= locks {
				return
			}
			if _, err := ours.AcquireLock(tb.Context(), request(heldLock(i, repositories))); err != nil {
				tb.Error(err)
				return
			}
		}
	})
}

// BenchmarkBoltReleaseByPull frees 5 locks of a pull request among many of
// others in one repository. The time must not grow with the others.
func BenchmarkBoltReleaseByPull(b *testing.B) {
	for _, held := range []int{100, 100_000} {
		b.Run(fmt.Sprintf("held=%d", held), func(b *testing.B) {
			ours := benchmarkBackend(b)
			hold(b, ours, held, 1)
			benchmarkReleaseFive(b, ours, "org/held0", func() error { return nil })
		})
	}
}

// BenchmarkBoltReleaseByPullAfterStatus is the same with the locks of others in
// their own repositories, after a run has written a status: through the backend,
// and through stock's code on the same file, which ours does not see.
func BenchmarkBoltReleaseByPullAfterStatus(b *testing.B) {
	pull := stockLock("org/app", 5, ".").Pull
	for _, held := range []int{100, 100_000} {
		db := benchmarkFile(b)
		ours, err := backends.NewBoltBackend(db, nil, nil)
		require.NoError(b, err)
		b.Cleanup(func() { require.NoError(b, ours.Close()) })
		hold(b, ours, held, 50)
		stock, err := boltdb.NewWithDB(db, "runLocks", "globalLocks")
		require.NoError(b, err)
		for _, store := range []enhanced.StatusStore{ours, stock} {
			b.Run(fmt.Sprintf("held=%d/status=%T", held, store), func(b *testing.B) {
				benchmarkReleaseFive(b, ours, "org/app", func() error {
					_, err := store.UpdatePullWithResults(pull, planned("."))
					return err
				})
			})
		}
	}
}

func benchmarkReleaseFive(b *testing.B, ours *backends.BoltBackend, repo string, before func() error) {
	b.Helper()
	for b.Loop() {
		b.StopTimer()
		for i := range 5 {
			_, err := ours.AcquireLock(b.Context(), request(stockLock(repo, 5, "mine"+strconv.Itoa(i))))
			require.NoError(b, err)
		}
		require.NoError(b, before())
		b.StartTimer()
		released, err := ours.ReleaseByPull(b.Context(), repo, 5, enhanced.SystemAtlantis)
		require.NoError(b, err)
		require.Len(b, released, 5)
	}
}

func BenchmarkBoltList(b *testing.B) {
	for _, held := range []int{100, 100_000} {
		b.Run(fmt.Sprintf("held=%d", held), func(b *testing.B) {
			ours := benchmarkBackend(b)
			hold(b, ours, held, 50)
			b.ReportAllocs()
			for b.Loop() {
				locks, err := ours.ListLocks(b.Context())
				require.NoError(b, err)
				require.Len(b, locks, held)
			}
		})
	}
}

func BenchmarkBoltGet(b *testing.B) {
	ours := benchmarkBackend(b)
	lock, err := ours.AcquireLock(b.Context(), request(stockLock("org/app", 5, ".")))
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		_, err := ours.GetLock(b.Context(), lock.ID)
		require.NoError(b, err)
	}
}

// BenchmarkBoltHandOver is a lock that goes from one waiter to the next, while
// others wait.
func BenchmarkBoltHandOver(b *testing.B) {
	for _, waiters := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprintf("waiters=%d", waiters), func(b *testing.B) {
			config := enhanced.DefaultConfig()
			config.EnablePriorityQueue, config.MaxQueueSize = true, 2*waiters
			ours, err := backends.NewBoltBackend(benchmarkFile(b), config, nil)
			require.NoError(b, err)
			b.Cleanup(func() { require.NoError(b, ours.Close()) })
			first, err := ours.AcquireLock(b.Context(), request(stockLock("org/app", 1, ".")))
			require.NoError(b, err)
			ctx, cancel := context.WithCancel(b.Context())
			granted := make(chan *enhanced.EnhancedLock, 1)
			var calls sync.WaitGroup
			var next atomic.Int64
			for range waiters {
				calls.Go(func() {
					for {
						lock, err := ours.AcquireLock(ctx, request(stockLock("org/app", 1+int(next.Add(1)), ".")))
						if err != nil {
							return
						}
						granted <- lock
					}
				})
			}
			for {
				status, err := ours.GetQueueStatus(b.Context())
				require.NoError(b, err)
				if status.Size == waiters {
					break
				}
			}
			b.ReportAllocs()
			b.ResetTimer()
			for lock := first; b.Loop(); lock = <-granted {
				if err := ours.ReleaseLock(b.Context(), lock.ID); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "handovers/s")
			cancel()
			calls.Wait()
		})
	}
}
