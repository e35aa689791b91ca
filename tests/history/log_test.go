package history

import (
	"slices"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// recordedRun returns a run of all kinds of change and its log.
func recordedRun(t *testing.T) (*History, map[string][]*enhanced.LogRecord) {
	t.Helper()
	recorder := NewRecorder()
	b := openBolt(t)
	c := recorder.Client(b)
	ctx := t.Context()
	first, _, err := c.Acquire(ctx, request("alice", ".", time.Hour))
	require.NoError(t, err)
	require.NoError(t, c.Refresh(ctx, first, time.Minute))
	require.NoError(t, c.Transfer(ctx, first, first.Owner), "changes nothing")
	require.NoError(t, c.Transfer(ctx, first, bob))
	_, err = c.ForceRelease(ctx, first.Resource, "user:admin")
	require.NoError(t, err)
	again := request("alice", ".", enhanced.NoTimeout)
	again.ID = "again"
	for range 2 {
		_, acquired, err := c.Acquire(ctx, again)
		require.NoError(t, err)
		require.True(t, acquired)
	}
	_, err = c.ReleaseOwned(ctx, first.Resource, alice)
	require.NoError(t, err)
	last, _, err := c.Acquire(ctx, request("bob", ".", enhanced.NoTimeout))
	require.NoError(t, err)
	require.NoError(t, c.Release(ctx, last))
	require.NoError(t, c.Release(ctx, last), "it is released")
	h := recorder.History()
	logs, err := h.ReadLog(ctx, b)
	require.NoError(t, err)
	require.Len(t, logs["org/app"], 8)
	return h, logs
}

func TestLogThatAgrees(t *testing.T) {
	h, logs := recordedRun(t)
	require.Empty(t, h.Judge().Problems)
	require.Empty(t, h.JudgeLog(logs))
}

func TestLogThatDoesNot(t *testing.T) {
	// 1 acquired, 2 refreshed, 3 transferred, 4 released, 5 acquired (again),
	// 6 released, 7 acquired, 8 released.
	renumber := func(records []*enhanced.LogRecord) []*enhanced.LogRecord {
		for i, r := range records {
			r.Sequence = uint64(i) + 1
		}
		return records
	}
	for name, test := range map[string]struct {
		spoil func(records []*enhanced.LogRecord) []*enhanced.LogRecord
		want  string
	}{
		"a record is missing":  {func(r []*enhanced.LogRecord) []*enhanced.LogRecord { return slices.Delete(r, 1, 2) }, "is number 2"},
		"a change is missing":  {func(r []*enhanced.LogRecord) []*enhanced.LogRecord { return renumber(slices.Delete(r, 6, 8)) }, "has 0 records of 1"},
		"a refresh is missing": {func(r []*enhanced.LogRecord) []*enhanced.LogRecord { return renumber(slices.Delete(r, 1, 2)) }, "has 0 records of 1"},
		"a change that nobody asked for": {func(r []*enhanced.LogRecord) []*enhanced.LogRecord {
			acquired, released := *r[6], *r[7]
			acquired.Token, acquired.RequestID = acquired.Token+1, "nobody's"
			acquired.After = &enhanced.LockSummary{Owner: bob, Token: acquired.Token}
			released.Token, released.Before = acquired.Token, acquired.After
			return renumber(append(r, &acquired, &released))
		}, "there are 1, calls can have made 0"},
		"a change twice": {func(r []*enhanced.LogRecord) []*enhanced.LogRecord {
			twice := *r[1]
			twice.Before = r[1].After
			return renumber(slices.Insert(r, 2, &twice))
		}, "there are 2, calls can have made 1"},
		"two changes in the wrong order": {func(r []*enhanced.LogRecord) []*enhanced.LogRecord {
			return renumber(append(slices.Clone(r[:4]), r[6], r[7], r[4], r[5]))
		}, "comes before"},
		"another token": {func(r []*enhanced.LogRecord) []*enhanced.LogRecord {
			r[6].Token++
			r[6].After.Token, r[7].Token, r[7].Before = r[6].Token, r[6].Token, r[6].After
			return r
		}, "record 7 has token"},
		"two holders": {func(r []*enhanced.LogRecord) []*enhanced.LogRecord { return renumber(slices.Delete(r, 5, 6)) }, "says that before it was free"},
		"a token that does not grow": {func(r []*enhanced.LogRecord) []*enhanced.LogRecord {
			r[6].Token = r[4].Token
			return r
		}, "token is not above"},
		"another owner before": {func(r []*enhanced.LogRecord) []*enhanced.LogRecord { r[7].Before.Owner = alice; return r }, "says that before it was"},
		"a refresh by another owner": {func(r []*enhanced.LogRecord) []*enhanced.LogRecord {
			r[1].After.Owner = bob
			return r
		}, "refreshed of token"},
		"an end without a lease": {func(r []*enhanced.LogRecord) []*enhanced.LogRecord { r[7].Type = enhanced.EventTimeout; return r }, "timeout of token"},
		"an unreadable record":   {func(r []*enhanced.LogRecord) []*enhanced.LogRecord { r[7].Type = enhanced.EventUnreadable; return r }, "is not expected"},
	} {
		t.Run(name, func(t *testing.T) {
			h, logs := recordedRun(t)
			logs["org/app"] = test.spoil(logs["org/app"])
			problems := h.JudgeLog(logs)
			require.NotEmpty(t, problems)
			found := slices.ContainsFunc(problems, func(p string) bool { return contains(p, test.want) })
			require.True(t, found, "%q is not in %q", test.want, problems)
		})
	}
}

// A call that waits gives back what it was given when nobody hears of it any more.
func TestLogOfAnAcquireThatGivesBack(t *testing.T) {
	lock := &enhanced.LockSummary{Owner: alice, Token: 7}
	resource := enhanced.ResourceIdentifier{Namespace: "org/app"}
	logs := map[string][]*enhanced.LogRecord{"org/app": {
		{Sequence: 1, Type: enhanced.EventGranted, Resource: resource, Token: 7, RequestID: "late", After: lock},
		{Sequence: 2, Type: enhanced.EventReleased, Resource: resource, Token: 7, Before: lock},
	}}
	unheard := acquire(alice, "late").sent(1)
	unheard.Repository, unheard.Resource = "org/app", resource.Key()
	require.NotEmpty(t, sequence(unheard).JudgeLog(logs), "one that does not wait gives nothing back")
	unheard.InTurn = true
	require.Empty(t, sequence(unheard).JudgeLog(logs))
}
