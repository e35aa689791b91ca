package redistest

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// SentinelMaster is the name of the primary that the sentinels watch.
const SentinelMaster = "locks"

// Sentinel is one primary with two replicas that three sentinels watch.
type Sentinel struct {
	Primary   *Server
	Replicas  []*Server
	Sentinels []*Server

	tb testing.TB
}

// StartSentinel starts a primary, two replicas and three sentinels.
func StartSentinel(tb testing.TB, options Options) *Sentinel {
	tb.Helper()
	primary := Start(tb, options)
	return startSentinel(tb, primary, primary.Addr, options)
}

// StartSentinelBehind is StartSentinel with a proxy before the primary: the
// replicas, the sentinels and who asks the sentinels reach it through the
// proxy only.
func StartSentinelBehind(tb testing.TB, options Options) (*Sentinel, *Proxy) {
	tb.Helper()
	primary := Start(tb, options)
	proxy := StartProxy(tb, primary.Addr)
	return startSentinel(tb, primary, proxy.Addr, options), proxy
}

// startSentinel starts the others; addr is where they find the primary.
func startSentinel(tb testing.TB, primary *Server, addr string, options Options) *Sentinel {
	tb.Helper()
	s := &Sentinel{tb: tb, Primary: primary}
	host, port, err := net.SplitHostPort(addr)
	require.NoError(tb, err)
	args := options.Args
	for range 2 {
		options.Args = append([]string{"--replicaof", host + " " + port}, args...)
		s.Replicas = append(s.Replicas, Start(tb, options))
	}
	ctx, cancel := context.WithTimeout(tb.Context(), startTime)
	defer cancel()
	client := s.Primary.Client()
	eventually(ctx, tb, "replicas are connected", func() bool {
		info, err := client.Info(ctx, "replication").Result()
		return err == nil && strings.Count(info, "state=online") == 2
	})
	for range 3 {
		s.Sentinels = append(s.Sentinels, runSentinel(tb, host, port, options))
	}
	for _, sentinel := range s.Sentinels {
		client := sentinel.Client()
		eventually(ctx, tb, "sentinels know each other", func() bool {
			info, err := client.Info(ctx, "sentinel").Result()
			return err == nil && strings.Contains(info, "slaves=2,sentinels=3")
		})
	}
	return s
}

func runSentinel(tb testing.TB, host, port string, options Options) *Server {
	tb.Helper()
	return startAny(tb, func() *Server { return newSentinel(tb, host, port, options) })
}

func newSentinel(tb testing.TB, host, port string, options Options) *Server {
	tb.Helper()
	s := newServer(tb, Options{Secure: options.Secure.open(), Env: options.Env})
	config := filepath.Join(s.Dir, "sentinel.conf")
	text := fmt.Sprintf("bind 127.0.0.1\ndir %s\nlogfile server.log\n"+
		"sentinel monitor %[2]s %s %s 2\nsentinel down-after-milliseconds %[2]s %[5]s\nsentinel failover-timeout %[2]s 5000\n",
		s.Dir, SentinelMaster, host, port, options.deadAfter())
	if options.Secure != nil {
		text += fmt.Sprintf("sentinel auth-user %[1]s %s\nsentinel auth-pass %[1]s %[3]s\n", SentinelMaster, AdminUser, AdminPassword)
	}
	if len(options.SentinelUsers) > 0 {
		s.asks = true
		text += usersText(options.SentinelUsers)
		// They ask each other too.
		text += fmt.Sprintf("sentinel sentinel-user %s\nsentinel sentinel-pass %s\n", AdminUser, AdminPassword)
	}
	require.NoError(tb, os.WriteFile(config, []byte(text), 0o600))
	s.command = append([]string{config, "--sentinel"}, s.options.Secure.serverArgs(s.port())...)
	return s
}

// Options are what a client needs to follow the primary as administrator.
func (s *Sentinel) Options() *redis.FailoverOptions {
	one, sentinel := s.Primary.Options(), s.Sentinels[0].Options()
	options := &redis.FailoverOptions{
		MasterName: SentinelMaster, DisableIdentity: true, ContextTimeoutEnabled: true,
		TLSConfig: one.TLSConfig, Username: one.Username, Password: one.Password,
		SentinelUsername: sentinel.Username, SentinelPassword: sentinel.Password,
	}
	for _, sentinel := range s.Sentinels {
		options.SentinelAddrs = append(options.SentinelAddrs, sentinel.Addr)
	}
	return options
}

// Client returns an administrator's client that follows the primary; it is
// closed with the test.
func (s *Sentinel) Client() *redis.Client {
	s.tb.Helper()
	client := redis.NewFailoverClient(s.Options())
	s.tb.Cleanup(func() { _ = client.Close() }) //nolint:errcheck // a test may have closed it
	return client
}

// Current asks a sentinel for the primary's address.
func (s *Sentinel) Current(ctx context.Context) (string, error) {
	options := s.Sentinels[0].Options()
	client := redis.NewSentinelClient(options)
	defer client.Close() //nolint:errcheck // it was only asked
	parts, err := client.GetMasterAddrByName(ctx, SentinelMaster).Result()
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(parts[0], parts[1]), nil
}
