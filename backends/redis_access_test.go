package backends_test

import (
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends/backendtest"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
)

const (
	leastUser     = "atlantis-locks"
	leastPassword = "least-secret"
)

// documentedUser is the user of the operator's guide.
func documentedUser(t *testing.T) string {
	t.Helper()
	return documented(t, leastUser)
}

// documented is a user of the operator's guide, with the least password.
func documented(t *testing.T, user string) string {
	t.Helper()
	guide, err := os.ReadFile("../docs/redis.md")
	require.NoError(t, err)
	line := regexp.MustCompile(`(?m)^user ` + user + ` .*$`).FindString(string(guide))
	require.Contains(t, line, ">PASSWORD")
	return strings.Replace(line, "PASSWORD", leastPassword, 1)
}

// The suite passes with the rights of the guide, over TLS with certificates on
// both sides.
func TestRedisLeastRights(t *testing.T) {
	t.Parallel()
	secure := redistest.Options{Secure: redistest.NewSecure(t, documentedUser(t))}
	t.Run("single", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, secure)
		options := server.Options()
		options.Username, options.Password = leastUser, leastPassword
		options.DialTimeout, options.ReadTimeout, options.WriteTimeout = serverPatience, serverPatience, serverPatience
		client := redis.NewClient(options)
		t.Cleanup(func() { require.NoError(t, client.Close()) })
		runAsLeastUser(t, client, nil, func() error { return server.Client().FlushAll(t.Context()).Err() })
	})
	t.Run("Sentinel, confirmed", func(t *testing.T) {
		t.Parallel()
		sentinel := redistest.StartSentinel(t, secure)
		options := sentinel.Options()
		options.Username, options.Password = leastUser, leastPassword
		options.DialTimeout, options.ReadTimeout, options.WriteTimeout = serverPatience, serverPatience, serverPatience
		client := redis.NewFailoverClient(options)
		client.AddHook(patientReplicas(new(atomic.Bool)))
		t.Cleanup(func() { require.NoError(t, client.Close()) })
		confirmed := func(c *enhanced.EnhancedConfig) { c.RedisMinReplicasAck = 1 }
		runAsLeastUser(t, client, confirmed, func() error { return sentinel.Client().FlushAll(t.Context()).Err() })
	})
	t.Run("cluster", func(t *testing.T) {
		t.Parallel()
		cluster := redistest.StartCluster(t, 3, 1, secure)
		options := cluster.Options()
		options.Username, options.Password = leastUser, leastPassword
		options.DialTimeout, options.ReadTimeout, options.WriteTimeout = serverPatience, serverPatience, serverPatience
		client := redis.NewClusterClient(options)
		t.Cleanup(func() { require.NoError(t, client.Close()) })
		clustered := func(c *enhanced.EnhancedConfig) { c.RedisClusterMode = true }
		runAsLeastUser(t, client, clustered, func() error {
			for _, node := range cluster.Nodes[:3] {
				if err := node.Client().FlushAll(t.Context()).Err(); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// runAsLeastUser runs the suite on a store that flush empties.
func runAsLeastUser(t *testing.T, client redis.UniversalClient, change func(*enhanced.EnhancedConfig), flush func() error) {
	t.Helper()
	backendtest.RunShared(t, func(t *testing.T, config *enhanced.EnhancedConfig) enhanced.Backend {
		t.Helper()
		require.NoError(t, flush())
		if change != nil {
			if config == nil {
				config = enhanced.DefaultConfig()
			}
			changed := *config
			change(&changed)
			config = &changed
		}
		return openRedis(t, client, config)
	})
}

// With the guide's rights on the sentinels they are found, and listened to.
func TestSentinelLeastRights(t *testing.T) {
	t.Parallel()
	const user = "atlantis-watch"
	sentinel := redistest.StartSentinel(t, redistest.Options{SentinelUsers: []string{documented(t, user)}})
	options := sentinel.Options()
	options.SentinelUsername, options.SentinelPassword = user, leastPassword
	client := redis.NewFailoverClient(options)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	require.NoError(t, openRedis(t, client, nil).HealthCheck(t.Context()))
	// One channel for a primary that changes, one for a replica that follows it.
	listens := regexp.MustCompile(`(?m)^.* sub=2 .* user=` + user + `\b`)
	backendtest.Eventually(t, "a sentinel is listened to", func() bool {
		for _, one := range sentinel.Sentinels {
			clients, err := one.Client().Do(t.Context(), "client", "list").Text()
			require.NoError(t, err)
			if listens.MatchString(clients) {
				return true
			}
		}
		return false
	})
	for _, one := range sentinel.Sentinels {
		denied, err := one.Client().ACLLog(t.Context(), 1).Result()
		require.NoError(t, err)
		require.Empty(t, denied)
	}
}

// A password never comes up in an error.
func TestRedisErrorsHaveNoSecrets(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{Secure: redistest.NewSecure(t, documentedUser(t))})
	options := server.Options()
	options.Username, options.Password = leastUser, "wrong-secret"
	client := redis.NewClient(options)
	defer client.Close()
	err := openRedis(t, client, nil).HealthCheck(t.Context())
	require.ErrorContains(t, err, "user or password is wrong")
	require.NotContains(t, err.Error(), "secret")
}
