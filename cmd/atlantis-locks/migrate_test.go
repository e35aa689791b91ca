package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/runatlantis/atlantis/server/core/boltdb"
	"github.com/runatlantis/atlantis/server/core/db"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	stock "github.com/runatlantis/atlantis/server/core/redis"
	"github.com/runatlantis/atlantis/server/events/command"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// place is a store of a test, opened only while it is looked at.
type place struct {
	url    string
	path   string
	client redis.UniversalClient
}

func filePlace(t *testing.T) *place {
	t.Helper()
	path := filepath.Join(t.TempDir(), dataFileName)
	return &place{url: "boltdb:" + path, path: path}
}

func redisPlace(t *testing.T) *place {
	t.Helper()
	server := redistest.Start(t, redistest.Options{})
	return &place{url: "redis://" + server.Addr, client: server.Client()}
}

func clusterPlace(t *testing.T) *place {
	t.Helper()
	cluster := redistest.StartCluster(t, 3, 0, redistest.Options{})
	return &place{url: "redis://" + strings.Join(cluster.Addrs(), ","), client: cluster.Client()}
}

// ours opens the store as this project does.
func (p *place) ours(t *testing.T, use func(b lockStore, status enhanced.StatusStore)) {
	t.Helper()
	config := enhanced.DefaultConfig()
	config.Enabled = true
	if p.client != nil {
		_, config.RedisClusterMode = p.client.(*redis.ClusterClient)
		b := backends.NewRedisBackend(p.client, config, nil)
		use(b, b)
		require.NoError(t, b.Close())
		return
	}
	p.file(t, func(file *bbolt.DB) {
		b, err := backends.NewBoltBackend(file, config, nil)
		require.NoError(t, err)
		use(b, b)
		require.NoError(t, b.Close())
	})
}

func (p *place) file(t *testing.T, use func(file *bbolt.DB)) {
	t.Helper()
	file, err := bbolt.Open(p.path, 0o600, &bbolt.Options{Timeout: time.Second, NoSync: true})
	require.NoError(t, err)
	use(file)
	require.NoError(t, file.Close())
}

// stock opens the store as stock Atlantis does, with its own code.
func (p *place) stock(t *testing.T, use func(database db.Database)) {
	t.Helper()
	if p.client != nil {
		database, err := stock.NewWithClient(p.client.(*redis.Client), "", "")
		require.NoError(t, err)
		use(database)
		return
	}
	database, err := boltdb.New(filepath.Dir(p.path))
	require.NoError(t, err)
	use(database)
	require.NoError(t, database.Close())
}

// bytes is all that the store contains.
func (p *place) bytes(t *testing.T) string {
	t.Helper()
	if p.client == nil {
		content, err := os.ReadFile(p.path)
		if errors.Is(err, os.ErrNotExist) {
			return ""
		}
		require.NoError(t, err)
		return string(content)
	}
	var mu bytes.Buffer
	dump := func(ctx context.Context, node *redis.Client) error {
		keys, err := node.Keys(ctx, "*").Result()
		for _, key := range keys {
			value, dumpErr := node.Dump(ctx, key).Result()
			err = errors.Join(err, dumpErr)
			fmt.Fprintf(&mu, "%s %s\n", key, value)
		}
		return err
	}
	switch client := p.client.(type) {
	case *redis.Client:
		require.NoError(t, dump(t.Context(), client))
	case *redis.ClusterClient:
		for _, addr := range client.Options().Addrs {
			node := redis.NewClient(&redis.Options{Addr: addr, DisableIdentity: true})
			require.NoError(t, dump(t.Context(), node))
			require.NoError(t, node.Close())
		}
	}
	return mu.String()
}

const stockLocks = 60

// fillStock does what stock Atlantis has done with its database.
func fillStock(t *testing.T, p *place) {
	t.Helper()
	p.stock(t, func(database db.Database) {
		for i := range stockLocks {
			acquired, _, err := database.TryLock(stockLock("acme/app"+strconv.Itoa(i%3), "p/"+strconv.Itoa(i), "default", i+1))
			require.NoError(t, err)
			require.True(t, acquired)
		}
		result := command.ProjectResult{Command: command.Plan, RepoRelDir: "p/1", Workspace: "default"}
		result.PlanSuccess = &models.PlanSuccess{}
		_, err := database.UpdatePullWithResults(stockLock("acme/app1", "p/1", "default", 2).Pull, []command.ProjectResult{result})
		require.NoError(t, err)
		_, err = database.LockCommand(command.Apply, time.Unix(1_700_000_000, 0))
		require.NoError(t, err)
	})
}

// requireStock wants what fillStock has made.
func requireStock(t *testing.T, database interface {
	List() ([]models.ProjectLock, error)
	GetPullStatus(models.PullRequest) (*models.PullStatus, error)
	CheckCommandLock(command.Name) (*command.Lock, error)
},
) {
	t.Helper()
	locks, err := database.List()
	require.NoError(t, err)
	require.Len(t, locks, stockLocks)
	for _, lock := range locks {
		want := enhanced.SanitizeProjectLock(stockLock(lock.Project.RepoFullName, lock.Project.Path, lock.Workspace, lock.Pull.Num))
		require.True(t, backends.SameForm(&want, &lock), "%+v", lock)
	}
	status, err := database.GetPullStatus(stockLock("acme/app1", "p/1", "default", 2).Pull)
	require.NoError(t, err)
	require.NotNil(t, status)
	require.Equal(t, models.PlannedPlanStatus, status.Projects[0].Status)
	lock, err := database.CheckCommandLock(command.Apply)
	require.NoError(t, err)
	require.NotNil(t, lock)
	require.EqualValues(t, 1_700_000_000, lock.LockMetadata.UnixTime)
}

// inOurs looks at a store of ours through Atlantis' own methods.
func (p *place) inOurs(t *testing.T, use func(adapter *enhanced.LockingAdapter)) {
	t.Helper()
	p.ours(t, func(b lockStore, _ enhanced.StatusStore) {
		violations, err := b.(enhanced.Verifier).Verify(t.Context())
		require.NoError(t, err)
		require.Empty(t, violations)
		config := enhanced.DefaultConfig()
		config.Enabled = true
		use(enhanced.NewLockingAdapter(enhanced.NewEnhancedLockManager(b, config, nil), b, config, nil, nil))
	})
}

// fillOurs takes locks of every kind.
func fillOurs(t *testing.T, p *place) {
	t.Helper()
	p.ours(t, func(b lockStore, status enhanced.StatusStore) {
		pull := stockLock("acme/infra", ".", "default", 7).Pull
		for i, r := range []*enhanced.EnhancedLockRequest{
			{Pull: &pull, User: models.User{Username: "carol"}, Timeout: enhanced.NoTimeout, Priority: enhanced.PriorityHigh},
			{User: models.User{Username: "alice"}, Timeout: enhanced.NoTimeout, Metadata: map[string]string{enhanced.MetadataNote: "moving the state"}},
			{User: models.User{Username: "bob"}, Timeout: time.Hour, Priority: enhanced.PriorityLow},
			{User: models.User{Username: "carol"}, Timeout: enhanced.NoTimeout, Resource: enhanced.ResourceIdentifier{
				Type: enhanced.ResourceTypeCustom, Namespace: "acme/infra", Path: "anything", Workspace: "x",
			}},
			{Pull: &pull, Timeout: enhanced.NoTimeout, Project: models.NewProject("acme/infra", "ümlaut/a b", "web")},
		} {
			if r.Resource == (enhanced.ResourceIdentifier{}) && r.Project == (models.Project{}) {
				r.Project = models.NewProject("acme/infra", "p/"+strconv.Itoa(i), "")
			}
			if r.Resource == (enhanced.ResourceIdentifier{}) {
				r.Workspace = "default"
			}
			r.RequestedAt = time.Date(2025, 3, 1, 12, 0, i, 0, time.UTC)
			_, acquired, err := b.TryAcquireLock(t.Context(), r)
			require.NoError(t, err)
			require.True(t, acquired)
		}
		lock, _, err := b.TryAcquireLock(t.Context(), &enhanced.EnhancedLockRequest{
			User: models.User{Username: "bob"}, Project: models.NewProject("acme/empty", "x", ""), Workspace: "default", Timeout: time.Hour,
		})
		require.NoError(t, err)
		require.NoError(t, b.ReleaseLock(t.Context(), lock.ID), "a repository without locks has a token all the same")
		_, err = status.UpdatePullWithResults(pull, nil)
		require.NoError(t, err)
	})
}

// snapshotOurs is what two stores have to have in common.
func snapshotOurs(t *testing.T, p *place) (locks map[string]string, tokens map[string]int64) {
	t.Helper()
	locks, tokens = make(map[string]string), make(map[string]int64)
	p.ours(t, func(b lockStore, status enhanced.StatusStore) {
		all, err := b.ListLocks(t.Context())
		require.NoError(t, err)
		for _, l := range all {
			original := *l.OriginalLock
			original.Time = original.Time.UTC()
			form, err := json.Marshal(original)
			require.NoError(t, err)
			lease := "none"
			if l.ExpiresAt != nil {
				lease = time.Until(*l.ExpiresAt).Round(time.Minute).String()
			}
			locks[l.Resource.String()] = fmt.Sprint(l.Owner, l.Priority, l.Metadata, l.State, lease, string(form))
			tokens[l.Resource.Namespace] = max(tokens[l.Resource.Namespace], l.Version)
		}
		found, err := status.GetPullStatus(stockLock("acme/infra", ".", "default", 7).Pull)
		require.NoError(t, err)
		require.NotNil(t, found)
		lock, _, err := b.TryAcquireLock(t.Context(), &enhanced.EnhancedLockRequest{
			User: models.User{Username: "bob"}, Project: models.NewProject("acme/empty", "x", ""), Workspace: "default", Timeout: time.Hour,
		})
		require.NoError(t, err)
		tokens["acme/empty"] = lock.Version
		require.NoError(t, b.ReleaseLock(t.Context(), lock.ID))
		violations, err := b.(enhanced.Verifier).Verify(t.Context())
		require.NoError(t, err)
		require.Empty(t, violations)
	})
	return locks, tokens
}

func migrate(t *testing.T, code int, flags ...string) (report *migrateReport, stderr string) {
	t.Helper()
	report = new(migrateReport)
	got, stdout, stderr := runProgram(t, append([]string{"migrate", "-o", "json"}, flags...)...)
	require.Equal(t, code, got, "%s%s", stdout, stderr)
	if stdout != "" {
		require.NoError(t, json.Unmarshal([]byte(stdout), report))
	}
	require.NotContains(t, stdout+stderr, "hunter2")
	return report, stderr
}

// What stock Atlantis has goes to each kind of store, and back to stock.
func TestMigrateStock(t *testing.T) {
	t.Parallel()
	for name, stores := range map[string]struct{ from, to func(*testing.T) *place }{
		"bbolt to Redis":   {filePlace, redisPlace},
		"Redis to cluster": {redisPlace, clusterPlace},
		"Redis to bbolt":   {redisPlace, filePlace},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from, to := stores.from(t), stores.to(t)
			fillStock(t, from)
			before := from.bytes(t)

			report, _ := migrate(t, 0, "--from", from.url, "--to", to.url, "--dry-run")
			require.EqualValues(t, stockLocks, report.Locks.Taken)
			require.EqualValues(t, 2, report.Written)
			require.Empty(t, to.bytes(t), "a dry run writes nothing")

			report, _ = migrate(t, 0, "--from", from.url, "--to", to.url)
			require.EqualValues(t, stockLocks, report.Locks.Taken)
			require.True(t, report.Compared)
			require.Equal(t, before, from.bytes(t), "the source is only read")
			require.NotContains(t, to.bytes(t), "hunter2")
			to.inOurs(t, func(a *enhanced.LockingAdapter) { requireStock(t, a) })

			// Once more: everything is there already, and nothing is written.
			filled := to.bytes(t)
			report, _ = migrate(t, 0, "--from", from.url, "--to", to.url, "--dry-run")
			require.Equal(t, stockLocks, report.Locks.Already)
			require.Equal(t, filled, to.bytes(t))
			report, _ = migrate(t, 0, "--from", from.url, "--to", to.url, "--update")
			require.Equal(t, stockLocks, report.Locks.Already)
			require.Zero(t, report.Locks.Taken+report.Locks.Released+report.Written)

			// Back, into a new store of stock Atlantis, which its own code reads.
			back := filePlace(t)
			if from.client == nil {
				back = redisPlace(t)
			}
			report, _ = migrate(t, 0, "--from", to.url, "--to", "stock+"+back.url)
			require.EqualValues(t, stockLocks, report.Locks.Taken)
			back.stock(t, func(database db.Database) { requireStock(t, database) })
			require.NotContains(t, back.bytes(t), "enhanced")
			require.NotContains(t, back.bytes(t), "atlantis:lock:")
			report, _ = migrate(t, 0, "--from", to.url, "--to", "stock+"+back.url)
			require.Equal(t, stockLocks, report.Locks.Already)
			require.Zero(t, report.Locks.Taken)
		})
	}
}

// What this project has goes round all of its stores.
func TestMigrateOurs(t *testing.T) {
	t.Parallel()
	stores := []*place{filePlace(t), redisPlace(t), clusterPlace(t), filePlace(t)}
	fillOurs(t, stores[0])
	want, tokens := snapshotOurs(t, stores[0])
	require.Len(t, want, 5)
	for i := range len(stores) - 1 {
		from, to := stores[i], stores[i+1]
		report, _ := migrate(t, 0, "--from", from.url, "--to", to.url)
		require.EqualValues(t, len(want), report.Locks.Taken)
		got, later := snapshotOurs(t, to)
		require.Equal(t, want, got)
		for repository, token := range tokens {
			require.Greater(t, later[repository], token, "tokens go on in %s", repository)
		}
		tokens = later
		require.Contains(t, to.bytes(t), "migrated:")
	}
	// Leases and what is no project have no place in stock's store.
	back := filePlace(t)
	report, _ := migrate(t, exitViolations, "--from", stores[1].url, "--to", "stock+"+back.url)
	require.EqualValues(t, len(want)-2, report.Locks.Taken)
	require.Len(t, report.Differences, 2)
}

// Tokens go on above those of a source whose clock is ahead.
func TestMigrateTokens(t *testing.T) {
	t.Parallel()
	from, to := filePlace(t), redisPlace(t)
	ahead := time.Now().Add(time.Hour).UnixMicro()
	fillOurs(t, from)
	from.ours(t, func(b lockStore, _ enhanced.StatusStore) {
		require.NoError(t, b.RaiseToken(t.Context(), "acme/infra", ahead))
	})
	migrate(t, 0, "--from", from.url, "--to", to.url)
	_, tokens := snapshotOurs(t, to)
	for repository, token := range tokens {
		require.Greater(t, token, ahead, repository)
	}
	// One that can't be counted from is refused, before any lock is taken.
	from.file(t, func(file *bbolt.DB) {
		require.NoError(t, file.Update(func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("enhanced")).Put([]byte("token"), []byte("\x7fxxxxxxx"))
		}))
	})
	to = redisPlace(t)
	report, stderr := migrate(t, exitError, "--from", from.url, "--to", to.url)
	require.Contains(t, stderr, "can't be carried")
	require.False(t, report.Compared)
	require.NotContains(t, to.bytes(t), "migrated:")
}

// Locks that the target has stay, and one that excludes another is told.
func TestMigrateIntoUsed(t *testing.T) {
	t.Parallel()
	from, to := filePlace(t), redisPlace(t)
	fillStock(t, from)
	to.ours(t, func(b lockStore, status enhanced.StatusStore) {
		for _, repository := range []string{"acme/app1", "acme/other"} {
			_, acquired, err := b.TryAcquireLock(t.Context(), &enhanced.EnhancedLockRequest{
				Project: models.NewProject(repository, "p/1", ""), Workspace: "default", User: models.User{Username: "zoe"}, Timeout: enhanced.NoTimeout,
			})
			require.NoError(t, err)
			require.True(t, acquired)
		}
		_, err := status.UpdatePullWithResults(stockLock("acme/app1", "p/1", "default", 2).Pull, nil)
		require.NoError(t, err)
	})
	for _, flags := range [][]string{{"--dry-run"}, {"--delete-source"}, nil} {
		report, _ := migrate(t, exitViolations, append([]string{"--from", from.url, "--to", to.url}, flags...)...)
		require.Len(t, report.Differences, 2, "%+v", report.Differences)
		require.Equal(t, "acme/app1 (path p/1, workspace default)", report.Differences[0].Record)
		require.Contains(t, report.Differences[0].Detail, "locked by user zoe")
		require.Equal(t, "status", report.Differences[1].What)
		require.False(t, report.SourceDeleted)
	}
	from.stock(t, func(database db.Database) { requireStock(t, database) })
	to.ours(t, func(b lockStore, _ enhanced.StatusStore) {
		locks, err := b.ListLocks(t.Context())
		require.NoError(t, err)
		require.Len(t, locks, stockLocks+1)
	})
}

// A record that can't be read is named, and the others are carried.
func TestMigrateDamaged(t *testing.T) {
	t.Parallel()
	from, to := filePlace(t), redisPlace(t)
	fillStock(t, from)
	fillOurs(t, from)
	from.file(t, func(file *bbolt.DB) {
		require.NoError(t, file.Update(func(tx *bbolt.Tx) error {
			ours := tx.Bucket([]byte("enhanced")).Bucket([]byte(enhanced.RepositoryTag("acme/infra")))
			return errors.Join(
				tx.Bucket([]byte(stockLocksBucket)).Put([]byte("acme/bad/x/default/"), []byte(`{"hunter2`)),
				ours.Put([]byte("lproject/p%2F1/default/"), []byte("hunter2")),
				tx.Bucket([]byte("pulls")).Put([]byte("github.com::acme/bad::1"), []byte("hunter2")),
				tx.Bucket([]byte(stockCommandsBucket)).Put([]byte("plan/lock"), []byte("hunter2")),
			)
		}))
	})
	report, _ := migrate(t, exitViolations, "--from", from.url, "--to", to.url)
	require.EqualValues(t, stockLocks+4, report.Locks.Taken)
	var named []string
	for _, d := range report.Differences {
		named = append(named, d.Record)
	}
	tag := enhanced.RepositoryTag("acme/infra")
	require.Subset(t, named, []string{
		"runLocks/acme/bad/x/default/", "enhanced/" + tag + "/lproject/p%2F1/default/", "pulls/github.com::acme/bad::1", "globalLocks/plan/lock",
	})
	require.NotContains(t, to.bytes(t), "hunter2")
}

// Stores that overlap are refused, whatever they are called.
func TestMigrateOverlap(t *testing.T) {
	t.Parallel()
	file, server := filePlace(t), redisPlace(t)
	fillStock(t, file)
	fillStock(t, server)
	link := filepath.Join(t.TempDir(), "other.db")
	require.NoError(t, os.Link(file.path, link))
	for _, urls := range [][2]string{
		{file.url, file.url}, {file.url, "boltdb:" + link}, {file.url, "stock+boltdb:" + link},
		{server.url, server.url}, {server.url, "stock+" + server.url},
		{server.url, strings.Replace(server.url, "127.0.0.1", "localhost", 1) + "?prefix=other:"},
	} {
		_, stderr := migrate(t, exitError, "--from", urls[0], "--to", urls[1])
		require.Contains(t, stderr, "overlap", "%v", urls)
	}
	// Another database of the server is another store.
	migrate(t, 0, "--from", server.url, "--to", server.url+"/1")
}

// An emptied source has nothing left of what was carried.
func TestMigrateDeletesSource(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		from *place
		fill func(*testing.T, *place)
	}{
		"stock's file": {filePlace(t), fillStock}, "stock's Redis": {redisPlace(t), fillStock},
		"our file": {filePlace(t), fillOurs}, "our Redis": {redisPlace(t), fillOurs},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			to := filePlace(t)
			c.fill(t, c.from)
			report, _ := migrate(t, 0, "--from", c.from.url, "--to", to.url, "--delete-source")
			require.True(t, report.SourceDeleted)
			report, _ = migrate(t, exitViolations, "--from", c.from.url, "--to", to.url, "--dry-run")
			require.Zero(t, report.Locks.Source+report.Statuses+report.CommandLocks)
			for _, d := range report.Differences {
				require.Regexp(t, "--update|only the target", d.Detail, "what is gone from the source stays in the target")
			}
		})
	}
}

// What an earlier run has carried follows the source with --update alone.
func TestMigrateUpdate(t *testing.T) {
	t.Parallel()
	from, to := redisPlace(t), filePlace(t)
	fillStock(t, from)
	migrate(t, 0, "--from", from.url, "--to", to.url)
	from.stock(t, func(database db.Database) {
		for _, pull := range []int{1, 2} {
			_, err := database.UnlockByPull("acme/app"+strconv.Itoa(pull-1), pull)
			require.NoError(t, err)
		}
		acquired, _, err := database.TryLock(stockLock("acme/app1", "p/1", "default", 99))
		require.NoError(t, err)
		require.True(t, acquired)
		require.NoError(t, database.UpdateProjectStatus(stockLock("acme/app1", "p/1", "default", 2).Pull, "default", "p/1", models.AppliedPlanStatus))
	})
	report, _ := migrate(t, exitViolations, "--from", from.url, "--to", to.url)
	require.Len(t, report.Differences, 3, "%+v", report.Differences)
	for _, d := range report.Differences {
		require.Contains(t, d.Detail, "--update")
	}
	report, _ = migrate(t, 0, "--from", from.url, "--to", to.url, "--update")
	require.EqualValues(t, 2, report.Locks.Released)
	require.EqualValues(t, 1, report.Locks.Taken)
	require.EqualValues(t, 1, report.Written)
}

// The same of a damaged record in Redis.
func TestMigrateDamagedRedis(t *testing.T) {
	t.Parallel()
	from, to := redisPlace(t), filePlace(t)
	fillOurs(t, from)
	state := "atlantis:lock:{" + enhanced.RepositoryTag("acme/infra") + "}:state"
	for field, value := range map[string]string{"lproject/p%2F1/default/": "hunter2", "dproject/p%2F2/default/": "hunter2"} {
		require.NoError(t, from.client.HSet(t.Context(), state, field, value).Err())
	}
	require.NoError(t, from.client.LPush(t.Context(), "pr/acme/list/x/default/", "hunter2").Err())
	report, _ := migrate(t, exitViolations, "--from", from.url, "--to", to.url)
	require.EqualValues(t, 3, report.Locks.Taken)
	require.Len(t, report.Differences, 3, "%+v", report.Differences)
	require.NotContains(t, to.bytes(t), "hunter2")
}

// A migration that is killed goes on where it was.
func TestMigrateKilled(t *testing.T) {
	t.Parallel()
	from, to := filePlace(t), redisPlace(t)
	fillMany(t, from, 2000)
	killed := false
	for range 20 {
		program := exec.CommandContext(t.Context(), "atlantis-locks", "migrate", "--from", from.url, "--to", to.url)
		require.NoError(t, program.Start())
		// Until something has been carried.
		deadline := time.Now().Add(20 * time.Second)
		for carried := int64(0); carried < 200 && time.Now().Before(deadline); runtime.Gosched() {
			var err error
			carried, err = to.client.DBSize(t.Context()).Result()
			require.NoError(t, err)
		}
		require.NoError(t, program.Process.Kill())
		if killed = program.Wait() != nil; killed {
			break
		}
		require.NoError(t, to.client.FlushAll(t.Context()).Err())
	}
	require.True(t, killed, "every run was faster")
	report, _ := migrate(t, 0, "--from", from.url, "--to", to.url)
	t.Logf("%d were there already", report.Locks.Already)
	require.Equal(t, 2000, report.Locks.Already+int(report.Locks.Taken))
	require.NotZero(t, report.Locks.Taken)
	require.NotZero(t, report.Locks.Already)
	to.ours(t, func(b lockStore, _ enhanced.StatusStore) {
		locks, err := b.ListLocks(t.Context())
		require.NoError(t, err)
		require.Len(t, locks, 2000)
		violations, err := b.(enhanced.Verifier).Verify(t.Context())
		require.NoError(t, err)
		require.Empty(t, violations)
	})
}

// fillMany is what stock Atlantis writes into a file for n locks.
func fillMany(t *testing.T, p *place, n int) {
	t.Helper()
	fillStock(t, p)
	p.file(t, func(file *bbolt.DB) {
		require.NoError(t, file.Update(func(tx *bbolt.Tx) error {
			bucket := tx.Bucket([]byte(stockLocksBucket))
			for i := stockLocks; i < n; i++ {
				lock := stockLock("acme/app"+strconv.Itoa(i%100), "p/"+strconv.Itoa(i), "default", i+1)
				text, err := json.Marshal(lock)
				if err == nil {
					err = bucket.Put([]byte(models.GenerateLockKey(lock.Project, lock.Workspace)), text)
				}
				if err != nil {
					return err
				}
			}
			return nil
		}))
	})
}

// A source that is in use is read until two readings agree.
func TestMigrateLive(t *testing.T) {
	t.Parallel()
	from, to := redisPlace(t), filePlace(t)
	fillStock(t, from)
	started, stop, stopped := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		database, err := stock.NewWithClient(from.client.(*redis.Client), "", "")
		if err != nil {
			t.Error(err)
			return
		}
		for i := 0; ; i++ {
			lock := stockLock("acme/live", "p/"+strconv.Itoa(i%7), "default", 1000+i)
			if _, _, err := database.TryLock(lock); err != nil {
				t.Error(err)
			}
			if i%7 == 6 {
				for j := i - 6; j <= i; j++ {
					if _, err := database.UnlockByPull("acme/live", 1000+j); err != nil {
						t.Error(err)
					}
				}
			}
			if i == 20 {
				close(started)
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	<-started
	// While it goes on, what has changed last is at most a difference.
	code, stdout, stderr := runProgram(t, "migrate", "--from", from.url, "--to", to.url)
	require.Contains(t, []int{0, exitViolations}, code, "%s%s", stdout, stderr)
	close(stop)
	<-stopped
	// The final pass, once nobody uses the source.
	report, _ := migrate(t, 0, "--from", from.url, "--to", to.url, "--update")
	require.Equal(t, 2, report.Passes, "two readings")
	require.Empty(t, report.Differences)
	locks := 0
	from.stock(t, func(database db.Database) {
		all, err := database.List()
		require.NoError(t, err)
		locks = len(all)
	})
	to.ours(t, func(b lockStore, _ enhanced.StatusStore) {
		all, err := b.ListLocks(t.Context())
		require.NoError(t, err)
		require.Len(t, all, locks)
	})
}

// 100,000 locks take less than a minute.
func TestMigrateLarge(t *testing.T) {
	if os.Getenv(backendtest.FullRounds) != "1" {
		t.Skip("100,000 locks; set ATLANTIS_LOCKS_TEST_FULL=1")
	}
	from := filePlace(t)
	fillMany(t, from, 100_000)
	for _, to := range []*place{redisPlace(t), filePlace(t)} {
		start := time.Now()
		report, _ := migrate(t, 0, "--from", from.url, "--to", to.url)
		require.EqualValues(t, 100_000, report.Locks.Taken)
		t.Logf("%v to %s", time.Since(start), to.url)
		require.Less(t, time.Since(start), time.Minute)
	}
}

// Who waits is counted and not carried; what a waiter has been given is carried
// as its lock, without the time in which it has to be claimed.
func TestMigrateQueue(t *testing.T) {
	t.Parallel()
	for name, from := range map[string]*place{"file": filePlace(t), "Redis": redisPlace(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			to, pending := filePlace(t), 0
			from.ours(t, func(b lockStore, _ enhanced.StatusStore) {
				config := enhanced.DefaultConfig()
				config.Enabled, config.EnablePriorityQueue = true, true
				require.NoError(t, b.UpdateConfiguration(config))
				request := func(pull int) *enhanced.EnhancedLockRequest {
					p := stockLock("acme/infra", ".", "default", pull).Pull
					return &enhanced.EnhancedLockRequest{Pull: &p, Project: models.NewProject("acme/infra", ".", ""), Workspace: "default", Timeout: enhanced.NoTimeout, Detached: true}
				}
				first, _, err := b.TryAcquireLock(t.Context(), request(1))
				require.NoError(t, err)
				if from.client == nil {
					for _, pull := range []int{2, 3} {
						_, acquired, err := b.TryAcquireLock(t.Context(), request(pull))
						require.NoError(t, err)
						require.False(t, acquired)
					}
					require.NoError(t, b.ReleaseLock(t.Context(), first.ID))
					pending = 2
					return
				}
				// Calls wait on Redis; nothing is left of them when their store closes.
				ctx, cancel := context.WithCancel(t.Context())
				gone := make(chan error)
				go func() {
					_, err := b.AcquireLock(ctx, request(2))
					gone <- err
				}()
				require.Eventually(t, func() bool {
					status, err := b.GetQueueStatus(t.Context())
					return err == nil && status.Size == 1
				}, 10*time.Second, 5*time.Millisecond)
				report, _ := migrate(t, 0, "--from", from.url, "--to", to.url)
				require.Equal(t, 1, report.NotCarried.Waiters)
				cancel()
				require.Error(t, <-gone)
			})
			if pending == 0 {
				return
			}
			report, _ := migrate(t, 0, "--from", from.url, "--to", to.url)
			require.Equal(t, 1, report.NotCarried.Waiters)
			to.ours(t, func(b lockStore, _ enhanced.StatusStore) {
				locks, err := b.ListLocks(t.Context())
				require.NoError(t, err)
				require.Len(t, locks, 1)
				require.Equal(t, pending, locks[0].OriginalLock.Pull.Num)
				require.Nil(t, locks[0].ExpiresAt)
				require.Equal(t, enhanced.LockStateAcquired, locks[0].State)
			})
		})
	}
}

// What changes between two readings is followed, in a store of ours and in one of
// stock's: what the same run has put there is its own.
func TestMigrateFollows(t *testing.T) {
	t.Parallel()
	for name, scheme := range map[string]string{"ours": "", "stock's": stockScheme} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from, to := redisPlace(t), filePlace(t)
			fillStock(t, from)
			env := environment{stderr: io.Discard, getenv: func(string) string { return "" }}
			o := migrateOptions{from: from.url, to: scheme + to.url}
			source, target, err := o.stores(&cobra.Command{}, env)
			require.NoError(t, err)
			m := newMigration(source, target, &migrateReport{}, env)
			m.actor = "user:ann"
			require.NoError(t, target.open(false, true, env))
			require.NoError(t, target.prepare(t.Context(), scheme == ""))
			first, err := source.inventory(t.Context())
			require.NoError(t, err)
			from.stock(t, func(database db.Database) {
				_, err := database.UnlockByPull("acme/app0", 1)
				require.NoError(t, err)
				_, err = database.UnlockByPull("acme/app1", 2)
				require.NoError(t, err)
				_, _, err = database.TryLock(stockLock("acme/app1", "p/1", "default", 99))
				require.NoError(t, err)
				require.NoError(t, database.DeletePullStatus(stockLock("acme/app1", "p/1", "default", 2).Pull))
				require.NoError(t, database.UnlockCommand(command.Apply))
			})
			last, err := m.carry(t.Context(), first)
			require.NoError(t, err)
			require.Equal(t, 3, m.report.Passes, "one of what was, and two that agree")
			have, err := target.inventory(t.Context())
			require.NoError(t, err)
			m.compare(last, have)
			require.Empty(t, m.report.Differences)
			require.Len(t, have.Locks, stockLocks-1)
			require.Empty(t, have.Statuses)
			require.Empty(t, have.CommandLocks)
			require.NoError(t, errors.Join(source.close(), target.close()))
		})
	}
}

// One that is cancelled says how far it came, and goes on the next time.
func TestMigrateCancelled(t *testing.T) {
	t.Parallel()
	from, to := redisPlace(t), redisPlace(t)
	fillStock(t, from)
	env := environment{stderr: io.Discard, getenv: func(string) string { return "" }}
	o := migrateOptions{from: from.url, to: to.url}
	ctx, cancel := context.WithCancel(t.Context())
	carry := func() (*migrateReport, error) {
		source, target, err := o.stores(&cobra.Command{}, env)
		require.NoError(t, err)
		m := newMigration(source, target, &migrateReport{}, env)
		require.NoError(t, target.prepare(t.Context(), true))
		target.backend = &cancelling{lockStore: target.backend, after: 20, cancel: cancel}
		_, err = o.run(ctx, m)
		m.report.settle()
		require.NoError(t, errors.Join(source.close(), target.close()))
		return m.report, err
	}
	report, err := carry()
	require.ErrorIs(t, err, context.Canceled)
	require.False(t, report.Compared)
	require.Less(t, report.Locks.Taken, int64(stockLocks))
	report2, _ := migrate(t, 0, "--from", from.url, "--to", to.url)
	require.Equal(t, stockLocks, report2.Locks.Already+int(report2.Locks.Taken))
	require.GreaterOrEqual(t, report2.Locks.Already, int(report.Locks.Taken))
}

// cancelling ends the migration's context after some locks.
type cancelling struct {
	lockStore
	after  int64
	calls  atomic.Int64
	cancel func()
}

func (c *cancelling) TryAcquireLock(ctx context.Context, request *enhanced.EnhancedLockRequest) (*enhanced.EnhancedLock, bool, error) {
	if c.calls.Add(1) == c.after {
		c.cancel()
	}
	return c.lockStore.TryAcquireLock(ctx, request)
}
