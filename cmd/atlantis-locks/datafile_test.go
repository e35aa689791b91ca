package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// Whatever is wrong with a file: no panic, no change, and an error if it can't
// be read whole.
func TestDamagedFiles(t *testing.T) {
	good := filepath.Join(t.TempDir(), dataFileName)
	pages := makeStockFile(t, good, 300)
	content, err := os.ReadFile(good)
	require.NoError(t, err)
	requireSoundDataFile(t, good)

	check := func(t *testing.T, content []byte) error {
		t.Helper()
		directory := t.TempDir()
		path := filepath.Join(directory, dataFileName)
		require.NoError(t, os.WriteFile(path, content, 0o600))
		_, err := checkDataFile(path)
		after, readErr := os.ReadFile(path)
		require.NoError(t, readErr)
		require.Equal(t, content, after, "the file was touched")
		if err != nil {
			require.ErrorContains(t, err, path)
		}
		return err
	}
	t.Run("truncated", func(t *testing.T) {
		for size := len(content) - 4096; size > 0; size -= 3 * 4096 {
			err := check(t, content[:size])
			if size >= pages {
				require.NoError(t, err, "bbolt makes a file longer than its pages")
				continue
			}
			require.ErrorContains(t, err, "is damaged", "cut at %d of %d", size, len(content))
		}
	})
	t.Run("overwritten", func(t *testing.T) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		random := rand.New(rand.NewPCG(seed, 0))
		for range 100 {
			broken := append([]byte(nil), content...)
			at := random.IntN(len(broken) - 64)
			for i := range 64 {
				broken[at+i] = byte(random.Uint32())
			}
			_ = check(t, broken) // many a byte can change unnoticed
		}
	})
	t.Run("zeros", func(t *testing.T) {
		require.ErrorContains(t, check(t, make([]byte, 65536)), "is damaged")
	})
}

// All of a file is read: buckets in buckets, and values to their end.
func TestDamageDeepInside(t *testing.T) {
	path := filepath.Join(t.TempDir(), dataFileName)
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	// The last value is larger than the pages that the first one leaves, so
	// it goes to the end of the file, and everything else before it.
	marker := bytes.Repeat([]byte("marker"), 20_000)
	for _, value := range [][]byte{bytes.Repeat([]byte("x"), len(marker)/2), []byte("x"), marker} {
		require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
			outer, err := tx.CreateBucketIfNotExists([]byte("outer"))
			if err != nil {
				return err
			}
			inner, err := outer.CreateBucketIfNotExists([]byte("inner"))
			if err != nil {
				return err
			}
			return inner.Put([]byte("key"), value)
		}))
	}
	pageSize := db.Info().PageSize
	require.NoError(t, db.Close())
	requireSoundDataFile(t, path)
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	first := bytes.Index(content, marker[:60]) / pageSize * pageSize
	last := bytes.LastIndex(content, []byte("marker")) / pageSize * pageSize

	broken := bytes.Clone(content)
	clear(broken[first : first+pageSize])
	require.NoError(t, os.WriteFile(path, broken, 0o600))
	_, err = checkDataFile(path)
	require.ErrorContains(t, err, "is damaged", "the inner bucket's page is gone")

	// The first pages of the value alone are enough to find it.
	require.NoError(t, os.WriteFile(path, content[:last], 0o600))
	_, err = checkDataFile(path)
	require.ErrorContains(t, err, "is damaged", "the value's last page is gone")
}

func requireSoundDataFile(t *testing.T, path string) {
	t.Helper()
	damages, err := checkDataFile(path)
	require.NoError(t, err)
	require.Empty(t, damages)
}

// makeStockFile returns how many bytes the file's pages have.
func makeStockFile(t *testing.T, path string, locks int) (pages int) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		bucket, err := tx.CreateBucket([]byte(stockLocksBucket))
		if err != nil {
			return err
		}
		for i := range locks {
			value, err := json.Marshal(stockLock("acme/infra", fmt.Sprintf("p/%d", i), "default", i+1))
			if err != nil {
				return err
			}
			if err := bucket.Put(fmt.Appendf(nil, "acme/infra/p/%d/default/", i), value); err != nil {
				return err
			}
		}
		return nil
	}))
	require.NoError(t, db.View(func(tx *bbolt.Tx) error { pages = int(tx.Size()); return nil }))
	require.NoError(t, db.Close())
	return pages
}
