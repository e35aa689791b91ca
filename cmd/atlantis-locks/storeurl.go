package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/spf13/cobra"
)

// redisPasswordVariable has the password of Redis for stores that name no file.
const redisPasswordVariable = variablePrefix + "REDIS_PASSWORD"

// storeURLHelp describes [storeURL] in the help of commands.
const storeURLHelp = `A store is written as
  boltdb:FILE
  redis://[USER@]HOST:PORT[,HOST:PORT...][/DB][?OPTIONS]   rediss:// with TLS
with the options prefix=TEXT (start of the keys), cluster=true (one address is a
cluster too; several always are), sentinel-master=NAME (the addresses are of
sentinels), password-file=FILE, and with rediss ca=FILE, cert=FILE and key=FILE,
joined by "&". Without a password file, ` + redisPasswordVariable + ` counts.`

// storeURL names a store, as its text says.
type storeURL struct {
	// stock says that the store is to be in the format of stock Atlantis alone.
	stock bool
	// file is the path of a bbolt file; redis is set else.
	file   string
	redis  *redisServers
	prefix string
}

const stockScheme = "stock+"

// parseStoreURL reads a store's URL. Errors repeat nothing of it: it may have a
// password in the wrong place.
func parseStoreURL(text string, mayBeStock bool) (*storeURL, error) {
	rest, isStock := strings.CutPrefix(text, stockScheme)
	if isStock && !mayBeStock {
		return nil, errors.New("it can't be a store of stock Atlantis")
	}
	store := &storeURL{stock: isStock, prefix: enhanced.DefaultConfig().RedisKeyPrefix}
	if path, ok := strings.CutPrefix(rest, "boltdb:"); ok {
		if path == "" {
			return nil, errors.New("it names no file; write boltdb:FILE")
		}
		store.file = path
		return store, nil
	}
	scheme, rest, _ := strings.Cut(rest, "://")
	if scheme != "redis" && scheme != "rediss" {
		return nil, errors.New("it is neither boltdb:FILE nor redis://HOST:PORT nor rediss://HOST:PORT")
	}
	rest, query, _ := strings.Cut(rest, "?")
	authority, db, _ := strings.Cut(rest, "/")
	user, hosts, hasUser := cutLast(authority, "@")
	if !hasUser {
		user, hosts = "", authority
	}
	if strings.Contains(user, ":") {
		return nil, errors.New("it has a password in it, where others can read it; put that into a file, and write ?password-file=FILE")
	}
	addrs := strings.Split(hosts, ",")
	store.redis = &redisServers{addrs: addrs, cluster: len(addrs) > 1, redisSettings: redisSettings{
		Username: user, Timeout: 5 * time.Second, TLSEnabled: scheme == "rediss",
	}}
	number, err := strconv.Atoi(cmp.Or(db, "0"))
	if err != nil || number < 0 {
		return nil, errors.New("what is behind the address is no number of a database")
	}
	store.redis.DB = number
	return store, store.options(query)
}

// cutLast is strings.Cut at the last separator: a password can contain one.
func cutLast(text, separator string) (before, after string, found bool) {
	i := strings.LastIndex(text, separator)
	if i < 0 {
		return text, "", false
	}
	return text[:i], text[i+len(separator):], true
}

func (s *storeURL) options(query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return errors.New("what is behind the question mark is not of the form NAME=VALUE&NAME=VALUE")
	}
	fields := map[string]*string{
		"prefix": &s.prefix, "sentinel-master": &s.redis.SentinelMaster, "password-file": &s.redis.PasswordFile,
		"ca": &s.redis.TLSCA, "cert": &s.redis.TLSCert, "key": &s.redis.TLSKey,
	}
	for name, list := range values {
		field, known := fields[name]
		switch {
		case len(list) != 1 || list[0] == "":
			return fmt.Errorf("the option %s has %d values; give it one", printable(name), len(list))
		case name == "cluster":
			isCluster, err := strconv.ParseBool(list[0])
			if err != nil {
				return errors.New("the option cluster is neither true nor false")
			}
			s.redis.cluster = s.redis.cluster || isCluster
		case !known:
			return fmt.Errorf("there is no option %s", printable(name))
		case slices.Contains([]string{"ca", "cert", "key"}, name) && !s.redis.TLSEnabled:
			return fmt.Errorf("the option %s needs rediss://", name)
		default:
			*field = list[0]
		}
	}
	if s.redis.SentinelMaster != "" {
		if values.Get("cluster") == "true" {
			return errors.New("cluster=true contradicts sentinel-master")
		}
		s.redis.cluster = false
	}
	config := enhanced.DefaultConfig()
	config.RedisKeyPrefix = s.prefix
	return config.Validate()
}

// check refuses what contradicts itself, as wrong usage of a flag.
func (s *storeURL) check(cmd *cobra.Command, flag string) error {
	if s.redis == nil {
		return nil
	}
	switch r := s.redis; {
	case slices.ContainsFunc(r.addrs, func(addr string) bool { return !isAddress(addr) }):
		return usagef(cmd, "--%s: each address is HOST:PORT, with a port from 1 to 65535, and nothing else", flag)
	case r.DB != 0 && r.cluster:
		return usagef(cmd, "--%s: database %d: a cluster has database 0 only", flag, r.DB)
	case (r.TLSCert == "") != (r.TLSKey == ""):
		return usagef(cmd, "--%s: the options cert and key need each other", flag)
	}
	return nil
}

// client returns a client of the store's Redis. It does not dial.
func (s *storeURL) client(cmd *cobra.Command, env environment) (redis.UniversalClient, error) {
	if err := checkVariables(cmd, env); err != nil {
		return nil, err
	}
	if s.redis.PasswordFile == "" {
		s.redis.Password = env.getenv(redisPasswordVariable)
	}
	// What the library logs is in the error too, see readStockRecords.
	logging.Disable()
	return s.redis.client(cmd, env)
}

// describe names the store for people.
func (s *storeURL) describe() string {
	name := printable(s.file)
	if s.redis != nil {
		name = s.redis.describe()
		if s.redis.DB != 0 {
			name += fmt.Sprintf(", database %d", s.redis.DB)
		}
	}
	if s.stock {
		name += ", in the format of stock Atlantis"
	}
	return name
}
