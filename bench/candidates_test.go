package bench

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/bsm/redislock"
	"github.com/go-redsync/redsync/v4"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/redis/rueidis/rueidislock"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	stock "github.com/runatlantis/atlantis/server/core/redis"
	"github.com/runatlantis/atlantis/server/events/models"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// errHeld is the answer of a candidate that does not wait.
var errHeld = errors.New("held by another")

// acquire takes a lock and returns what gives it back.
type acquire func(ctx context.Context, lock models.ProjectLock) (release func() error, err error)

// lockTime is the lease of candidates that have no locks without one. It is far
// longer than any lock is held here.
const lockTime = time.Minute

// candidates are lock systems, each on the same Redis server but for etcd.
func candidates() map[string]func(b *testing.B, client *redis.Client) acquire {
	return map[string]func(b *testing.B, client *redis.Client) acquire{
		"adapter":        func(b *testing.B, client *redis.Client) acquire { return throughAdapter(b, client, false) },
		"adapter-mirror": func(b *testing.B, client *redis.Client) acquire { return throughAdapter(b, client, true) },
		"manager":        func(b *testing.B, client *redis.Client) acquire { return throughManager(b, client, false) },
		"manager-mirror": func(b *testing.B, client *redis.Client) acquire { return throughManager(b, client, true) },
		"stock":          throughStock,
		"redsync":        throughRedsync,
		"redislock":      throughRedislock,
		"rueidislock":    throughRueidislock,
		"etcd":           throughEtcd,
	}
}

func newManager(b *testing.B, client redis.UniversalClient, mirror bool) (*enhanced.EnhancedLockManager, *enhanced.LockingAdapter) {
	b.Helper()
	config := enhanced.DefaultConfig()
	config.Enabled, config.Backend, config.PreserveLegacyFormat = true, enhanced.BackendRedis, mirror
	backend := backends.NewRedisBackend(client, config, nil)
	b.Cleanup(func() {
		if err := backend.Close(); err != nil {
			b.Error(err)
		}
	})
	manager := enhanced.NewEnhancedLockManager(backend, config, nil)
	return manager, enhanced.NewLockingAdapter(manager, backend, config, nil, nil)
}

// throughAdapter is as Atlantis itself does it: by pull request, without lease.
func throughAdapter(b *testing.B, client redis.UniversalClient, mirror bool) acquire {
	b.Helper()
	_, adapter := newManager(b, client, mirror)
	return func(_ context.Context, lock models.ProjectLock) (func() error, error) {
		acquired, _, err := adapter.TryLock(lock)
		if err == nil && !acquired {
			err = errHeld
		}
		return func() error {
			_, err := adapter.Unlock(lock.Project, lock.Workspace)
			return err
		}, err
	}
}

// throughManager is as a program does it that has a context.
func throughManager(b *testing.B, client *redis.Client, mirror bool) acquire {
	b.Helper()
	manager, _ := newManager(b, client, mirror)
	return lockingThrough(manager)
}

func lockingThrough(manager *enhanced.EnhancedLockManager) acquire {
	return func(ctx context.Context, lock models.ProjectLock) (func() error, error) {
		held, acquired, err := manager.TryAcquire(ctx, newRequest(lock))
		if err != nil {
			return nil, err
		}
		if !acquired {
			return nil, errHeld
		}
		return func() error {
			_, err := manager.Release(ctx, enhanced.ReleaseRequest{Resource: held.Resource, Owner: held.Owner})
			return err
		}, nil
	}
}

// newRequest asks for a lock by its pull request, without a lease.
func newRequest(lock models.ProjectLock) *enhanced.EnhancedLockRequest {
	return &enhanced.EnhancedLockRequest{
		Project: lock.Project, Workspace: lock.Workspace, User: lock.User, Pull: &lock.Pull, Timeout: enhanced.NoTimeout,
	}
}

func throughStock(b *testing.B, client *redis.Client) acquire {
	b.Helper()
	database, err := stock.NewWithClient(client, "", "")
	if err != nil {
		b.Fatal(err)
	}
	return func(_ context.Context, lock models.ProjectLock) (func() error, error) {
		acquired, _, err := database.TryLock(lock)
		if err == nil && !acquired {
			err = errHeld
		}
		return func() error {
			_, err := database.Unlock(lock.Project, lock.Workspace)
			return err
		}, err
	}
}

func throughRedsync(_ *testing.B, client *redis.Client) acquire {
	sync := redsync.New(goredis.NewPool(client))
	return func(ctx context.Context, lock models.ProjectLock) (func() error, error) {
		mutex := sync.NewMutex(models.GenerateLockKey(lock.Project, lock.Workspace), redsync.WithExpiry(lockTime), redsync.WithTries(1))
		var taken *redsync.ErrTaken
		switch err := mutex.LockContext(ctx); {
		case errors.As(err, &taken):
			return nil, errHeld
		case err != nil:
			return nil, err
		}
		return func() error {
			_, err := mutex.UnlockContext(ctx)
			return err
		}, nil
	}
}

func throughRedislock(_ *testing.B, client *redis.Client) acquire {
	locker := redislock.New(client)
	return func(ctx context.Context, lock models.ProjectLock) (func() error, error) {
		held, err := locker.Obtain(ctx, models.GenerateLockKey(lock.Project, lock.Workspace), lockTime, nil)
		if errors.Is(err, redislock.ErrNotObtained) {
			return nil, errHeld
		}
		if err != nil {
			return nil, err
		}
		return func() error { return held.Release(ctx) }, nil
	}
}

// throughRueidislock has settings in which it does not hang. Without loop tracking
// a locker whose own release makes no event can wait for ever; and so can one whose
// acquire took longer than TryNextAfter, of 20 ms by default, which with 1,024
// callers many do.
func throughRueidislock(b *testing.B, client *redis.Client) acquire {
	b.Helper()
	locker, err := rueidislock.NewLocker(rueidislock.LockerOption{
		ClientOption: rueidis.ClientOption{InitAddress: []string{client.Options().Addr}},
		KeyValidity:  lockTime, KeyMajority: 1, NoLoopTracking: false, TryNextAfter: 2 * time.Second,
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(locker.Close)
	return func(ctx context.Context, lock models.ProjectLock) (func() error, error) {
		_, cancel, err := locker.WithContext(ctx, models.GenerateLockKey(lock.Project, lock.Workspace))
		return func() error {
			cancel()
			return nil
		}, err
	}
}

// throughEtcd uses a server in this process that syncs each write to the disk,
// as etcd does. The Redis server keeps nothing on disk.
func throughEtcd(b *testing.B, _ *redis.Client) acquire {
	b.Helper()
	client := startEtcd(b, false)
	sessions := make(map[int]*concurrency.Session)
	var mu sync.Mutex
	session := func(number int) (*concurrency.Session, error) {
		mu.Lock()
		defer mu.Unlock()
		if sessions[number] == nil {
			s, err := concurrency.NewSession(client)
			if err != nil {
				return nil, err
			}
			sessions[number] = s
		}
		return sessions[number], nil
	}
	return func(ctx context.Context, lock models.ProjectLock) (func() error, error) {
		s, err := session(lock.Pull.Num)
		if err != nil {
			return nil, err
		}
		mutex := concurrency.NewMutex(s, models.GenerateLockKey(lock.Project, lock.Workspace))
		return func() error { return mutex.Unlock(ctx) }, mutex.Lock(ctx)
	}
}

// startEtcd starts a server; one that is unsafe does not wait for its disk.
func startEtcd(b *testing.B, unsafe bool) *clientv3.Client {
	b.Helper()
	config := embed.NewConfig()
	config.Dir, config.LogLevel, config.UnsafeNoFsync = b.TempDir(), "fatal", unsafe
	addresses := make([]url.URL, 2)
	for i := range addresses {
		addresses[i] = url.URL{Scheme: "http", Host: fmt.Sprint("127.0.0.1:", redistest.FreePort(b))}
	}
	config.ListenClientUrls, config.AdvertiseClientUrls = addresses[:1], addresses[:1]
	config.ListenPeerUrls, config.AdvertisePeerUrls = addresses[1:], addresses[1:]
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	server, err := embed.StartEtcd(config)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(server.Close)
	<-server.Server.ReadyNotify()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{addresses[0].String()}, Logger: zap.NewNop()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := client.Close(); err != nil {
			b.Error(err)
		}
	})
	return client
}

// newLock is a lock with a repository of 60 bytes, a path of 40 and a full head
// commit.
func newLock(repository, number int) models.ProjectLock {
	owner := "some-organisation-with-a-name"
	name := fmt.Sprintf("terraform-live-infrastructure-%05d", repository)
	full := owner + "/" + name
	host := models.VCSHost{Hostname: "github.com", Type: models.Github}
	return models.ProjectLock{
		Project:   models.NewProject(full, fmt.Sprintf("environments/production/eu-west/%08d", number), ""),
		Workspace: "default",
		User:      models.User{Username: "some-developer"},
		Time:      time.Now(),
		Pull: models.PullRequest{
			Num: number + 1, HeadCommit: "8f14e45fceea167a5a36dedd4bea2543f6a1b2c3", Author: "some-developer",
			URL:        "https://github.com/" + full + "/pull/" + strconv.Itoa(number+1),
			HeadBranch: "feature/some-change", BaseBranch: "main", State: models.OpenPullState,
			BaseRepo: models.Repo{FullName: full, Owner: owner, Name: name, VCSHost: host},
		},
	}
}
