package main

import (
	"bytes"
	"errors"
	"strconv"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"go.etcd.io/bbolt"
)

// cmdDropEntries removes a range of a repository's entries from a store:
// dropentries FILE REPOSITORY PREFIX, which can have escapes.
func cmdDropEntries(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: dropentries FILE REPOSITORY PREFIX")
	}
	prefix, err := strconv.Unquote(`"` + args[2] + `"`)
	ts.Check(err)
	editStore(ts, args[0], enhanced.RepositoryTag(args[1]), func(bucket *bbolt.Bucket) error {
		var keys [][]byte
		cursor := bucket.Cursor()
		for key, _ := cursor.Seek([]byte(prefix)); bytes.HasPrefix(key, []byte(prefix)); key, _ = cursor.Next() {
			keys = append(keys, bytes.Clone(key))
		}
		var err error
		for _, key := range keys {
			err = errors.Join(err, bucket.Delete(key))
		}
		return err
	})
}

// cmdRawEntry puts an entry beside the repositories of a store:
// rawentry FILE KEY VALUE
func cmdRawEntry(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: rawentry FILE KEY VALUE")
	}
	editStore(ts, args[0], "enhanced", func(root *bbolt.Bucket) error { return root.Put([]byte(args[1]), []byte(args[2])) })
}

func editStore(ts *testscript.TestScript, path, bucket string, edit func(*bbolt.Bucket) error) {
	db, err := bbolt.Open(ts.MkAbs(path), 0o600, &bbolt.Options{Timeout: time.Second})
	ts.Check(err)
	ts.Check(errors.Join(
		db.Update(func(tx *bbolt.Tx) error { return edit(tx.Bucket([]byte(bucket))) }),
		db.Close(),
	))
}
