package history

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openBolt(t *testing.T) *backends.BoltBackend {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "atlantis.db"), 0o600, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	b, err := backends.NewBoltBackend(db, nil, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b
}

func TestAnswers(t *testing.T) {
	holder := &enhanced.EnhancedLock{Owner: alice, Version: 7}
	for _, test := range []struct {
		err  error
		want Answer
	}{
		{nil, Done},
		{enhanced.NewHeldError(enhanced.ResourceIdentifier{}, holder), Held},
		{enhanced.NewUnknownLockError("x"), Absent},
		{enhanced.NewExpiredError("x", enhanced.ResourceIdentifier{}), Expired},
		{enhanced.NewDeniedError(enhanced.ResourceIdentifier{}, holder, bob), Denied},
		{enhanced.NewInvalidError("x"), Invalid},
		{enhanced.NewBackendError("x", io.EOF), Failed},
		{&enhanced.LockError{Code: enhanced.ErrCodeTimeout, Err: context.Canceled}, Nothing},
		{&enhanced.LockError{Code: enhanced.ErrCodeTimeout, Err: errors.Join(enhanced.ErrOutcomeUnknown, context.Canceled)}, Unknown},
		{enhanced.NewBackendError("x", enhanced.ErrOutcomeUnknown), Unknown},
		{fmt.Errorf("proxy: %w", enhanced.NewHeldError(enhanced.ResourceIdentifier{}, holder)), Held},
		{context.DeadlineExceeded, Unknown},
		{io.ErrUnexpectedEOF, Unknown},
	} {
		require.Equal(t, test.want, answerTo(test.err), "%v", test.err)
	}
}

// answers is a store that gives one answer.
type answers struct {
	enhanced.Backend
	err error
}

func (a answers) TryAcquireLock(context.Context, *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, bool, error) {
	return nil, false, a.err
}

func (a answers) LookupLock(context.Context, enhanced.ResourceIdentifier) (*enhanced.EnhancedLock, error) {
	return nil, a.err
}

func (a answers) ReleaseByPull(context.Context, string, int, string) ([]*enhanced.EnhancedLock, error) {
	return nil, a.err
}

func request(user, path string, timeout time.Duration) *enhanced.EnhancedLockRequest {
	return &enhanced.EnhancedLockRequest{
		Project: models.NewProject("org/app", path, ""), Workspace: "default",
		User: models.User{Username: user}, Timeout: timeout,
	}
}

func TestUnknownOutcomesNeverReturn(t *testing.T) {
	recorder := NewRecorder()
	sure, unsure := recorder.Client(openBolt(t)), recorder.Client(answers{err: context.Canceled})
	for range 2 {
		_, _, err := unsure.Acquire(t.Context(), request("alice", ".", enhanced.NoTimeout))
		require.ErrorIs(t, err, context.Canceled)
	}
	_, err := unsure.Lookup(t.Context(), request("alice", ".", 0).Resource)
	require.ErrorIs(t, err, context.Canceled)
	_, acquired, err := sure.Acquire(t.Context(), request("bob", ".", enhanced.NoTimeout))
	require.NoError(t, err)
	require.True(t, acquired)
	_, err = unsure.ReleaseByPull(t.Context(), "org/app", 5, enhanced.SystemAtlantis)
	require.ErrorIs(t, err, context.Canceled)

	h := recorder.History()
	require.Len(t, h.Operations, 4, "a read that was not answered says nothing")
	clients := map[int]bool{0: true, 1: true}
	for _, op := range h.Operations {
		if op.Answer == Done {
			require.Equal(t, 0, op.Client)
			require.Less(t, op.Call, op.Return)
			continue
		}
		require.Equal(t, Unknown, op.Answer)
		require.Equal(t, Never, op.Return)
		require.False(t, clients[op.Client], "a client of its own")
		clients[op.Client] = true
	}
	require.Equal(t, 3, h.Judge().Unknown)
	require.Empty(t, h.Judge().Problems)
}

func TestEveryCallIsRecorded(t *testing.T) {
	recorder := NewRecorder()
	c := recorder.Client(openBolt(t))
	ctx := t.Context()
	resource := enhanced.ProjectResource(models.NewProject("org/app", ".", ""), "default")
	_, _, err := c.Acquire(ctx, request("alice", ".", 0))
	require.ErrorIs(t, err, errNoLease)
	_, _, err = c.Acquire(ctx, &enhanced.EnhancedLockRequest{Timeout: time.Minute})
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)

	lock, _, err := c.Acquire(ctx, request("alice", ".", time.Minute))
	require.NoError(t, err)
	_, _, err = c.Acquire(ctx, request("bob", ".", enhanced.NoTimeout))
	require.NoError(t, err)
	require.NoError(t, c.Refresh(ctx, lock, time.Hour))
	require.NoError(t, c.Transfer(ctx, lock, bob))
	require.ErrorIs(t, c.Release(ctx, lock), enhanced.ErrLockNotFound)
	_, err = c.ReleaseOwned(ctx, resource, alice)
	require.ErrorIs(t, err, enhanced.ErrPermissionDenied)
	found, err := c.Lookup(ctx, resource)
	require.NoError(t, err)
	_, err = c.ForceRelease(ctx, resource, "user:admin")
	require.NoError(t, err)
	require.NoError(t, c.Release(ctx, found))

	h := recorder.History()
	kinds := []Kind{Acquire, Acquire, Refresh, Transfer, Release, ReleaseOwned, Lookup, ForceRelease, Release}
	given := []Answer{Done, Held, Done, Done, Absent, Denied, Done, Done, Done}
	require.Len(t, h.Operations, len(kinds))
	for i, op := range h.Operations {
		require.Equal(t, kinds[i], op.Kind)
		require.Equal(t, given[i], op.Answer, op)
		require.Equal(t, resource.Key(), op.Resource)
		require.Equal(t, "org/app", op.Repository)
		if i > 0 {
			require.GreaterOrEqual(t, op.Call, h.Operations[i-1].Return)
		}
	}
	require.Equal(t, time.Minute, h.Operations[0].Lease)
	require.Equal(t, alice, h.Operations[0].Owner)
	require.NotEmpty(t, h.Operations[0].Request)
	require.Equal(t, &Lock{Token: lock.Version, Owner: alice, Expires: lock.ExpiresAt.UnixMicro()}, h.Operations[0].Lock)
	require.Equal(t, h.Operations[0].Lock, h.Operations[1].Lock, "the holder")
	require.Equal(t, bob, h.Operations[5].Lock.Owner, "the holder")
	require.Equal(t, found.Version, h.Operations[8].Token)
	require.Empty(t, h.Judge().Problems)
}

func TestReleaseByPullIsRecordedOnEachResource(t *testing.T) {
	recorder := NewRecorder()
	b := openBolt(t)
	c := recorder.Client(b)
	pull := func(path string, number int) *enhanced.EnhancedLockRequest {
		r := request("", path, enhanced.NoTimeout)
		r.Pull = &models.PullRequest{Num: number, BaseRepo: models.Repo{FullName: "org/app"}}
		return r
	}
	for i, path := range []string{"a", "b", "c"} {
		_, acquired, err := c.Acquire(t.Context(), pull(path, 5+i/2)) // a and b are 5's, c is 6's
		require.NoError(t, err)
		require.True(t, acquired)
	}
	// One that this history knows by the release only.
	_, _, err := b.TryAcquireLock(t.Context(), pull("d", 5))
	require.NoError(t, err)
	other := request("alice", ".", enhanced.NoTimeout)
	other.Project.RepoFullName = "org/other"
	_, _, err = c.Acquire(t.Context(), other)
	require.NoError(t, err)
	released, err := c.ReleaseByPull(t.Context(), "org/app", 5, enhanced.SystemAtlantis)
	require.NoError(t, err)
	require.Len(t, released, 3)

	found := make(map[string]Answer)
	for _, op := range recorder.History().Operations {
		if op.Kind == ReleaseByPull {
			require.Equal(t, "org/app", op.Repository)
			require.Equal(t, op.Answer == Done, op.Lock != nil)
			found[op.Resource] = op.Answer
		}
	}
	require.Equal(t, map[string]Answer{
		"project/a/default/": Done, "project/b/default/": Done, "project/c/default/": Absent, "project/d/default/": Done,
	}, found)
}
