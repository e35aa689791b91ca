package backends_test

import (
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// formatFile is a copy of a file that this project's code has written when it wrote that
// format.
func formatFile(t *testing.T, format string) string {
	t.Helper()
	packed, err := os.Open(filepath.Join("testdata", "formats", format+".db.gz"))
	require.NoError(t, err)
	defer packed.Close()
	unpacked, err := gzip.NewReader(packed)
	require.NoError(t, err)
	data, err := io.ReadAll(unpacked)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "atlantis.db")
	require.NoError(t, os.WriteFile(path, data, 0o600))
	return path
}

// What earlier code has stored is there, with its tokens, leases, metadata and log, after
// the file is converted, and goes on.
func TestFilesOfEarlierFormatsAreConverted(t *testing.T) {
	t.Parallel()
	for format, tokens := range map[string][6]int64{
		"1": {1796030436312650, 1796030436313161, 1796030436310950, 1796030436311862, 1796030437417563, 1796030437418581},
		"2": {1796030454798145, 1796030454798723, 1796030454794100, 1796030454797341, 1796030455903395, 1796030455909989},
	} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			path := formatFile(t, format)
			require.Empty(t, verifyFile(t, path))
			unconverted, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
			require.NoError(t, err)
			inventory, err := backends.ReadBoltInventory(unconverted)
			require.NoError(t, err)
			require.Len(t, inventory.Locks, len(tokens))
			require.NoError(t, unconverted.Close())

			s := open(t, path, nil)
			require.Equal(t, []string{
				fmt.Sprintf("org/app db user:alice %d lease", tokens[0]),
				fmt.Sprintf("org/app frozen user:alice %d", tokens[1]),
				fmt.Sprintf("org/app leased pr:github.com/org%%2Fapp/5 %d lease", tokens[2]),
				fmt.Sprintf("org/app plain pr:github.com/org%%2Fapp/5 %d", tokens[3]),
				fmt.Sprintf("org/other leased pr:github.com/org%%2Fother/5 %d", tokens[4]),
				fmt.Sprintf("org/other moved user:bob %d", tokens[5]),
			}, describeAll(t, s.ours))
			frozen, err := s.ours.LookupLock(t.Context(), by("org/app", "frozen", "").Resource)
			require.NoError(t, err)
			require.Equal(t, map[string]string{enhanced.MetadataNote: "a note"}, frozen.Metadata)
			page, err := s.ours.ReadLog(t.Context(), "org/app", 0, 100)
			require.NoError(t, err)
			var events []string
			for _, record := range page.Records {
				events = append(events, record.Type)
			}
			require.Equal(t, []string{
				enhanced.EventAcquired, enhanced.EventAcquired, enhanced.EventAcquired, enhanced.EventAcquired, enhanced.EventAcquired,
				enhanced.EventReleased, enhanced.EventAcquired, enhanced.EventTimeout,
			}, events)

			again := request(stockLock("org/app", 5, "leased"))
			again.ID, again.Timeout = "request-leased", time.Hour
			lock, err := s.ours.AcquireLock(t.Context(), again)
			require.NoError(t, err)
			require.Equal(t, tokens[2], lock.Version, "its request is known")
			lock, err = s.ours.AcquireLock(t.Context(), request(stockLock("org/app", 7, "short")))
			require.NoError(t, err)
			require.Greater(t, lock.Version, tokens[5])
			released, err := s.ours.ReleaseByPull(t.Context(), "org/app", 5, enhanced.SystemAtlantis)
			require.NoError(t, err)
			require.Len(t, released, 2)
			s.close(t)
			require.Empty(t, verifyFile(t, path))
		})
	}
}

// describeAll returns what is held, a line each.
func describeAll(t *testing.T, b enhanced.Backend) (all []string) {
	t.Helper()
	locks, err := b.ListLocks(t.Context())
	require.NoError(t, err)
	for _, lock := range locks {
		line := fmt.Sprintf("%s %s %s %d", lock.Resource.Namespace, lock.Resource.Path, lock.Owner, lock.Version)
		if lock.ExpiresAt != nil {
			line += " lease"
		}
		all = append(all, line)
	}
	return all
}
