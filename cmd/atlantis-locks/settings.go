package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/options"
)

// variablePrefix starts the environment variables of all options.
const variablePrefix = "ATLANTIS_LOCKS_"

const defaultRedisPort = 6379

// settings are the options of the program. Package options says what the tags mean.
type settings struct {
	Locking enhanced.EnhancedConfig
	Redis   redisSettings
	Server  serverSettings
}

type serverSettings struct {
	DataDir  string `mapstructure:"data_dir" file:"server.data-dir" atlantis:"data-dir" restart:"true" doc:"Directory of atlantis.db, the file that the locks are in with the backend boltdb; a leading ~/ is the home directory."`
	Listen   string `mapstructure:"listen" file:"server.listen" restart:"true" doc:"Address to listen on; port 0 is any free one."`
	LogLevel string `mapstructure:"log_level" file:"server.log-level" enum:"debug,info,warn,error" doc:"What is logged; info has each request that can change something, debug all of them."`
}

// redisSettings say where Redis is and how to get in.
type redisSettings struct {
	Addr                 []string      `mapstructure:"redis_addr" file:"redis.addr" restart:"true" doc:"HOST:PORT of Redis, of the sentinels, or of nodes of a cluster; several are a cluster, unless there is a sentinel master."`
	Username             string        `mapstructure:"redis_username" file:"redis.username" atlantis:"redis-username" restart:"true" doc:"User of Redis."`
	Password             string        `mapstructure:"redis_password" file:"redis.password" atlantis:"redis-password" restart:"true" secret:"true" doc:"The user's password. Others on the machine can see a flag: give a file or the variable."`
	PasswordFile         string        `mapstructure:"redis_password_file" file:"redis.password-file" restart:"true" doc:"File with the user's password."`
	DB                   int           `mapstructure:"redis_db" file:"redis.db" atlantis:"redis-db" restart:"true" doc:"Database, not on a cluster."`
	SentinelMaster       string        `mapstructure:"redis_sentinel_master" file:"redis.sentinel-master" restart:"true" doc:"Name of the primary that the sentinels watch."`
	SentinelUsername     string        `mapstructure:"redis_sentinel_username" file:"redis.sentinel-username" restart:"true" doc:"User of the sentinels, which have users of their own."`
	SentinelPassword     string        `mapstructure:"redis_sentinel_password" file:"redis.sentinel-password" restart:"true" secret:"true" doc:"The sentinels' password. Others on the machine can see a flag: give a file or the variable."`
	SentinelPasswordFile string        `mapstructure:"redis_sentinel_password_file" file:"redis.sentinel-password-file" restart:"true" doc:"File with the sentinels' password."`
	TLSEnabled           bool          `mapstructure:"redis_tls_enabled" file:"redis.tls-enabled" atlantis:"redis-tls-enabled" restart:"true" doc:"Encrypt connections and check the server's certificate."`
	TLSCA                string        `mapstructure:"redis_tls_ca" file:"redis.tls-ca" restart:"true" doc:"PEM file of the authorities to trust, instead of the system's."`
	TLSCert              string        `mapstructure:"redis_tls_cert" file:"redis.tls-cert" restart:"true" doc:"PEM file of the certificate to show to the server."`
	TLSKey               string        `mapstructure:"redis_tls_key" file:"redis.tls-key" restart:"true" doc:"PEM file of its key."`
	InsecureSkipVerify   bool          `mapstructure:"redis_insecure_skip_verify" file:"redis.insecure-skip-verify" atlantis:"redis-insecure-skip-verify" restart:"true" doc:"Take any certificate, so that whoever is between can read and change locks."`
	PoolSize             int           `mapstructure:"redis_pool_size" file:"redis.pool-size" restart:"true" doc:"Connections to each server, 0 for 10 per CPU."`
	Timeout              time.Duration `mapstructure:"redis_timeout" file:"redis.timeout" restart:"true" doc:"Limit of each dial, read and write."`

	Host             string   `mapstructure:"redis_host" atlantis:"redis-host" restart:"true" doc:"Host of one server; with redis-port it is what redis.addr is."`
	Port             int      `mapstructure:"redis_port" atlantis:"redis-port" restart:"true" doc:"Port of redis-host."`
	ClusterAddresses []string `mapstructure:"redis_cluster_addresses" atlantis:"redis-cluster-addresses" restart:"true" doc:"HOST:PORT of nodes of a cluster; what redis.addr with redis.cluster-mode is."`
}

// newOptions returns the options of the program with its defaults.
func newOptions() *options.Set[settings] {
	locking := *enhanced.DefaultConfig()
	locking.Enabled, locking.EnableEvents = true, true
	return options.New(variablePrefix, settings{
		Locking: locking,
		Redis:   redisSettings{Timeout: 5 * time.Second, Port: defaultRedisPort},
		Server:  serverSettings{DataDir: "./data", Listen: defaultListen, LogLevel: "info"},
	})
}

// configuration is what the options are, with where each value comes from.
type configuration struct {
	*options.Loaded[settings]
	set *options.Set[settings]
}

// loadConfiguration reads the options, and says all that is wrong with them.
func loadConfiguration(set *options.Set[settings], sources options.Sources) (*configuration, []options.Problem) {
	loaded, problems := set.Load(sources)
	c := &configuration{loaded, set}
	if rest, found := strings.CutPrefix(c.Values.Server.DataDir, "~/"); found {
		home, err := os.UserHomeDir()
		if err != nil {
			problems = append(problems, c.problem("data_dir", "%v", err))
		}
		c.Values.Server.DataDir = filepath.Join(home, rest)
	}
	problems = slices.Concat(problems, c.lockingProblems(), c.redisProblems())
	sortByLine(problems)
	return c, problems
}

func sortByLine(problems []options.Problem) {
	slices.SortStableFunc(problems, func(a, b options.Problem) int { return a.Origin.Line - b.Origin.Line })
}

// given reports whether an option has a value that somebody gave it.
func (c *configuration) given(name string) bool { return c.Given(c.set.Lookup(name)) }

func (c *configuration) problem(name, format string, args ...any) options.Problem {
	o := c.set.Lookup(name)
	return options.Problem{Origin: c.Origin(o), Key: o.Key, Err: fmt.Errorf(format, args...)}
}

// listenProblems are those that serve finds when it listens.
func (c *configuration) listenProblems() []options.Problem {
	if err := checkListen(c.Values.Server.Listen); err != nil {
		return []options.Problem{c.problem("listen", "%w", err)}
	}
	return nil
}

// lockingProblems are those that the library finds, in the words of the file.
func (c *configuration) lockingProblems() (problems []options.Problem) {
	if !c.Values.Locking.Enabled {
		problems = append(problems, c.problem("enabled", "false leaves nothing to do; to use Atlantis' own locks, do not run this program"))
	}
	if c.Values.Locking.RedisClusterMode && c.Values.Locking.Backend != enhanced.BackendRedis {
		problems = append(problems, c.problem("redis_cluster_mode", "true needs the backend redis"))
	}
	var invalid *enhanced.LockError
	if !errors.As(c.Values.Locking.Validate(), &invalid) {
		return problems
	}
	found := []error{invalid.Err}
	if several, ok := invalid.Err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // errors.As does not look for several
		found = several.Unwrap()
	}
	for _, err := range found {
		problems = append(problems, c.translated(err.Error()))
	}
	return problems
}

// translated returns a problem that names fields of the library with the places of
// their options. Its origin is the first of them that somebody gave a value.
func (c *configuration) translated(message string) options.Problem {
	var named []*options.Option
	words := regexp.MustCompile(`"(?:[^"\\]|\\.)*"|[a-z_]+`)
	text := words.ReplaceAllStringFunc(message, func(word string) string {
		o := c.set.Lookup(word)
		if o == nil || o.Name != word || !strings.Contains(word, "_") && len(named) > 0 {
			return word
		}
		named = append(named, o)
		return o.Key
	})
	if len(named) == 0 {
		return options.Problem{Err: errors.New(text)}
	}
	first := named[0]
	rest := strings.TrimPrefix(text, first.Key)
	if entry, found := strings.CutPrefix(rest, " "); found {
		rest = "entry " + entry // of a list
	}
	rest = strings.TrimPrefix(rest, ": ")
	for _, o := range named {
		if c.Given(o) {
			if o != first {
				rest = text
			}
			return options.Problem{Origin: c.Origin(o), Key: o.Key, Err: errors.New(rest)}
		}
	}
	return options.Problem{Key: first.Key, Err: errors.New(rest)}
}

// isAddress reports whether a text is HOST:PORT.
func isAddress(text string) bool {
	host, port, err := net.SplitHostPort(text)
	number, numberErr := strconv.Atoi(port)
	return err == nil && numberErr == nil && host != "" && !strings.ContainsAny(host, "/@") && number > 0 && number <= 65535
}

// redisProblems are contradictions between the options for Redis.
func (c *configuration) redisProblems() (problems []options.Problem) {
	r := c.Values.Redis
	report := func(name, format string, args ...any) {
		problems = append(problems, c.problem(name, format, args...))
	}
	isRedis := c.Values.Locking.Backend == enhanced.BackendRedis
	if !isRedis && len(r.Addr) > 0 {
		report("redis_addr", "needs the backend redis")
	}
	badAddress := false // it may be a URL with a password, so it is not repeated
	for _, list := range []struct {
		name  string
		addrs []string
	}{{"redis_addr", r.Addr}, {"redis_cluster_addresses", r.ClusterAddresses}} {
		if !slices.ContainsFunc(list.addrs, func(addr string) bool { return !isAddress(addr) }) {
			continue
		}
		badAddress = true
		report(list.name, "each address is HOST:PORT, with a port from 1 to 65535, and nothing else")
	}
	if r.Host != "" && (strings.ContainsAny(r.Host, "/@") || r.Port > 65535) {
		badAddress = true
		report("redis_host", "want the name of a host, and in redis-port a port from 1 to 65535")
	}
	theirs, name := c.atlantisAddrs()
	if len(r.ClusterAddresses) > 0 && r.Host != "" {
		report("redis_cluster_addresses", "contradicts redis-host in %v; give one", c.Origin(c.set.Lookup("redis_host")))
	}
	if isRedis && !badAddress && len(r.Addr) > 0 && len(theirs) > 0 && !slices.Equal(r.Addr, theirs) {
		report("redis_addr", "%s here and %s by %s in %v are different servers; give one of them", strings.Join(r.Addr, ","), strings.Join(theirs, ","), dashed(name), c.Origin(c.set.Lookup(name)))
	}
	if isRedis && r.Host == "" && r.Port != defaultRedisPort {
		report("redis_port", "needs redis-host")
	}
	cluster := c.isCluster()
	switch {
	case r.SentinelMaster != "" && c.Values.Locking.RedisClusterMode:
		report("redis_cluster_mode", "contradicts redis.sentinel-master: %s", printable(r.SentinelMaster))
	case cluster && c.given("redis_cluster_mode") && !c.Values.Locking.RedisClusterMode:
		report("redis_cluster_mode", "false contradicts the %d addresses, which are a cluster; they are sentinels only with redis.sentinel-master", len(c.addrs()))
	}
	if r.DB != 0 && cluster {
		report("redis_db", "%d: a cluster has database 0 only", r.DB)
	}
	for _, file := range []struct{ name, value string }{{"redis_tls_ca", r.TLSCA}, {"redis_tls_cert", r.TLSCert}, {"redis_tls_key", r.TLSKey}} {
		if file.value != "" && !r.TLSEnabled {
			report(file.name, "needs redis.tls-enabled: true")
		}
	}
	if r.InsecureSkipVerify && !r.TLSEnabled {
		report("redis_insecure_skip_verify", "needs redis.tls-enabled: true")
	}
	if (r.TLSCert == "") != (r.TLSKey == "") {
		name := "redis_tls_cert"
		if r.TLSCert == "" {
			name = "redis_tls_key"
		}
		report(name, "redis.tls-cert and redis.tls-key need each other")
	}
	for _, secret := range []string{"redis_password", "redis_sentinel_password"} {
		if c.given(secret) && c.given(secret+"_file") {
			report(secret+"_file", "%v has the password too; give one", c.Origin(c.set.Lookup(secret)))
		}
	}
	return problems
}

// withoutEffect are settings of Redis that somebody has changed, where the locks are
// in a file: the backend may have been forgotten.
func (c *configuration) withoutEffect() (problems []options.Problem) {
	if c.Values.Locking.Backend == enhanced.BackendRedis {
		return nil
	}
	defaults := c.set.Defaults()
	for _, o := range c.set.All() {
		if strings.HasPrefix(o.Name, "redis_") && !reflect.DeepEqual(c.set.Value(o, &c.Values), c.set.Value(o, &defaults)) {
			problems = append(problems, c.problem(o.Name, "has no effect with the backend %s", c.Values.Locking.Backend))
		}
	}
	return problems
}

// atlantisAddrs are the servers by Atlantis' settings, and the one that has them.
func (c *configuration) atlantisAddrs() (addrs []string, name string) {
	r := c.Values.Redis
	if len(r.ClusterAddresses) > 0 {
		return r.ClusterAddresses, "redis_cluster_addresses"
	}
	if r.Host != "" {
		return []string{net.JoinHostPort(r.Host, strconv.Itoa(r.Port))}, "redis_host"
	}
	return nil, ""
}

// addrs are the servers of Redis.
func (c *configuration) addrs() []string {
	if len(c.Values.Redis.Addr) > 0 {
		return c.Values.Redis.Addr
	}
	addrs, _ := c.atlantisAddrs()
	return addrs
}

// isCluster reports whether the addresses are of a cluster.
func (c *configuration) isCluster() bool {
	r := c.Values.Redis
	return r.SentinelMaster == "" && (c.Values.Locking.RedisClusterMode || len(r.ClusterAddresses) > 0 || len(c.addrs()) > 1)
}

// locking is the configuration of the library.
func (c *configuration) locking() *enhanced.EnhancedConfig {
	locking := c.Values.Locking
	locking.RedisClusterMode = locking.Backend == enhanced.BackendRedis && c.isCluster()
	return &locking
}

func dashed(name string) string { return strings.ReplaceAll(name, "_", "-") }
