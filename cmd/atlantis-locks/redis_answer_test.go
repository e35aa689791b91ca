package main

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// Who has waited long enough is told why nothing answers; any other outcome is
// told as it is.
func TestAnswerIn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		refused, cut := errors.New("connection refused"), errors.New("connection cut")
		const limit = 15 * time.Second
		waits := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		var f redisServers
		require.NoError(t, f.answerIn(t.Context(), limit, func(context.Context) error { return nil }))
		require.Equal(t, cut, f.answerIn(t.Context(), limit, func(context.Context) error { return cut }))
		require.EqualError(t, f.answerIn(t.Context(), limit, waits), "no answer in 15s")

		var outcome error
		dial := f.dials.remember(func(context.Context, string, string) (net.Conn, error) { return nil, outcome })
		dialing := func(err error) { outcome = err; _, _ = dial(t.Context(), "tcp", "a:1") }
		dialing(refused)
		dialing(context.Canceled)
		require.EqualError(t, f.answerIn(t.Context(), limit, waits), "no answer in 15s: connection refused")
		dialing(nil)
		require.EqualError(t, f.answerIn(t.Context(), limit, waits), "no answer in 15s")

		ended, end := context.WithTimeout(t.Context(), time.Second)
		defer end()
		require.Equal(t, context.DeadlineExceeded, f.answerIn(ended, limit, waits), "who calls has stopped waiting")
	})
}

// scans is a server of two pages without keys. It notes which of its answers are
// waited for with a limit.
type scans struct {
	redis.Cmdable
	limited []bool
}

func (s *scans) Scan(ctx context.Context, cursor uint64, _ string, _ int64) *redis.ScanCmd {
	_, limited := ctx.Deadline()
	s.limited = append(s.limited, limited)
	return redis.NewScanCmdResult(nil, 1-cursor, nil)
}

// A server has to answer soon, and then may have as much as it wants.
func TestImportLimitsTheFirstAnswerOnly(t *testing.T) {
	t.Parallel()
	var node scans
	_, err := new(redisServers).readStockKeys(t.Context(), &node)
	require.NoError(t, err)
	require.Equal(t, []bool{true, false}, node.limited)
}
