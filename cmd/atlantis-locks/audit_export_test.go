package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/client"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// logServer serves a store whose log is longer than one page. before is called
// before each page of the log is read.
type logServer struct {
	backend *backends.BoltBackend
	before  func(page int)
	locks   int
}

func startLogServer(t *testing.T, records, most int) (*logServer, *auditExport) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "atlantis.db"), 0o600, &bbolt.Options{NoSync: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	config := enhanced.DefaultConfig()
	config.LogMaxRecords = most
	backend, err := backends.NewBoltBackend(db, config, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, backend.Close()) })
	s := &logServer{backend: backend, before: func(int) {}}
	s.lock(t, records)

	handler := web.NewHandler(enhanced.NewEnhancedLockManager(backend, config, nil), web.Options{})
	pages := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == api.LogPath {
			s.before(pages)
			pages++
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	c, err := client.New(server.URL)
	require.NoError(t, err)
	return s, &auditExport{
		env:          environment{stderr: io.Discard, now: time.Now},
		server:       c,
		repositories: []string{"acme/infra"},
	}
}

// lock takes locks, each with a log record.
func (s *logServer) lock(t *testing.T, n int) {
	t.Helper()
	for range n {
		s.locks++
		_, err := s.backend.AcquireLock(t.Context(), &enhanced.EnhancedLockRequest{
			Project: models.NewProject("acme/infra", "p"+strconv.Itoa(s.locks), ""), Workspace: "default",
			User: models.User{Username: "alice"},
		})
		require.NoError(t, err)
	}
}

// An export of several pages is whole, and says where a trimmed log begins;
// what is added while it is read does not harm it.
func TestExportOfSeveralPages(t *testing.T) {
	s, export := startLogServer(t, 2*api.MaxLogRecords+50, 2*api.MaxLogRecords+20)
	s.before = func(int) { s.lock(t, 3) }
	var file bytes.Buffer
	require.NoError(t, export.write(t.Context(), &file))
	require.Empty(t, check(t, file.Bytes(), export.hash))
	require.Greater(t, export.records, 2*api.MaxLogRecords)
	require.Contains(t, file.String(), `"trimmed":`)
	require.NotContains(t, file.String(), `"sequence":1,`)
}

// A log that is trimmed faster than it is read makes no export with a hole.
func TestExportOfALogThatIsTrimmedMeanwhile(t *testing.T) {
	s, export := startLogServer(t, 1200, 1200)
	s.before = func(page int) {
		if page == 2 { // the header's, the first, then this
			config := enhanced.DefaultConfig()
			config.LogMaxRecords = 1
			require.NoError(t, s.backend.UpdateConfiguration(config))
			s.lock(t, 1300)
		}
	}
	err := export.write(t.Context(), io.Discard)
	require.ErrorContains(t, err, "was trimmed while it was read")
}
