package backends_test

import (
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
)

// A waiter does not need to read what is damaged about the lock that it waits
// for: it stays where it is, and gets its turn.
func TestRedisQueueBehindADamagedLock(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t, redistest.Options{}).Client()
	config := queueOn()
	config.PreserveLegacyFormat = false
	b := openRedis(t, client, config)
	lock, err := b.AcquireLock(t.Context(), by("org/app", ".", "ann"))
	require.NoError(t, err)
	require.NoError(t, client.HSet(t.Context(), repositoryKey("org/app", "state"), "d"+lock.Resource.Key(), "{damaged").Err())
	answers := waits(t, b, by("org/app", ".", "bob"))
	_, err = b.Release(t.Context(), enhanced.ReleaseRequest{Resource: lock.Resource, Owner: lock.Owner})
	require.NoError(t, err)
	require.NoError(t, <-answers)
}
