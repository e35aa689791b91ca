package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"
)

// redisServers are the servers of Redis that the options name.
type redisServers struct {
	redisSettings
	addrs   []string
	cluster bool

	dials dials
}

// redis returns the servers.
func (c *configuration) redis() *redisServers {
	return &redisServers{redisSettings: c.Values.Redis, addrs: c.addrs(), cluster: c.isCluster()}
}

// client returns a client. It does not dial.
func (f *redisServers) client(cmd *cobra.Command, env environment) (redis.UniversalClient, error) {
	if len(f.addrs) == 0 {
		return nil, usagef(cmd, "the backend redis needs --redis-addr HOST:PORT")
	}
	password, err := readSecret(env, f.Password, "redis-password-file", f.PasswordFile)
	if err != nil {
		return nil, err
	}
	sentinelPassword, err := readSecret(env, f.SentinelPassword, "redis-sentinel-password-file", f.SentinelPasswordFile)
	if err != nil {
		return nil, err
	}
	options := &redis.UniversalOptions{
		Addrs: f.addrs, MasterName: f.SentinelMaster, IsClusterMode: f.cluster, DB: f.DB,
		Username: f.Username, Password: password,
		SentinelUsername: f.SentinelUsername, SentinelPassword: sentinelPassword,
		DialTimeout: f.Timeout, ReadTimeout: f.Timeout, WriteTimeout: f.Timeout, PoolSize: f.PoolSize,
		// A lone caller then sends by itself, see NewRedisBackend.
		ContextTimeoutEnabled: true,
		// It would need a right that is of no other use.
		DisableIdentity: true,
	}
	dial := dialer(redis.NewDialer(&redis.Options{DialTimeout: f.Timeout}))
	if f.TLSEnabled {
		tls := redisTLS{caFile: f.TLSCA, certFile: f.TLSCert, keyFile: f.TLSKey, skipVerify: f.InsecureSkipVerify}
		if _, err := tls.config(); err != nil {
			return nil, err
		}
		dial = tls.dialer(f.Timeout)
	}
	options.Dialer = f.dials.remember(dial)
	return redis.NewUniversalClient(options), nil
}

// describe names the servers for people.
func (f *redisServers) describe() string {
	addrs := strings.Join(f.addrs, ", ")
	switch {
	case f.SentinelMaster != "":
		return fmt.Sprintf("Redis %s behind the sentinels %s", printable(f.SentinelMaster), addrs)
	case f.cluster:
		return "the Redis cluster at " + addrs
	default:
		return "Redis at " + addrs
	}
}

// cannot says what can't be done with the servers, in one line: the client library
// repeats what each sentinel says.
func (f *redisServers) cannot(do string, err error) error {
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

// readSecret returns a secret, or reads it from a file if there is one.
func readSecret(env environment, value, flag, path string) (string, error) {
	if path == "" {
		return value, nil
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
