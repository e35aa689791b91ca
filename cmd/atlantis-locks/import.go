package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/options"
	"github.com/spf13/cobra"
)

func newImportCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import [FILE]",
		Short: "Take over the locks of stock Atlantis, from its file or its Redis",
		Long: `Read the locks in FILE, an atlantis.db of stock Atlantis or a copy of one, or
with --backend redis those in the Redis of stock Atlantis, and take each for the
pull request that holds it there. What is read stays as it is. What is taken, is
there already, or is skipped is listed with the reason; an import can be
repeated. Credentials in the records stay where they are.

Exits with 1 if a record was skipped because it can't be read or taken, else
with 3 if one was skipped because another holds its lock.`,
		Example: `  atlantis-locks import /var/lib/atlantis/atlantis.db --dry-run
  atlantis-locks import --backend redis --redis-addr old-redis.internal:6379 --dry-run`,
	}
	connection := addConnectionFlag(cmd, env)
	output := addOutputFlag(cmd)
	dryRun := cmd.Flags().Bool("dry-run", false, "only say what would happen")
	source := addConfigFlags(cmd, env, isRedisConnection)
	var config *configuration
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		// The environment says where serve has its locks. Who names a file
		// means that file.
		typed := slices.ContainsFunc([]string{"backend", "locking-db-type", "config"}, cmd.Flags().Changed)
		if len(args) > 0 && !typed {
			source.onlyFlags()
		}
		var err error
		if config, err = source.load(); err != nil {
			return err
		}
		if config.Values.Locking.Backend == enhanced.BackendRedis {
			return wantArgs()(cmd, args)
		}
		return wantArgs("FILE")(cmd, args)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		server, err := connection.client(cmd)
		if err != nil {
			return err
		}
		if err := source.warnings(config); err != nil {
			return err
		}
		var name string
		var records []stockRecord
		if config.Values.Locking.Backend == enhanced.BackendRedis {
			servers := config.redis()
			name = servers.describe()
			records, err = servers.readStockRecords(cmd, env)
		} else {
			var damages []backends.FileDamage
			name = args[0]
			records, damages, err = readStockFile(name)
			for _, damage := range damages {
				fmt.Fprintf(env.stderr, "warning: %q: %s\n", name, damage.Detail)
			}
		}
		if err != nil {
			return err
		}
		report := newImportReport(name, *dryRun, records)
		// What was done before a failure is reported too.
		err = sendRecords(cmd.Context(), server, records, report, newProgress(env.stderr, len(records), "importing"))
		if *output == formatJSON {
			err = errors.Join(err, printJSON(env.stdout, report))
		} else {
			err = errors.Join(err, report.print(env.stdout))
		}
		if err != nil {
			return err
		}
		return report.outcome()
	}
	return cmd
}

// isRedisConnection reports whether an option says where a Redis is.
func isRedisConnection(o *options.Option) bool {
	switch o.Name {
	case "backend":
		return true
	case "redis_key_prefix", "redis_lock_ttl", "redis_min_replicas_ack":
		return false
	default:
		return strings.HasPrefix(o.Name, "redis_")
	}
}
