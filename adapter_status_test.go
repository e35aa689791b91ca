package enhanced_test

import (
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/events/command"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

// newAdapter returns an enabled adapter without legacy database.
func newAdapter(t *testing.T, config *enhanced.EnhancedConfig) *enhanced.LockingAdapter {
	t.Helper()
	backend := newBackend(t, config)
	return enhanced.NewLockingAdapter(newManagerOn(t, backend, config), backend, config, nil, nil)
}

func planned(path string) []command.ProjectResult {
	return []command.ProjectResult{{
		Command: command.Plan, RepoRelDir: path, Workspace: workspace,
		ProjectCommandOutput: command.ProjectCommandOutput{PlanSuccess: &models.PlanSuccess{TerraformOutput: "No changes."}},
	}}
}

func TestStatusGoesToTheLegacyDatabaseWhileThereIsOne(t *testing.T) {
	t.Parallel()
	legacy := stockOn(t, openFile(t)) // a file of its own
	backend := newBackend(t, enabled())
	adapter := enhanced.NewLockingAdapter(newManagerOn(t, backend, enabled()), backend, enabled(), legacy, nil)

	_, err := adapter.UpdatePullWithResults(pull(5), planned("a"))
	require.NoError(t, err)
	require.NoError(t, adapter.UpdateProjectStatus(pull(5), workspace, "a", models.AppliedPlanStatus))
	_, err = adapter.LockCommand(command.Apply, time.Now())
	require.NoError(t, err)

	status, err := legacy.GetPullStatus(pull(5))
	require.NoError(t, err)
	require.Equal(t, models.AppliedPlanStatus, status.Projects[0].Status)
	locked, err := legacy.CheckCommandLock(command.Apply)
	require.NoError(t, err)
	require.NotNil(t, locked)

	status, err = backend.GetPullStatus(pull(5))
	require.NoError(t, err)
	require.Nil(t, status)
	locked, err = backend.CheckCommandLock(command.Apply)
	require.NoError(t, err)
	require.Nil(t, locked)

	seen, err := adapter.GetPullStatus(pull(5))
	require.NoError(t, err)
	require.Equal(t, models.AppliedPlanStatus, seen.Projects[0].Status)
	require.NoError(t, adapter.DeletePullStatus(pull(5)))
	status, err = legacy.GetPullStatus(pull(5))
	require.NoError(t, err)
	require.Nil(t, status)
	require.NoError(t, adapter.UnlockCommand(command.Apply))
	locked, err = adapter.CheckCommandLock(command.Apply)
	require.NoError(t, err)
	require.Nil(t, locked)
}

func TestStatusGoesToTheBackendWithoutLegacyDatabase(t *testing.T) {
	t.Parallel()
	file := openFile(t)
	backend := newBackendOn(t, file, enabled())
	adapter := enhanced.NewLockingAdapter(newManagerOn(t, backend, enabled()), backend, enabled(), nil, nil)

	for _, path := range []string{"a", "b"} {
		_, err := adapter.UpdatePullWithResults(pull(5), planned(path))
		require.NoError(t, err)
	}
	require.NoError(t, adapter.UpdateProjectStatus(pull(5), workspace, "a", models.AppliedPlanStatus))
	status, err := adapter.GetPullStatus(pull(5))
	require.NoError(t, err)
	require.Len(t, status.Projects, 2, "results are merged")
	require.Equal(t, models.AppliedPlanStatus, status.Projects[0].Status)
	require.Equal(t, models.PlannedPlanStatus, status.Projects[1].Status)

	at := time.Unix(1_800_000_000, 0)
	locked, err := adapter.LockCommand(command.Apply, at)
	require.NoError(t, err)
	require.Equal(t, at.Unix(), locked.LockMetadata.UnixTime)
	_, err = adapter.LockCommand(command.Apply, at)
	require.Error(t, err)

	// Stock reads both, and finds no credential.
	stock := stockOn(t, file)
	same, err := stock.GetPullStatus(pull(5))
	require.NoError(t, err)
	require.Equal(t, status, same)
	require.Empty(t, same.Pull.BaseRepo.CloneURL)
	sameLock, err := stock.CheckCommandLock(command.Apply)
	require.NoError(t, err)
	require.Equal(t, locked, sameLock)

	require.NoError(t, adapter.UnlockCommand(command.Apply))
	require.Error(t, adapter.UnlockCommand(command.Apply))
	require.NoError(t, adapter.DeletePullStatus(pull(5)))
	status, err = adapter.GetPullStatus(pull(5))
	require.NoError(t, err)
	require.Nil(t, status)
}

func TestConcurrentStatusUpdatesLoseNothing(t *testing.T) {
	t.Parallel()
	adapter := newAdapter(t, enabled())
	const writers = 8
	backendtest.Together(writers, func(i int) {
		if _, err := adapter.UpdatePullWithResults(pull(5), planned(itoa(i))); err != nil {
			t.Error(err)
		}
	})
	status, err := adapter.GetPullStatus(pull(5))
	require.NoError(t, err)
	require.Len(t, status.Projects, writers)
}

func TestConcurrentCommandLocksHaveOneWinner(t *testing.T) {
	t.Parallel()
	adapter := newAdapter(t, enabled())
	for range 20 {
		won := make([]bool, 8)
		backendtest.Together(len(won), func(i int) {
			_, err := adapter.LockCommand(command.Apply, time.Now())
			won[i] = err == nil
		})
		winners := 0
		for _, w := range won {
			if w {
				winners++
			}
		}
		require.Equal(t, 1, winners)
		require.NoError(t, adapter.UnlockCommand(command.Apply))
	}
}
