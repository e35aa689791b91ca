package tests

import (
	"testing"
	"time"

	libredis "github.com/redis/go-redis/v9"
	"github.com/runatlantis/atlantis/server/core/db"
	"github.com/runatlantis/atlantis/server/core/locking"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/runatlantis/atlantis/server/events/command"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// What Atlantis' own tests of its databases expect and other tests here do not ask
// for one by one, see docs/compatibility-expectations.md.
func TestExpectations(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(t *testing.T) (db.Database, func(key, value string)){
		"bbolt": expectBolt, "Redis": expectRedis,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database, putStatus := open(t)
			t.Run("what differs is another lock", func(t *testing.T) { expectGranularity(t, database) })
			t.Run("unlocking one leaves the others", func(t *testing.T) { expectUnlocking(t, database) })
			t.Run("the lock of a command is none of a project", func(t *testing.T) { expectCommandLocks(t, database) })
			t.Run("a status belongs to a commit and a base", func(t *testing.T) { expectStatus(t, database) })
			t.Run("approvals outlive a commit", func(t *testing.T) { expectApprovals(t, database) })
			t.Run("an unreadable status is replaced", func(t *testing.T) { expectReplaced(t, database, putStatus) })
		})
	}
}

func expectBolt(t *testing.T) (db.Database, func(key, value string)) {
	t.Helper()
	file := openFile(t)
	config := enhanced.DefaultConfig()
	config.Enabled = true
	backend := boltBackends(t, file)(config)
	adapter := enhanced.NewLockingAdapter(enhanced.NewEnhancedLockManager(backend, config, nil), backend, config, nil, nil)
	t.Cleanup(func() { require.NoError(t, adapter.Close()) })
	return adapter, func(key, value string) {
		require.NoError(t, file.Update(func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("pulls")).Put([]byte(key), []byte(value))
		}))
	}
}

func expectRedis(t *testing.T) (db.Database, func(key, value string)) {
	t.Helper()
	client := redistest.Start(t, redistest.Options{}).Client()
	return oursRedis(t, client), func(key, value string) {
		require.NoError(t, client.Set(t.Context(), key, value, libredis.KeepTTL).Err())
	}
}

func expectGranularity(t *testing.T, database db.Database) {
	t.Helper()
	first := lockOf("org/expect", 1, "a")
	take(t, database, first)
	for _, change := range []func(*models.ProjectLock){
		func(l *models.ProjectLock) { l.Project = models.NewProject("org/expect", "a/b", "") },
		func(l *models.ProjectLock) { l.Workspace = "staging" },
		func(l *models.ProjectLock) { l.Project = models.NewProject("org/expected", "a", "") },
		func(l *models.ProjectLock) { l.Project = models.NewProject("org/expect", "a", "name") },
	} {
		lock := lockOf("org/expect", 1, "a")
		change(&lock)
		take(t, database, lock)
		released, err := database.Unlock(lock.Project, lock.Workspace)
		require.NoError(t, err)
		require.NotNil(t, released)
	}
	acquired, holder, err := database.TryLock(lockOf("org/expect", 2, "a"))
	require.NoError(t, err)
	require.False(t, acquired)
	require.Equal(t, first.Project, holder.Project)
	_, err = database.UnlockByPull("org/expect", 1)
	require.NoError(t, err)
}

func expectUnlocking(t *testing.T, database db.Database) {
	t.Helper()
	take(t, database, lockOf("org/expect", 1, "a"))
	take(t, database, lockOf("org/expect", 1, "b"))
	take(t, database, lockOf("org/expect", 2, "c"))
	take(t, database, lockOf("org/other", 1, "a"))
	for _, foreign := range []struct {
		repository string
		number     int
	}{{"org/expect", 3}, {"org/none", 1}} {
		released, err := database.UnlockByPull(foreign.repository, foreign.number)
		require.NoError(t, err)
		require.Empty(t, released)
	}
	released, err := database.Unlock(lockOf("org/expect", 1, "a").Project, "default")
	require.NoError(t, err)
	require.NotNil(t, released)
	all, err := database.UnlockByPull("org/expect", 1)
	require.NoError(t, err)
	require.Len(t, all, 1)
	left, err := database.List()
	require.NoError(t, err)
	require.Len(t, left, 2)
	for _, lock := range left {
		_, err := database.UnlockByPull(lock.Project.RepoFullName, lock.Pull.Num)
		require.NoError(t, err)
	}
	left, err = database.List()
	require.NoError(t, err)
	require.Empty(t, left)
}

// expectCommandLocks goes through Atlantis' own client of the apply lock.
func expectCommandLocks(t *testing.T, database db.Database) {
	t.Helper()
	take(t, database, lockOf("org/expect", 1, "a"))
	client := locking.NewApplyClient(database, false, false)
	held, err := client.CheckApplyLock()
	require.NoError(t, err)
	require.False(t, held.Locked)
	require.Error(t, client.UnlockApply(), "there is none")
	held, err = client.LockApply()
	require.NoError(t, err)
	require.True(t, held.Locked)
	require.WithinDuration(t, time.Now(), held.Time, time.Minute)
	_, err = client.LockApply()
	require.ErrorContains(t, err, "lock already exists")
	held, err = client.CheckApplyLock()
	require.NoError(t, err)
	require.True(t, held.Locked)
	locks, err := database.List()
	require.NoError(t, err)
	require.Len(t, locks, 1, "the lock of a command is no project's")
	require.NoError(t, client.UnlockApply())
	_, err = database.UnlockByPull("org/expect", 1)
	require.NoError(t, err)
}

func planned(path string, policies ...models.PolicySetResult) command.ProjectResult {
	result := command.ProjectResult{Command: command.Plan, Workspace: "default", RepoRelDir: path}
	result.PlanSuccess = &models.PlanSuccess{}
	if len(policies) > 0 {
		result.Command, result.PlanSuccess = command.PolicyCheck, nil
		result.PolicyCheckResults = &models.PolicyCheckResults{PolicySetResults: policies}
	}
	return result
}

func expectStatus(t *testing.T, database db.Database) {
	t.Helper()
	pull := lockOf("org/expect", 1, "a").Pull
	pull.HeadCommit = "one"
	update := func(path string) []string {
		t.Helper()
		status, err := database.UpdatePullWithResults(pull, []command.ProjectResult{planned(path)})
		require.NoError(t, err)
		stored, err := database.GetPullStatus(pull)
		require.NoError(t, err)
		require.Equal(t, status.Projects, stored.Projects)
		require.Equal(t, pull.BaseBranch, stored.Pull.BaseBranch)
		var paths []string
		for _, p := range stored.Projects {
			paths = append(paths, p.RepoRelDir)
		}
		return paths
	}
	require.Equal(t, []string{"a"}, update("a"))
	require.Equal(t, []string{"a", "b"}, update("b"), "one more project of the same commit")
	pull.BaseBranch = "main"
	require.Equal(t, []string{"c"}, update("c"), "what has no base is not known to be of this one")
	pull.BaseBranch = "release"
	require.Equal(t, []string{"d"}, update("d"), "another base")
	pull.HeadCommit = "two"
	require.Equal(t, []string{"e"}, update("e"), "another commit")
	require.NoError(t, database.UpdateProjectStatus(pull, "default", "e", models.AppliedPlanStatus))
	status, err := database.GetPullStatus(pull)
	require.NoError(t, err)
	require.Equal(t, models.AppliedPlanStatus, status.Projects[0].Status)
	require.NoError(t, database.DeletePullStatus(pull))
	status, err = database.GetPullStatus(pull)
	require.NoError(t, err)
	require.Nil(t, status)
}

func expectApprovals(t *testing.T, database db.Database) {
	t.Helper()
	pull := lockOf("org/expect", 2, "a").Pull
	pull.HeadCommit = "one"
	_, err := database.UpdatePullWithResults(pull, []command.ProjectResult{
		planned("a", models.PolicySetResult{PolicySetName: "policy", Passed: false}),
	})
	require.NoError(t, err)
	before, err := database.GetPullStatus(pull)
	require.NoError(t, err)
	require.NotEmpty(t, before.Projects[0].PolicyStatus)
	pull.HeadCommit = "two"
	after, err := database.UpdatePullWithResults(pull, []command.ProjectResult{planned("a"), planned("b")})
	require.NoError(t, err)
	require.Len(t, after.Projects, 2)
	require.Equal(t, before.Projects[0].PolicyStatus, after.Projects[0].PolicyStatus)
	require.Empty(t, after.Projects[1].PolicyStatus)
}

func expectReplaced(t *testing.T, database db.Database, put func(key, value string)) {
	t.Helper()
	put("github.com::org/expect::3", `{"Projects":[{"PolicyStatus":[{"Approvals":2}]}],"Pull":{"Num":3}}`)
	pull := lockOf("org/expect", 3, "a").Pull
	_, err := database.GetPullStatus(pull)
	require.Error(t, err)
	status, err := database.UpdatePullWithResults(pull, []command.ProjectResult{planned("a")})
	require.NoError(t, err)
	require.Len(t, status.Projects, 1)
	stored, err := database.GetPullStatus(pull)
	require.NoError(t, err)
	require.Equal(t, status.Projects, stored.Projects)
}
