package enhanced_test

import (
	"log"
	"os"
	"path/filepath"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"go.etcd.io/bbolt"
)

// openExampleFile opens a bbolt file that remove deletes. A program opens the
// file that Atlantis uses: atlantis.db in its data directory.
func openExampleFile() (db *bbolt.DB, remove func()) {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	db, err = bbolt.Open(filepath.Join(dir, "atlantis.db"), 0o600, nil)
	if err != nil {
		log.Fatal(err)
	}
	return db, func() {
		if err := db.Close(); err != nil {
			log.Fatal(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			log.Fatal(err)
		}
	}
}

// newExampleAdapter puts an adapter together as Example_dropIn does; remove
// closes it and deletes its file.
func newExampleAdapter(config *enhanced.EnhancedConfig) (adapter *enhanced.LockingAdapter, remove func()) {
	db, removeFile := openExampleFile()
	backend, err := backends.NewBoltBackend(db, config, nil)
	if err != nil {
		log.Fatal(err)
	}
	manager := enhanced.NewEnhancedLockManager(backend, config, nil)
	adapter = enhanced.NewLockingAdapter(manager, backend, config, nil, nil)
	return adapter, func() {
		if err := adapter.Close(); err != nil {
			log.Fatal(err)
		}
		removeFile()
	}
}
