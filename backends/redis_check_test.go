package backends_test

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
)

// A server that can't keep locks safely is refused with one line that says why.
func TestRedisRefusesServers(t *testing.T) {
	t.Parallel()
	refused := func(t *testing.T, client redis.UniversalClient, line string) {
		t.Helper()
		b := openRedis(t, client, nil)
		err := b.HealthCheck(t.Context())
		require.ErrorIs(t, err, enhanced.ErrBackend)
		require.ErrorContains(t, err, line)
		require.NotContains(t, err.Error(), "\n")
		_, err = b.AcquireLock(t.Context(), by("org/app", ".", "ann"))
		require.ErrorContains(t, err, line)
	}
	t.Run("evicting", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Options{Args: []string{"--maxmemory-policy", "allkeys-lru"}})
		refused(t, server.Client(), "maxmemory-policy is allkeys-lru, so the server may throw locks away; set noeviction")
		require.NoError(t, server.Client().ConfigSet(t.Context(), "maxmemory-policy", "noeviction").Err())
		require.NoError(t, openRedis(t, server.Client(), nil).HealthCheck(t.Context()))
	})
	t.Run("replica", func(t *testing.T) {
		t.Parallel()
		sentinel := redistest.StartSentinel(t, redistest.Options{})
		refused(t, sentinel.Replicas[0].Client(), "the server is a slave; give the address of the primary, or of Sentinel")
	})
	t.Run("cluster", func(t *testing.T) {
		t.Parallel()
		cluster := redistest.StartCluster(t, 3, 0, redistest.Options{})
		refused(t, cluster.Nodes[0].Client(), "the server is part of a cluster; set redis_cluster_mode and use a cluster client")
		options := cluster.Nodes[0].Options()
		options.DB = 2
		client := redis.NewClient(options)
		defer client.Close()
		refused(t, client, "it is part of a cluster, which has database 0 only")
	})
	t.Run("without Lua", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Options{Args: []string{"--rename-command", "EVAL", ""}})
		refused(t, server.Client(), "Lua or another command is switched off")
	})
	t.Run("other prefix", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Options{})
		require.NoError(t, openRedis(t, server.Client(), nil).HealthCheck(t.Context()))
		config := enhanced.DefaultConfig()
		config.RedisKeyPrefix = "other:"
		err := openRedis(t, server.Client(), config).HealthCheck(t.Context())
		require.ErrorContains(t, err, `the server is in use with layout and prefix "2 atlantis:lock:", this process has "2 other:"`)
	})
	t.Run("users", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Options{Secure: redistest.NewSecure(t,
			"user reader on >reader-secret ~* &* -@all +info +ping +get",
			"user nowhere on >nowhere-secret ~other:* &* +@all",
		)})
		for name, c := range map[string]struct{ user, password, line string }{
			"no password":    {"", "", "user or password is wrong or missing"},
			"wrong password": {"reader", "wrong-secret", "user or password is wrong or missing"},
			"few commands":   {"reader", "reader-secret", "missing rights"},
			"no keys":        {"nowhere", "nowhere-secret", "missing rights"},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				options := server.Options()
				options.Username, options.Password = c.user, c.password
				client := redis.NewClient(options)
				defer client.Close()
				refused(t, client, c.line)
				require.NotContains(t, openRedis(t, client, nil).HealthCheck(t.Context()).Error(), "secret")
			})
		}
	})
}

// Each right of the guide that is not there is missed before the first step,
// but for those of Pub/Sub, which is no need, and of the client library.
func TestRedisMissesEachRight(t *testing.T) {
	t.Parallel()
	user := documentedUser(t)
	rights := strings.Fields(user[strings.Index(user, "resetchannels"):])
	server := redistest.Start(t, redistest.Options{Secure: redistest.NewSecure(t)})
	admin := server.Client()
	for i, right := range rights {
		switch right {
		case "resetchannels", "&atlantis:lock:*", "-@all", "+publish", "+subscribe", "+unsubscribe", "+spublish", "+ssubscribe", "+sunsubscribe",
			"+command", "+cluster|slots", "+ping":
			continue
		}
		t.Run(right, func(t *testing.T) {
			t.Parallel()
			name := fmt.Sprint("user", i)
			rule := []any{"acl", "setuser", name, "on", ">" + leastPassword}
			for _, other := range rights {
				if other != right {
					rule = append(rule, other)
				}
			}
			require.NoError(t, admin.Do(t.Context(), rule...).Err())
			options := server.Options()
			options.Username, options.Password = name, leastPassword
			client := redis.NewClient(options)
			defer client.Close()
			config := enhanced.DefaultConfig()
			config.RedisMinReplicasAck = 1 // so that WAIT is needed
			err := openRedis(t, client, config).HealthCheck(t.Context())
			require.ErrorContains(t, err, "missing rights")
		})
	}
}

// A server that was fit at first is looked at again.
func TestRedisHealthOfAChangedServer(t *testing.T) {
	t.Parallel()
	sentinel := redistest.StartSentinel(t, redistest.Options{})
	client := sentinel.Primary.Client()
	b := openRedis(t, client, nil)
	require.NoError(t, b.HealthCheck(t.Context()))
	require.NoError(t, client.ConfigSet(t.Context(), "maxmemory-policy", "allkeys-lru").Err())
	require.ErrorContains(t, b.HealthCheck(t.Context()), "maxmemory-policy is allkeys-lru")
	require.NoError(t, client.ConfigSet(t.Context(), "maxmemory-policy", "noeviction").Err())
	require.NoError(t, b.HealthCheck(t.Context()))
	host, port, err := net.SplitHostPort(sentinel.Replicas[0].Addr)
	require.NoError(t, err)
	require.NoError(t, client.Do(t.Context(), "replicaof", host, port).Err())
	require.ErrorContains(t, b.HealthCheck(t.Context()), "the server is a slave")
}

// What contradicts itself is refused before anything is sent.
func TestRedisRefusesClients(t *testing.T) {
	t.Parallel()
	single := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer single.Close()
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": "127.0.0.1:1"}})
	defer ring.Close()
	cluster := enhanced.DefaultConfig()
	cluster.RedisClusterMode = true
	replicas := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"127.0.0.1:1"}, ReadOnly: true})
	defer replicas.Close()
	broken := enhanced.DefaultConfig()
	broken.RedisKeyPrefix = "a{b}"
	negative := enhanced.DefaultConfig()
	negative.RedisMinReplicasAck = -1
	for name, c := range map[string]struct {
		client redis.UniversalClient
		config *enhanced.EnhancedConfig
		line   string
	}{
		"no client":       {nil, nil, "client is nil"},
		"ring":            {ring, nil, "client is a *redis.Ring"},
		"replicas":        {replicas, cluster, "client reads from replicas (ReadOnly true"},
		"not a cluster":   {single, cluster, "redis_cluster_mode: true contradicts a client for one server (127.0.0.1:1)"},
		"prefix":          {single, broken, `redis_key_prefix: "a{b}" contains a brace`},
		"negative number": {single, negative, "redis_min_replicas_ack: -1 is negative"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := backends.NewRedisBackend(c.client, c.config, nil)
			err := b.HealthCheck(t.Context())
			require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
			require.ErrorContains(t, err, c.line)
			require.NoError(t, b.Close())
		})
	}
}
