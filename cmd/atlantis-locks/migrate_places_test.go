package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/runatlantis/atlantis/server/core/boltdb"
	"github.com/runatlantis/atlantis/server/core/db"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	stock "github.com/runatlantis/atlantis/server/core/redis"
	"github.com/runatlantis/atlantis/server/events/command"
	"github.com/runatlantis/atlantis/server/events/models"
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
			{
				Pull: &pull, User: models.User{Username: "carol"}, Timeout: enhanced.NoTimeout, Priority: enhanced.PriorityHigh,
				Metadata: map[string]string{enhanced.MetadataCopiedFrom: "legacy database"},
			},
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
