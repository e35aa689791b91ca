package web_test

import (
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web"
	"go.etcd.io/bbolt"
)

// The API can be mounted in a server of one's own, behind its authentication.
func ExampleNewHandler() {
	directory, err := os.MkdirTemp("", "locks")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(directory) }()
	db, err := bbolt.Open(filepath.Join(directory, "atlantis.db"), 0o600, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	backend, err := backends.NewBoltBackend(db, nil, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer backend.Close()
	manager := enhanced.NewEnhancedLockManager(backend, nil, nil)

	mux := http.NewServeMux()
	mux.Handle("/locks/", http.StripPrefix("/locks", web.NewHandler(manager, web.Options{})))

	answer := httptest.NewRecorder()
	mux.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/locks/readyz", nil))
	fmt.Print(answer.Code, " ", answer.Body)
	// Output: 200 {"status":"ok"}
}
