package enhanced_test

import (
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/runatlantis/atlantis/server/core/boltdb"
	"github.com/runatlantis/atlantis/server/core/db"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/command"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// stockOn returns stock Atlantis' database on the file, its buckets made.
func stockOn(t *testing.T, file *bbolt.DB) *boltdb.BoltDB {
	t.Helper()
	require.NoError(t, file.Update(func(tx *bbolt.Tx) error {
		for _, name := range stockBuckets() {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		return nil
	}))
	stock, err := boltdb.NewWithDB(file, "runLocks", "globalLocks")
	require.NoError(t, err)
	return stock
}

func stockBuckets() []string { return []string{"runLocks", "pulls", "globalLocks"} }

// dump returns every key and value of the buckets.
func dump(t *testing.T, file *bbolt.DB, buckets ...string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	require.NoError(t, file.View(func(tx *bbolt.Tx) error {
		for _, name := range buckets {
			err := tx.Bucket([]byte(name)).ForEach(func(key, value []byte) error {
				all[name+"/"+string(key)] = string(value)
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	}))
	return all
}

// databaseScript calls every method of a database in each of its cases and
// returns what it answered.
func databaseScript(database db.Database) []string {
	var answers []string
	note := func(method string, results ...any) {
		text := method + ":"
		for _, result := range results {
			if value := reflect.ValueOf(result); value.Kind() == reflect.Pointer && !value.IsNil() {
				if _, isError := result.(error); !isError {
					result = value.Elem().Interface()
				}
			}
			text += fmt.Sprintf(" %+v", result)
		}
		answers = append(answers, text)
	}
	at := time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)
	lock := func(number int, path string) models.ProjectLock {
		l := pullLock(number, path)
		l.Time = at
		return l
	}
	results := []command.ProjectResult{{
		Command: command.Plan, RepoRelDir: "a", Workspace: workspace,
		ProjectCommandOutput: command.ProjectCommandOutput{PlanSuccess: &models.PlanSuccess{TerraformOutput: "No changes."}},
	}}

	for _, l := range []models.ProjectLock{lock(5, "a"), lock(5, "a"), lock(6, "a"), lock(6, "./b/"), lock(5, "c"), lock(0, "c"), {}} {
		acquired, current, err := database.TryLock(l)
		note("TryLock", acquired, current, err)
	}
	for _, path := range []string{"a", "b", "./b/", "none"} {
		l, err := database.GetLock(models.Project{RepoFullName: repo, Path: path}, workspace)
		note("GetLock", l, err)
	}
	l, err := database.UnlockIfOwnedByPull(project("a"), workspace, 6)
	note("UnlockIfOwnedByPull", l, err)
	l, err = database.UnlockIfOwnedByPull(project("a"), workspace, 5)
	note("UnlockIfOwnedByPull", l, err)
	locks, err := database.List()
	note("List", locks, err)
	l, err = database.Unlock(project("c"), workspace)
	note("Unlock", l, err)
	l, err = database.Unlock(project("c"), workspace)
	note("Unlock", l, err)
	locks, err = database.UnlockByPull(repo, 6)
	note("UnlockByPull", locks, err)
	locks, err = database.UnlockByPull(repo, 6)
	note("UnlockByPull", locks, err)

	status, err := database.GetPullStatus(pull(5))
	note("GetPullStatus", status, err)
	updated, err := database.UpdatePullWithResults(pull(5), results)
	note("UpdatePullWithResults", updated, err)
	note("UpdateProjectStatus", database.UpdateProjectStatus(pull(5), workspace, "a", models.AppliedPlanStatus))
	status, err = database.GetPullStatus(pull(5))
	note("GetPullStatus", status, err)
	note("DeletePullStatus", database.DeletePullStatus(pull(5)))
	updated, err = database.UpdatePullWithResults(pull(7), results)
	note("UpdatePullWithResults", updated, err)

	for range 2 {
		locked, err := database.LockCommand(command.Apply, at)
		note("LockCommand", locked, err)
	}
	locked, err := database.CheckCommandLock(command.Apply)
	note("CheckCommandLock", locked, err)
	for range 2 {
		note("UnlockCommand", database.UnlockCommand(command.Apply))
	}
	locked, err = database.CheckCommandLock(command.Apply)
	note("CheckCommandLock", locked, err)
	note("Ping", database.Ping())
	return answers
}

func TestDisabledAdapterIsTheLegacyDatabase(t *testing.T) {
	t.Parallel()
	stockFile, ourFile := openFile(t), openFile(t)
	want := databaseScript(stockOn(t, stockFile))

	config := enhanced.DefaultConfig()
	backend := newBackendOn(t, ourFile, config)
	manager := newManagerOn(t, backend, config)
	adapter := enhanced.NewLockingAdapter(manager, backend, config, stockOn(t, ourFile), nil)
	require.Equal(t, want, databaseScript(adapter))
	require.Equal(t, dump(t, stockFile, stockBuckets()...), dump(t, ourFile, stockBuckets()...), "byte for byte")
	require.Contains(t, fmt.Sprint(dump(t, ourFile, "pulls")), credential, "stock's faults included")
	require.Len(t, dump(t, ourFile, "enhanced"), 1, "only the marker of the format")

	require.NoError(t, adapter.Close())
	require.ErrorContains(t, adapter.Ping(), "database not open")
}

func TestDisabledAdapterRefusesEnhancedLocks(t *testing.T) {
	t.Parallel()
	file := openFile(t)
	backend := newBackendOn(t, file, nil)
	manager := newManagerOn(t, backend, nil)
	adapter := enhanced.NewLockingAdapter(manager, backend, nil, stockOn(t, file), nil)
	require.False(t, adapter.IsEnhancedModeEnabled())

	_, err := adapter.LockWithPriority(t.Context(), project("a"), workspace, alice(), enhanced.PriorityHigh)
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
	require.ErrorContains(t, err, "enabled: false")
	_, err = adapter.LockWithTimeout(t.Context(), project("a"), workspace, alice(), time.Minute)
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)

	// Looking at the enhanced store is what one does before switching on.
	require.NoError(t, adapter.HealthCheck(t.Context()))
	s, err := adapter.GetEnhancedStats(t.Context())
	require.NoError(t, err)
	require.Equal(t, 100, s.HealthScore)
	_, err = adapter.GetQueuePosition(t.Context(), project("a"), workspace)
	require.NoError(t, err)
}

func TestDisabledAdapterWithoutLegacyDatabase(t *testing.T) {
	t.Parallel()
	backend := newBackend(t, nil)
	manager := newManagerOn(t, backend, nil)
	adapter := enhanced.NewLockingAdapter(manager, backend, nil, nil, nil)
	for name, call := range lockCalls(adapter) {
		err := call()
		require.ErrorIs(t, err, enhanced.ErrInvalidRequest, name)
		require.ErrorContains(t, err, "enabled: false", name)
	}
	err := adapter.Ping()
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest, "it can serve nobody")
	require.ErrorContains(t, err, "enabled: false")
	require.ErrorContains(t, err, "no legacy database")

	require.NoError(t, adapter.UpdateConfiguration(enabled()))
	require.NoError(t, adapter.Ping())
}

func TestSwitchingKeepsLocks(t *testing.T) {
	t.Parallel()
	file := openFile(t)
	backend := newBackendOn(t, file, nil)
	manager := newManagerOn(t, backend, nil)
	adapter := enhanced.NewLockingAdapter(manager, backend, nil, stockOn(t, file), nil)

	take := func(number int, path string) (bool, models.ProjectLock) {
		acquired, current, err := adapter.TryLock(pullLock(number, path))
		require.NoError(t, err)
		return acquired, current
	}
	acquired, _ := take(5, "before")
	require.True(t, acquired)

	require.NoError(t, adapter.UpdateConfiguration(enabled()))
	require.True(t, adapter.IsEnhancedModeEnabled())
	acquired, current := take(6, "before")
	require.False(t, acquired, "stock's lock is honoured")
	require.Equal(t, 5, current.Pull.Num)
	acquired, _ = take(5, "after")
	require.True(t, acquired)

	require.NoError(t, adapter.UpdateConfiguration(enhanced.DefaultConfig()))
	require.False(t, adapter.IsEnhancedModeEnabled())
	for _, path := range []string{"before", "after"} {
		acquired, current = take(6, path)
		require.False(t, acquired, "stock honours ours")
		require.Equal(t, 5, current.Pull.Num)
	}
	released, err := adapter.UnlockByPull(repo, 5)
	require.NoError(t, err)
	require.Len(t, released, 2)

	require.NoError(t, adapter.UpdateConfiguration(enabled()))
	locks, err := adapter.List()
	require.NoError(t, err)
	require.Empty(t, locks, "what stock has released is released")
}

// lockCalls returns the methods of db.Database that work on locks.
func lockCalls(database db.Database) map[string]func() error {
	return map[string]func() error{
		"TryLock":             func() error { _, _, err := database.TryLock(pullLock(5, "a")); return err },
		"Unlock":              func() error { _, err := database.Unlock(project("a"), workspace); return err },
		"UnlockIfOwnedByPull": func() error { _, err := database.UnlockIfOwnedByPull(project("a"), workspace, 5); return err },
		"List":                func() error { _, err := database.List(); return err },
		"GetLock":             func() error { _, err := database.GetLock(project("a"), workspace); return err },
		"UnlockByPull":        func() error { _, err := database.UnlockByPull(repo, 5); return err },
	}
}

// statusCalls returns the methods of db.Database that work on something else.
func statusCalls(database db.Database) map[string]func() error {
	return map[string]func() error{
		"UpdatePullWithResults": func() error { _, err := database.UpdatePullWithResults(pull(5), nil); return err },
		"UpdateProjectStatus": func() error {
			return database.UpdateProjectStatus(pull(5), workspace, "a", models.AppliedPlanStatus)
		},
		"GetPullStatus":    func() error { _, err := database.GetPullStatus(pull(5)); return err },
		"DeletePullStatus": func() error { return database.DeletePullStatus(pull(5)) },
		"command locks": func() error {
			_, lockErr := database.LockCommand(command.Apply, time.Now())
			_, checkErr := database.CheckCommandLock(command.Apply)
			return errors.Join(lockErr, checkErr, database.UnlockCommand(command.Apply))
		},
	}
}

// Every method of db.Database is in the calls above or is Ping or Close, so
// that a new one can't be forgotten.
func TestScriptsCoverTheWholeInterface(t *testing.T) {
	t.Parallel()
	covered := map[string]bool{"Ping": true, "Close": true, "LockCommand": true, "CheckCommandLock": true, "UnlockCommand": true}
	for name := range lockCalls(nil) {
		covered[name] = true
	}
	for name := range statusCalls(nil) {
		covered[name] = true
	}
	typ := reflect.TypeFor[db.Database]()
	for i := range typ.NumMethod() {
		require.True(t, covered[typ.Method(i).Name], typ.Method(i).Name)
	}
}
