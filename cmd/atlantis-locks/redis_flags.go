package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const (
	redisPasswordVariable    = "ATLANTIS_LOCKS_REDIS_PASSWORD"
	sentinelPasswordVariable = "ATLANTIS_LOCKS_REDIS_SENTINEL_PASSWORD"
)

// redisFlags are the flags that say where Redis is and how to get in.
type redisFlags struct {
	backend string

	addrs        []string
	cluster      bool
	master       string
	username     string
	passwordFile string
	// Sentinels have users of their own.
	sentinelUsername     string
	sentinelPasswordFile string
	db                   int
	tls                  redisTLS
	poolSize             int
	timeout              time.Duration

	dials dials
	// fromEnvironment is what is wrong with the environment variables.
	fromEnvironment error
}

// addRedisFlags adds the flags. Each has an environment variable.
func addRedisFlags(cmd *cobra.Command, env environment) *redisFlags {
	var f redisFlags
	flags := pflag.NewFlagSet("redis", pflag.ContinueOnError)
	flags.StringVar(&f.backend, "backend", enhanced.BackendBoltDB, "boltdb or redis")
	flags.StringSliceVar(&f.addrs, "redis-addr", nil, "HOST:PORT of Redis, of the sentinels, or of nodes of a cluster; several are a cluster, unless there is a sentinel master")
	flags.BoolVar(&f.cluster, "redis-cluster", false, "one address is a cluster too")
	flags.StringVar(&f.master, "redis-sentinel-master", "", "name of the primary that the sentinels watch")
	flags.StringVar(&f.username, "redis-username", "", "user of Redis")
	flags.StringVar(&f.passwordFile, "redis-password-file", "", "file with the user's password; or set "+redisPasswordVariable)
	flags.StringVar(&f.sentinelUsername, "redis-sentinel-username", "", "user of the sentinels")
	flags.StringVar(&f.sentinelPasswordFile, "redis-sentinel-password-file", "", "file with the sentinels' password; or set "+sentinelPasswordVariable)
	flags.IntVar(&f.db, "redis-db", 0, "database, not on a cluster")
	flags.BoolVar(&f.tls.enabled, "redis-tls", false, "encrypt connections and check the server's certificate")
	flags.StringVar(&f.tls.caFile, "redis-tls-ca", "", "PEM file of the authorities to trust, instead of the system's")
	flags.StringVar(&f.tls.certFile, "redis-tls-cert", "", "PEM file of the certificate to show to the server")
	flags.StringVar(&f.tls.keyFile, "redis-tls-key", "", "PEM file of its key")
	flags.IntVar(&f.poolSize, "redis-pool-size", 0, "connections to each server, 0 for 10 per CPU")
	flags.DurationVar(&f.timeout, "redis-timeout", 5*time.Second, "limit of each dial, read and write")
	f.fromEnvironment = setFromEnvironment(flags, env)
	cmd.Flags().AddFlagSet(flags)
	return &f
}

// setFromEnvironment gives flags the values of their environment variables, over
// which the command line wins. The help goes on showing the defaults: somebody
// may have put a password into the wrong variable. It returns what is wrong.
func setFromEnvironment(flags *pflag.FlagSet, env environment) error {
	var problems []error
	flags.VisitAll(func(flag *pflag.Flag) {
		variable := variableOf(flag.Name)
		flag.Usage += " (env " + variable + ")"
		value := env.getenv(variable)
		if value == "" {
			return
		}
		values := []string{value}
		if _, list := flag.Value.(pflag.SliceValue); list {
			values = strings.Split(value, ",")
		}
		if err := setFlag(flag, values); err != nil {
			problems = append(problems, fmt.Errorf("%s=%s: %w", variable, printable(value), err))
		}
	})
	return errors.Join(problems...)
}

// variableOf is the environment variable of a flag.
func variableOf(flag string) string {
	return "ATLANTIS_LOCKS_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// forgetEnvironment makes flags that only the environment has set what they
// would be without it.
func (f *redisFlags) forgetEnvironment(cmd *cobra.Command) {
	f.backend, f.fromEnvironment = enhanced.BackendBoltDB, nil
	if !cmd.Flags().Changed("redis-addr") {
		f.addrs = nil
	}
}

// isRedis reports whether Redis is wanted.
func (f *redisFlags) isRedis(cmd *cobra.Command) (bool, error) {
	if f.fromEnvironment != nil {
		return false, usagef(cmd, "%v", f.fromEnvironment)
	}
	switch f.backend {
	case enhanced.BackendRedis:
		return true, nil
	case enhanced.BackendBoltDB:
	default:
		return false, usagef(cmd, "--backend %s is none of boltdb, redis", printable(f.backend))
	}
	if len(f.addrs) > 0 {
		return false, usagef(cmd, "--redis-addr needs --backend redis")
	}
	return false, nil
}

// isCluster reports whether the addresses are of a cluster.
func (f *redisFlags) isCluster() bool { return f.master == "" && (f.cluster || len(f.addrs) > 1) }

// client returns a client. It does not dial.
func (f *redisFlags) client(cmd *cobra.Command, env environment) (redis.UniversalClient, error) {
	if err := f.check(cmd); err != nil {
		return nil, err
	}
	password, err := readSecret(cmd, env, redisPasswordVariable, "redis-password-file", f.passwordFile)
	if err != nil {
		return nil, err
	}
	sentinelPassword, err := readSecret(cmd, env, sentinelPasswordVariable, "redis-sentinel-password-file", f.sentinelPasswordFile)
	if err != nil {
		return nil, err
	}
	options := &redis.UniversalOptions{
		Addrs: f.addrs, MasterName: f.master, IsClusterMode: f.isCluster(), DB: f.db,
		Username: f.username, Password: password,
		SentinelUsername: f.sentinelUsername, SentinelPassword: sentinelPassword,
		DialTimeout: f.timeout, ReadTimeout: f.timeout, WriteTimeout: f.timeout, PoolSize: f.poolSize,
		// It would need a right that is of no other use.
		DisableIdentity: true,
	}
	dial := dialer(redis.NewDialer(&redis.Options{DialTimeout: f.timeout}))
	if f.tls.enabled {
		if _, err := f.tls.config(); err != nil {
			return nil, err
		}
		dial = f.tls.dialer(f.timeout)
	}
	options.Dialer = f.dials.remember(dial)
	return redis.NewUniversalClient(options), nil
}

// check refuses what contradicts itself.
func (f *redisFlags) check(cmd *cobra.Command) error {
	switch {
	case len(f.addrs) == 0:
		return usagef(cmd, "--backend redis needs --redis-addr HOST:PORT")
	case f.cluster && f.master != "":
		return usagef(cmd, "--redis-cluster contradicts --redis-sentinel-master")
	case f.db != 0 && f.isCluster():
		return usagef(cmd, "--redis-db %d: a cluster has database 0 only", f.db)
	case f.db < 0:
		return usagef(cmd, "--redis-db %d is negative", f.db)
	case f.poolSize < 0:
		return usagef(cmd, "--redis-pool-size %d is negative", f.poolSize)
	case f.timeout <= 0:
		return usagef(cmd, "--redis-timeout %v: give a time above 0", f.timeout)
	case !f.tls.enabled && (f.tls.caFile != "" || f.tls.certFile != "" || f.tls.keyFile != ""):
		return usagef(cmd, "--redis-tls-ca, --redis-tls-cert and --redis-tls-key need --redis-tls")
	case (f.tls.certFile == "") != (f.tls.keyFile == ""):
		return usagef(cmd, "--redis-tls-cert and --redis-tls-key need each other")
	}
	for _, addr := range f.addrs {
		// Whatever else is in there may be a password, so it is not repeated.
		host, port, err := net.SplitHostPort(addr)
		if number, portErr := strconv.Atoi(port); err != nil || portErr != nil || host == "" || number < 1 || number > 65535 || strings.ContainsAny(host, "/@") {
			return usagef(cmd, "--redis-addr: each address is HOST:PORT, with a port from 1 to 65535, and nothing else")
		}
	}
	return nil
}

// describe names the servers for people.
func (f *redisFlags) describe() string {
	addrs := strings.Join(f.addrs, ", ")
	switch {
	case f.master != "":
		return fmt.Sprintf("Redis %s behind the sentinels %s", printable(f.master), addrs)
	case f.isCluster():
		return "the Redis cluster at " + addrs
	default:
		return "Redis at " + addrs
	}
}

// cannot says what can't be done with the servers, in one line: the client library
// repeats what each sentinel says.
func (f *redisFlags) cannot(do string, err error) error {
	var lines []string
	for line := range strings.Lines(err.Error()) {
		if line = strings.TrimSpace(line); !slices.ContainsFunc(lines, func(before string) bool { return strings.HasSuffix(before, line) }) {
			lines = append(lines, line)
		}
	}
	return &redisError{message: fmt.Sprintf("can't %s %s: %s", do, f.describe(), strings.Join(lines, "; ")), err: err}
}

// redisError is an error of the client library with a message for people.
type redisError struct {
	message string
	err     error
}

func (e *redisError) Error() string { return e.message }
func (e *redisError) Unwrap() error { return e.err }

// readSecret reads a secret from a file or from the environment.
func readSecret(cmd *cobra.Command, env environment, variable, flag, path string) (string, error) {
	value := env.getenv(variable)
	switch {
	case path == "":
		return value, nil
	case value != "":
		return "", usagef(cmd, "both --%s and %s are set; set one", flag, variable)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("can't read --%s %q: %w", flag, path, withoutPath(err))
	}
	secret := strings.TrimRight(string(content), "\r\n")
	if secret == "" || strings.ContainsAny(secret, "\r\n\x00") {
		return "", withHint(fmt.Errorf("--%s %q is not a password", flag, path), "the file has one line, the password")
	}
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
		_, err = fmt.Fprintf(env.stderr, "warning: %q has mode %#o: other users of this machine can read the password; chmod it to 0600\n", path, info.Mode().Perm())
		return secret, err
	}
	return secret, nil
}
