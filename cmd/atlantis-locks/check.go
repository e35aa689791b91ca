package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/runatlantis/atlantis/server/core/boltdb"
	"github.com/runatlantis/atlantis/server/core/db"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	stock "github.com/runatlantis/atlantis/server/core/redis"
	"github.com/spf13/cobra"
)

func newCheckCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Test whether Atlantis could use the locks",
		Long: `Take and release locks as Atlantis does, and compare what comes of it with what
Atlantis counts on: on a running server, or with --store on a store that no server
needs for it. A bbolt file must be there, and no process may have it open. On
a file or on one Redis it is also tested that stock Atlantis, with its own code,
honours what is locked here, and the other way round.

It locks in two repositories of its own, whose names start with
` + enhanced.CompatibilityNamespace + `, and gives all back; the lock of no other project or
command is touched.

` + storeURLHelp + `

Exits with 7 if a check failed or was skipped.`,
		Example: `  atlantis-locks check
  atlantis-locks check --store boltdb:/var/lib/atlantis/atlantis.db
  atlantis-locks check --store redis://redis.internal:6379`,
		Args: wantArgs(),
	}
	connection := addConnectionFlag(cmd, env)
	output := addOutputFlag(cmd)
	text := cmd.Flags().String("store", "", "test this store, instead of the server's")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var report api.CompatibilityReport
		name := ""
		switch given := cmd.Flags().Changed; {
		case given("store") && given("server"):
			return usagef(cmd, "--store and --server exclude each other")
		case given("store"):
			store, err := parseStoreURL(*text, false)
			if err != nil {
				return usagef(cmd, "--store: %v", err)
			}
			if err := store.check(cmd, "store"); err != nil {
				return err
			}
			name = store.describe()
			if report, err = store.testCompatibility(cmd, env); err != nil {
				return err
			}
		default:
			server, err := connection.client(cmd)
			if err != nil {
				return err
			}
			name = server.Server()
			if report, err = server.TestCompatibility(cmd.Context()); err != nil {
				return err
			}
		}
		return printCompatibility(env.stdout, name, report, *output)
	}
	return cmd
}

// testCompatibility opens the store for the test alone.
func (s *storeURL) testCompatibility(cmd *cobra.Command, env environment) (report api.CompatibilityReport, err error) {
	config := enhanced.DefaultConfig()
	config.Enabled, config.LegacyFallback, config.RedisKeyPrefix = true, false, s.prefix
	test := func(backend enhanced.Backend, legacy db.Database) error {
		adapter := enhanced.NewLockingAdapter(enhanced.NewEnhancedLockManager(backend, config, nil), backend, config, legacy, nil)
		found, err := enhanced.NewCompatibilityChecker(adapter, nil).RunCompatibilityTest(cmd.Context())
		report = web.CompatibilityView(found)
		return err
	}
	if s.redis == nil {
		file := &migrationStore{url: s, path: s.file}
		if err := file.open(false, false, env); err != nil {
			return report, err
		}
		defer func() { err = errors.Join(err, file.close()) }()
		backend, err := backends.NewBoltBackend(file.db, config, nil)
		if err != nil {
			return report, err
		}
		legacy, err := boltdb.NewWithDB(file.db, stockLocksBucket, stockCommandsBucket)
		if err == nil {
			err = test(backend, legacy)
		}
		return report, errors.Join(err, backend.Close())
	}
	client, err := s.client(cmd, env)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	config.Backend, config.RedisClusterMode = enhanced.BackendRedis, s.redis.cluster
	backend := backends.NewRedisBackend(client, config, nil)
	defer func() { err = errors.Join(err, backend.Close()) }()
	if err := s.redis.answerIn(cmd.Context(), startTimeout, backend.HealthCheck); err != nil {
		return report, withHint(s.redis.cannot("use", err), "docs/redis.md says what it needs")
	}
	var legacy db.Database
	if single, ok := client.(*redis.Client); ok {
		if legacy, err = stock.NewWithClient(single, "", ""); err != nil {
			return report, err
		}
	}
	return report, test(backend, legacy)
}

// printCompatibility prints a report and returns the error that gives the command
// its exit code.
func printCompatibility(w io.Writer, store string, report api.CompatibilityReport, output format) error {
	var err error
	if output == formatJSON {
		err = printJSON(w, report)
	} else {
		rows := [][]string{{"CHECK", "RESULT", "TIME", "DETAIL", "REMEDY"}}
		for _, c := range report.Checks {
			took := time.Duration(c.Milliseconds * float64(time.Millisecond)).Round(100 * time.Microsecond)
			rows = append(rows, []string{printable(c.Name), printable(c.Result), took.String(), dash(c.Detail), dash(c.Remedy)})
		}
		err = printTable(w, rows)
	}
	if report.Success || err != nil {
		return err
	}
	failed, skipped := 0, 0
	for _, c := range report.Checks {
		switch c.Result {
		case enhanced.CompatibilityFailed:
			failed++
		case enhanced.CompatibilitySkipped:
			skipped++
		}
	}
	return &codedError{code: exitViolations, err: withHint(
		fmt.Errorf("%s: %s failed, %d skipped", store, count(failed, "check"), skipped), "the remedies say what to do; go on with stock Atlantis until then")}
}
