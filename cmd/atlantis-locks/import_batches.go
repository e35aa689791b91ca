package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/client"
	"github.com/runatlantis/atlantis/server/events/models"
)

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
	progress.add(len(records) - report.Counts.NotTried)
	for _, batch := range batches(records) {
		request := api.ImportRequest{DryRun: report.DryRun}
		for _, i := range batch {
			request.Records = append(request.Records, api.ImportRecord{
				Key:  records[i].key,
				Lock: enhanced.SanitizeProjectLock(records[i].lock),
			})
		}
		answer, err := server.Import(ctx, request)
		if err != nil {
			return err
		}
		if len(answer.Results) != len(batch) {
			return fmt.Errorf("%s answered %s for %s", server.Server(), count(len(answer.Results), "result"), count(len(batch), "record"))
		}
		for n, i := range batch {
			report.enter(i, answer.Results[n])
		}
		progress.add(len(batch))
	}
	return nil
}

// batches cuts the records that could be read into requests, and returns their
// indexes. Records that exclude each other go into one request: there a dry run
// can tell which of them gets the lock.
func batches(records []stockRecord) (batches [][]int) {
	var batch []int
	size := 0
	for _, group := range rivals(records) {
		groupSize := 0
		for _, i := range group {
			groupSize += records[i].size
		}
		if len(batch) > 0 && (len(batch)+len(group) > batchRecords || size+groupSize > batchBytes) {
			batches, batch, size = append(batches, batch), nil, 0
		}
		batch, size = append(batch, group...), size+groupSize
		// More than fit in one request are no data of Atlantis'.
		for len(batch) > api.MaxImportRecords {
			batches, batch = append(batches, batch[:api.MaxImportRecords]), batch[api.MaxImportRecords:]
		}
	}
	if len(batch) > 0 {
		batches = append(batches, batch)
	}
	return batches
}

// rivals groups the records that could be read by what they exclude each other
// for. The lock under the present form of its key comes first in its group: of
// two, it is the one that counts in a store that has both.
func rivals(records []stockRecord) (groups [][]int) {
	byKey := make(map[string]int)
	for i, record := range records {
		if record.err != nil {
			continue
		}
		key := enhanced.ProjectResource(record.lock.Project, record.lock.Workspace).LegacyKey()
		group, found := byKey[key]
		if !found {
			group = len(groups)
			byKey[key], groups = group, append(groups, nil)
		}
		groups[group] = append(groups[group], i)
	}
	for _, group := range groups {
		slices.SortStableFunc(group, func(x, y int) int { return cmp.Compare(isOldKey(records[x]), isOldKey(records[y])) })
	}
	return groups
}

// isOldKey returns 1 for a record under a key from before Atlantis v0.40, else 0.
func isOldKey(record stockRecord) int {
	if record.key == models.GenerateLockKey(record.lock.Project, record.lock.Workspace) {
		return 0
	}
	return 1
}
