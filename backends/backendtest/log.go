package backendtest

import (
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

func readLog(t *testing.T, b enhanced.Backend, repository string, after uint64) *enhanced.LogPage {
	t.Helper()
	page, err := b.ReadLog(t.Context(), repository, after, 1000)
	require.NoError(t, err)
	return page
}

func testLog(t *testing.T, newBackend NewBackend) {
	t.Run("one record for each change, with all about it", func(t *testing.T) {
		b := newBackend(t, nil)
		request := withID(leased(pullRequest(5, "."), time.Hour), "request-1")
		request.Metadata = map[string]string{enhanced.MetadataNote: "a note"}
		lock := acquire(t, b, request)
		_, _, err := b.TryAcquireLock(t.Context(), pullRequest(6, "."))
		require.NoError(t, err)
		require.NoError(t, b.RefreshLock(t.Context(), lock.ID, 2*time.Hour))
		require.NoError(t, b.TransferLock(t.Context(), lock.ID, "user:alice"))
		_, err = b.Release(t.Context(), enhanced.ReleaseRequest{
			Resource: resource("."), Force: true, Actor: "user:admin", Reason: "stuck",
		})
		require.NoError(t, err)
		acquire(t, b, pullRequest(7, "a"))
		_, err = b.ReleaseByPull(t.Context(), repo, 7, enhanced.SystemAtlantis)
		require.NoError(t, err)

		records := readLog(t, b, repo, 0).Records
		var types, causes, actors []string
		for i, record := range records {
			require.EqualValues(t, i+1, record.Sequence)
			require.WithinDuration(t, time.Now(), record.Time, time.Minute)
			types = append(types, record.Type)
			causes = append(causes, record.Cause)
			actors = append(actors, record.Actor)
		}
		require.Equal(t, []string{"acquired", "refreshed", "transferred", "released", "acquired", "released"}, types)
		require.Equal(t, []string{"request", "request", "request", "forced", "request", "pull"}, causes)
		require.Equal(t, []string{
			lock.Owner, lock.Owner, lock.Owner, "user:admin", "pr:github.com/org%2Fapp/7", enhanced.SystemAtlantis,
		}, actors)

		first := records[0]
		require.Equal(t, lock.ID, first.LockID)
		require.Equal(t, lock.Version, first.Token)
		require.Equal(t, "request-1", first.RequestID)
		require.Equal(t, lock.Resource, first.Resource)
		require.Nil(t, first.Before)
		require.Equal(t, lock.Owner, first.After.Owner)
		require.Equal(t, "a note", first.After.Note)
		require.True(t, lock.ExpiresAt.Equal(*first.After.ExpiresAt))

		require.True(t, records[1].After.ExpiresAt.After(*records[1].Before.ExpiresAt))
		require.Equal(t, lock.Owner, records[2].Before.Owner)
		require.Equal(t, "user:alice", records[2].After.Owner)
		require.Greater(t, records[2].After.Token, records[2].Before.Token)
		require.Equal(t, "stuck", records[3].Reason)
		require.Equal(t, "user:alice", records[3].Before.Owner)
		require.Nil(t, records[3].After)
	})

	t.Run("pages", func(t *testing.T) {
		b := newBackend(t, nil)
		for i := range 5 {
			acquire(t, b, pullRequest(5, "p"+itoa(i)))
		}
		page, err := b.ReadLog(t.Context(), repo, 1, 3)
		require.NoError(t, err)
		require.Len(t, page.Records, 3)
		require.EqualValues(t, 2, page.Records[0].Sequence)
		require.True(t, page.More)
		page, err = b.ReadLog(t.Context(), repo, 4, 3)
		require.NoError(t, err)
		require.Len(t, page.Records, 1)
		require.False(t, page.More)
		page, err = b.ReadLog(t.Context(), "org/none", 0, 3)
		require.NoError(t, err)
		require.Empty(t, page.Records)
		_, err = b.ReadLog(t.Context(), repo, 0, 0)
		require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
		names, err := b.ListRepositories(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{repo}, names)
	})

	t.Run("bounded by size, with a checkpoint", func(t *testing.T) {
		config := enhanced.DefaultConfig()
		config.LogMaxRecords = 10
		b := newBackend(t, config)
		for i := range 50 {
			acquire(t, b, pullRequest(5, "p"+itoa(i)))
		}
		page := readLog(t, b, repo, 0)
		require.Len(t, page.Records, 10)
		require.EqualValues(t, 41, page.Records[0].Sequence)
		require.EqualValues(t, 40, page.Trimmed)

		// A lower bound takes effect by and by, without one long step.
		config.LogMaxRecords = 5
		require.NoError(t, b.UpdateConfiguration(config))
		for i := range 6 {
			acquire(t, b, pullRequest(6, "q"+itoa(i)))
		}
		page = readLog(t, b, repo, 0)
		require.Len(t, page.Records, 5)
		require.EqualValues(t, 51, page.Trimmed)
		locks, err := b.ListLocks(t.Context())
		require.NoError(t, err)
		require.Len(t, locks, 56, "trimming the log touches no lock")
	})

	t.Run("bounded by age, also where nothing happens", func(t *testing.T) {
		config := enhanced.DefaultConfig()
		config.LogMaxAge = shortLease
		b := newBackend(t, config)
		acquire(t, b, pullRequest(5, "."))
		Eventually(t, "the log is trimmed", func() bool {
			_, err := b.CleanupExpiredLocks(t.Context())
			require.NoError(t, err)
			page := readLog(t, b, repo, 0)
			return len(page.Records) == 0 && page.Trimmed == 1
		})
		acquire(t, b, pullRequest(5, "next"))
		require.EqualValues(t, 2, readLog(t, b, repo, 0).Records[0].Sequence, "the count goes on")
	})

	t.Run("a subscriber resumes where it was", func(t *testing.T) {
		b := newBackend(t, nil)
		for i := range 300 {
			acquire(t, b, pullRequest(5, "p"+itoa(i)))
		}
		acquire(t, b, pullRequestOf(host, "org/other", 5, "."))
		position := enhanced.LogPosition{repo: 297}
		events, err := b.SubscribeFrom(t.Context(), nil, position)
		require.NoError(t, err)
		seen := map[string][]string{}
		for range 4 {
			event := next(t, events)
			seen[event.Resource.Namespace] = append(seen[event.Resource.Namespace], event.Metadata["sequence"])
		}
		require.Equal(t, map[string][]string{repo: {"298", "299", "300"}, "org/other": {"1"}}, seen)
		acquire(t, b, pullRequest(5, "new"))
		require.Equal(t, "301", next(t, events).Metadata["sequence"])
	})

	t.Run("a subscriber learns what it missed", func(t *testing.T) {
		config := enhanced.DefaultConfig()
		config.LogMaxRecords = 10
		b := newBackend(t, config)
		for i := range 50 {
			acquire(t, b, pullRequest(5, "p"+itoa(i)))
		}
		events, err := b.SubscribeFrom(t.Context(), []string{enhanced.EventAcquired}, enhanced.LogPosition{repo: 3})
		require.NoError(t, err)
		event := next(t, events)
		require.Equal(t, enhanced.EventSkipped, event.Type)
		require.Equal(t, "37", event.Metadata["records"])
		require.Equal(t, repo, event.Resource.Namespace)
		require.Equal(t, "41", next(t, events).Metadata["sequence"])
	})

	t.Run("a subscriber learns how far it has come", func(t *testing.T) {
		b := newBackend(t, nil)
		acquire(t, b, pullRequest(5, "."))
		start := time.Now()
		events, err := b.SubscribeFrom(t.Context(), []string{enhanced.EventAcquired, enhanced.EventCaughtUp}, enhanced.LogPosition{})
		require.NoError(t, err)
		require.Equal(t, enhanced.EventAcquired, next(t, events).Type, "what was there comes first")
		event := next(t, events)
		require.Equal(t, enhanced.EventCaughtUp, event.Type)
		require.False(t, event.Timestamp.Before(start))
		acquire(t, b, pullRequestOf(host, "org/new", 5, "."))
		acquired := time.Now()
		seen := false
		Eventually(t, "the next mark", func() bool {
			event := next(t, events)
			seen = seen || event.Type == enhanced.EventAcquired
			return event.Type == enhanced.EventCaughtUp && event.Timestamp.After(acquired)
		})
		require.True(t, seen, "what happened before a mark comes before it")
	})
}
