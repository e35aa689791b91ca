package backends

import (
	"errors"
	"path/filepath"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// A process that closes a pull request with more locks than one step frees dies after
// the first one. Closing it again does the rest, however late, unless a later run has
// taken locks.
func TestBoltCloseIsCutOff(t *testing.T) {
	t.Parallel()
	for name, head := range map[string]string{"closed again": "", "another run": "0123456789"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db, err := bbolt.Open(filepath.Join(t.TempDir(), "a.db"), 0o600, &bbolt.Options{NoSync: true})
				require.NoError(t, err)
				config := enhanced.DefaultConfig()
				config.EnablePriorityQueue = true
				b, err := NewBoltBackend(db, config, nil)
				require.NoError(t, err)
				defer func() { require.NoError(t, errors.Join(b.Close(), db.Close())) }()
				owner := enhanced.PullOwner("github.com", "org/app", 5)
				request := func(path, head string) *enhanced.EnhancedLockRequest {
					return &enhanced.EnhancedLockRequest{
						Project: models.NewProject("org/app", path, ""), Workspace: "default", Timeout: enhanced.NoTimeout,
						Pull: &models.PullRequest{Num: 5, HeadCommit: head, BaseRepo: models.Repo{FullName: "org/app", VCSHost: models.VCSHost{Hostname: "github.com"}}},
					}
				}
				_, err = b.ReleaseByPull(t.Context(), "org/app", 5, enhanced.SystemAtlantis)
				require.NoError(t, err)
				for i := range maxStep + 1 {
					_, err := b.AcquireLock(t.Context(), request(strconv.Itoa(i), ""))
					require.NoError(t, err)
				}
				more, err := decide(t.Context(), b.committer, "first page", func(batch *batch) (bool, error) {
					return b.repositoryStep(batch, "org/app").closePull(owner, "")
				})
				require.NoError(t, err)
				require.True(t, more)
				<-time.After(10 * closingTimeout)
				_, err = b.CleanupExpiredLocks(t.Context())
				require.NoError(t, err)
				_, err = b.AcquireLock(t.Context(), request("new", head))
				want := 0
				if head == "" {
					require.ErrorIs(t, err, enhanced.ErrPermissionDenied)
				} else {
					require.NoError(t, err)
					want = maxStep + 2 - closingPage
				}
				require.NoError(t, b.ClosePull(t.Context(), owner, ""))
				locks, err := b.ListLocks(t.Context())
				require.NoError(t, err)
				require.Len(t, locks, want)
				found, err := decodeTombstone(b.tombstoneOf(t, owner))
				require.NoError(t, err)
				require.False(t, found.Releasing)
			})
		})
	}
}

func (b *BoltBackend) tombstoneOf(t *testing.T, owner enhanced.Owner) []byte {
	t.Helper()
	data, err := decide(t.Context(), b.committer, "read a tombstone", func(batch *batch) ([]byte, error) {
		return append([]byte(nil), b.repositoryStep(batch, owner.Repository).get(tombstoneKey(owner.String()))...), nil
	})
	require.NoError(t, err)
	return data
}
