package main

import (
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"testing"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/stretchr/testify/require"
)

func TestDecodeStockRecord(t *testing.T) {
	value, err := json.Marshal(stockLock("acme/infra", "a/b", "default", 5))
	require.NoError(t, err)
	for name, c := range map[string]struct {
		key, value, unreadable string
	}{
		"today":             {"acme/infra/a/b/default/", string(value), ""},
		"before v0.40":      {"acme/infra/a/b/default", string(value), ""},
		"another workspace": {"acme/infra/a/b/other/", string(value), "its key is that of another project"},
		"cut off":           {"acme/infra/a/b/default/", string(value[:40]), "it is not JSON of a lock"},
		"empty":             {"acme/infra/a/b/default/", "", "it is not JSON of a lock"},
		"null":              {"acme/infra/a/b/default/", "null", "it is not JSON of a lock"},
		"array":             {"acme/infra/a/b/default/", "[]", "it is not JSON of a lock"},
		"empty object":      {"/./", "{}", "it names no repository or no workspace"},
	} {
		t.Run(name, func(t *testing.T) {
			record := decodeStockRecord(c.key, []byte(c.value))
			if c.unreadable == "" {
				require.NoError(t, record.err)
				require.Equal(t, 5, record.lock.Pull.Num)
				return
			}
			require.EqualError(t, record.err, c.unreadable)
		})
	}
	require.EqualError(t, decodeStockRecord("nested", nil).err, "it is a bucket, not a record")
}

func TestBatches(t *testing.T) {
	sizes := func(sizes ...int) (lengths []int) {
		records := make([]stockRecord, len(sizes))
		for i, size := range sizes {
			records[i].lock = stockLock("acme/infra", "p"+strconv.Itoa(i), "default", 5)
			records[i].size = size
		}
		for _, batch := range batches(records) {
			lengths = append(lengths, len(batch))
		}
		return lengths
	}
	require.Empty(t, sizes())
	require.Equal(t, []int{1}, sizes(1))
	require.Equal(t, []int{batchRecords, 1}, sizes(slices.Repeat([]int{1}, batchRecords+1)...))
	require.Equal(t, []int{1, 2, 1}, sizes(batchBytes, batchBytes/2, batchBytes/2, 1))
	require.Equal(t, []int{1, 1, 1}, sizes(2*batchBytes, 2*batchBytes, 1), "a record that is too large for any batch goes alone")
	require.LessOrEqual(t, batchRecords, api.MaxImportRecords)
}

// Records that exclude each other stay together, the present key first, and no
// request has more than a server takes.
func TestBatchesKeepRivalsTogether(t *testing.T) {
	record := func(key string, path string) stockRecord {
		return stockRecord{key: key, size: 1, lock: stockLock("acme/infra", path, "default", 5)}
	}
	var records []stockRecord
	for i := range batchRecords - 1 {
		records = append(records, record("acme/infra/p"+strconv.Itoa(i)+"/default/", "p"+strconv.Itoa(i)))
	}
	records = append(records,
		stockRecord{err: errors.New("unreadable")},
		record("acme/infra/z/default", "z"), record("acme/infra/z/default/", "z"))
	got := batches(records)
	require.Len(t, got, 2)
	require.Len(t, got[0], batchRecords-1)
	require.Equal(t, []int{batchRecords + 1, batchRecords}, got[1])

	many := slices.Repeat([]stockRecord{record("k", "same")}, 2*api.MaxImportRecords+1)
	lengths := []int{}
	for _, batch := range batches(many) {
		lengths = append(lengths, len(batch))
	}
	require.Equal(t, []int{api.MaxImportRecords, api.MaxImportRecords, 1}, lengths)
}

func TestImportOutcome(t *testing.T) {
	held := api.ImportResult{Outcome: api.OutcomeSkipped, Code: "LOCK_EXISTS"}
	invalid := api.ImportResult{Outcome: api.OutcomeSkipped, Code: "INVALID_REQUEST"}
	taken := api.ImportResult{Outcome: api.OutcomeTaken}
	already := api.ImportResult{Outcome: api.OutcomeAlready}
	unreadable := stockRecord{err: errors.New("broken")}
	for name, c := range map[string]struct {
		records []stockRecord
		results []api.ImportResult
		code    int
	}{
		"nothing to do":       {nil, nil, exitDone},
		"taken and already":   {make([]stockRecord, 2), []api.ImportResult{taken, already}, exitDone},
		"held":                {make([]stockRecord, 2), []api.ImportResult{taken, held}, exitHeld},
		"invalid":             {make([]stockRecord, 1), []api.ImportResult{invalid}, exitError},
		"held and invalid":    {make([]stockRecord, 2), []api.ImportResult{held, invalid}, exitError},
		"held and unreadable": {[]stockRecord{{}, unreadable}, []api.ImportResult{held}, exitError},
		"unreadable":          {[]stockRecord{unreadable}, nil, exitError},
	} {
		t.Run(name, func(t *testing.T) {
			report := newImportReport("f", false, c.records)
			for i, result := range c.results {
				report.enter(i, result)
			}
			require.Equal(t, c.code, exitCode(report.outcome()))
			require.Zero(t, report.Counts.NotTried)
		})
	}
}
