package main

import (
	"context"
	"errors"
	"fmt"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/client"
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
	source := addRedisFlags(cmd, env)
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if source.backend == enhanced.BackendRedis {
			return wantArgs()(cmd, args)
		}
		return wantArgs("FILE")(cmd, args)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		server, err := connection.client(cmd)
		if err != nil {
			return err
		}
		isRedis, err := source.isRedis(cmd)
		if err != nil {
			return err
		}
		var name string
		var records []stockRecord
		if isRedis {
			name = source.describe()
			records, err = source.readStockRecords(cmd, env)
		} else {
			name = args[0]
			records, err = readStockFile(name)
		}
		if err != nil {
			return err
		}
		report := newImportReport(name, *dryRun, records)
		// What was done before a failure is reported too.
		err = sendRecords(cmd.Context(), server, records, report, newProgress(env.stderr, len(records)))
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

const (
	// batchRecords and batchBytes bound one request. Far below the server's
	// limits, so that progress is seen and a request is answered soon.
	batchRecords = 100
	batchBytes   = 1 << 20
)

// sendRecords has the server take the records that could be read, and enters
// what became of each in the report.
func sendRecords(ctx context.Context, server *client.Client, records []stockRecord, report *importReport, progress progress) error {
	defer progress.finish()
	for start := 0; start < len(records); {
		end := batchEnd(records, start)
		request := api.ImportRequest{DryRun: report.DryRun}
		var rows []int
		for i := start; i < end; i++ {
			if records[i].err == nil {
				rows = append(rows, i)
				request.Records = append(request.Records, api.ImportRecord{
					Key:  records[i].key,
					Lock: enhanced.SanitizeProjectLock(records[i].lock),
				})
			}
		}
		if len(rows) > 0 {
			answer, err := server.Import(ctx, request)
			if err != nil {
				return err
			}
			if len(answer.Results) != len(rows) {
				return fmt.Errorf("%s answered %s for %s", server.Server(), count(len(answer.Results), "result"), count(len(rows), "record"))
			}
			for i, row := range rows {
				report.enter(row, answer.Results[i])
			}
		}
		progress.add(end - start)
		start = end
	}
	return nil
}

// batchEnd returns where the batch ends that begins at start.
func batchEnd(records []stockRecord, start int) int {
	size := 0
	for i := start; i < len(records); i++ {
		size += records[i].size
		if i > start && (i-start == batchRecords || size > batchBytes) {
			return i
		}
	}
	return len(records)
}
