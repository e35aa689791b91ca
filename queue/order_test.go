package queue_test

import (
	"math"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/queue"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// Stores keep scores and compare them with ours: they must never change.
func TestRanks(t *testing.T) {
	t.Parallel()
	const band = 1 << 42
	strict, ageing := queue.Order{}, perMinute()
	longest := queue.Order{AgingInterval: queue.MaxAgingInterval}
	come := time.UnixMilli(1_800_000_000_000)
	tests := map[string]struct {
		order    queue.Order
		priority int
		enqueued time.Time
		sequence uint64
		score    int64
	}{
		"strict":                          {strict, 1, come, 7, 999*band + 7},
		"strict first":                    {strict, 0, come, 0, 1000 * band},
		"strict highest":                  {strict, queue.MaxPriority, come, 1, 1},
		"strict lowest":                   {strict, queue.MinPriority, come, 1, 2000*band + 1},
		"strict last":                     {strict, queue.MinPriority, come, queue.MaxSequence, 2001*band - 1},
		"strict sequence above":           {strict, queue.MinPriority, come, queue.MaxSequence + 1, 2001*band - 1},
		"strict sequence far above":       {strict, queue.MaxPriority, come, math.MaxUint64, band - 1},
		"strict priority above":           {strict, math.MaxInt, come, 1, 1},
		"strict priority below":           {strict, math.MinInt, come, 1, 2000*band + 1},
		"strict ignores time":             {strict, 1, time.Time{}, 7, 999*band + 7},
		"interval below counts as strict": {queue.Order{AgingInterval: -time.Minute}, 1, come, 7, 999*band + 7},

		"ageing":                     {ageing, 0, come, 7, 1_800_000_000_000},
		"ageing raised":              {ageing, 2, come, 7, 1_800_000_000_000 - 2*60_000},
		"ageing lowered":             {ageing, -2, come, 7, 1_800_000_000_000 + 2*60_000},
		"ageing below a millisecond": {ageing, 0, come.Add(999_999), 7, 1_800_000_000_000},
		"ageing before 1970":         {ageing, 0, time.UnixMilli(-5), 7, -5},
		"ageing year 1":              {ageing, 0, time.Time{}, 7, -62_135_596_800_000},
		"ageing priority above":      {ageing, math.MaxInt, come, 7, 1_800_000_000_000 - 1000*60_000},
		"ageing priority below":      {ageing, math.MinInt, come, 7, 1_800_000_000_000 + 1000*60_000},
		"ageing longest":             {longest, queue.MaxPriority, come, 7, 1_800_000_000_000 - 31_536_000_000_000},
		"ageing interval above":      {queue.Order{AgingInterval: math.MaxInt64}, 1, come, 7, 1_800_000_000_000 - 31_536_000_000},
		"ageing interval tiny":       {queue.Order{AgingInterval: 1}, 1, come, 7, 1_799_999_999_999},
		"ageing lowest of all":       {longest, queue.MaxPriority, time.Unix(math.MinInt64/2, 0), 7, -1<<51 - 31_536_000_000_000},
		"ageing highest of all":      {longest, queue.MinPriority, time.Unix(math.MaxInt64/2, 0), 7, 1<<51 + 31_536_000_000_000},
	}
	for name, test := range tests {
		rank := test.order.Rank(test.priority, test.enqueued, test.sequence)
		require.Equal(t, queue.Rank{Score: test.score, Sequence: test.sequence}, rank, name)
		requireExact(t, rank)
		require.Negative(t, test.order.Moved(0).Compare(rank), name)
	}
}

func TestMovedRanks(t *testing.T) {
	t.Parallel()
	for moves, score := range map[uint64]int64{
		0: -1 << 52, 1: -1<<52 - 1, 1000: -1<<52 - 1000,
		1<<52 - 1: -1<<53 + 1, 1 << 52: -1<<53 + 1, math.MaxUint64: -1<<53 + 1,
	} {
		for _, order := range []queue.Order{{}, perMinute()} {
			require.Equal(t, queue.Rank{Score: score}, order.Moved(moves), moves)
			requireExact(t, order.Moved(moves))
		}
	}
	require.Negative(t, queue.Order{}.Moved(2).Compare(queue.Order{}.Moved(1)), "the latest move goes first")
}

func TestCompareRanks(t *testing.T) {
	t.Parallel()
	sorted := []queue.Rank{
		{math.MinInt64, 0}, {-1, math.MaxUint64}, {0, 0}, {0, 1}, {0, math.MaxUint64}, {1, 0}, {math.MaxInt64, 0},
	}
	for i, a := range sorted {
		for j, b := range sorted {
			require.Equal(t, i < j, a.Compare(b) < 0, "%v %v", a, b)
			require.Equal(t, i == j, a.Compare(b) == 0, "%v %v", a, b)
		}
	}
	require.True(t, slices.IsSortedFunc(sorted, queue.Rank.Compare))
}

func TestValidateOrder(t *testing.T) {
	t.Parallel()
	for _, interval := range []time.Duration{0, time.Millisecond, time.Hour, queue.MaxAgingInterval} {
		require.NoError(t, queue.Order{AgingInterval: interval}.Validate())
	}
	for _, interval := range []time.Duration{
		-time.Millisecond, 1, 1_500_000, queue.MaxAgingInterval + time.Millisecond, math.MinInt64, math.MaxInt64,
	} {
		err := queue.Order{AgingInterval: interval}.Validate()
		require.ErrorIs(t, err, queue.ErrInvalid)
		require.ErrorContains(t, err, interval.String(), "the message says what is wrong")
		require.ErrorContains(t, err, queue.MaxAgingInterval.String(), "and what would be right")
	}
}

// The promise of the package comment: who comes later goes first only with a
// higher priority, and only within the difference times the interval.
func TestAgeingBoundsTheWait(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		order := queue.Order{AgingInterval: time.Duration(rapid.Int64Range(1, 10_000).Draw(t, "ms")) * time.Millisecond}
		first, second := priority().Draw(t, "first"), priority().Draw(t, "second")
		come := time.Unix(1_800_000_000, rapid.Int64Range(0, 1e9).Draw(t, "ns"))
		bound := time.Duration(second-first) * order.AgingInterval
		later := rapid.OneOf(
			rapid.Int64Range(0, int64(time.Hour)),
			rapid.Int64Range(max(0, int64(bound)-2e6), max(0, int64(bound)+2e6)),
		).Draw(t, "later")
		waits := order.Rank(first, come, 1)
		overtakes := order.Rank(second, come.Add(time.Duration(later)), 2).Compare(waits) < 0
		if overtakes && time.Duration(later) >= bound {
			t.Fatalf("overtaken after %v, the bound is %v", time.Duration(later), bound)
		}
		// A rank has whole milliseconds.
		if !overtakes && time.Duration(later) <= bound-2*time.Millisecond {
			t.Fatalf("not overtaken after %v, the bound is %v", time.Duration(later), bound)
		}
	})
}

// Whatever it is given, a rank is exact, between the moved ones and 2^53, and
// the one that the definition gives.
func FuzzRank(f *testing.F) {
	f.Add(int64(0), 1, int64(1_800_000_000_000), uint64(7), uint64(1))
	f.Fuzz(func(t *testing.T, interval int64, priority int, ms int64, sequence, moves uint64) {
		order := queue.Order{AgingInterval: time.Duration(interval)}
		rank := order.Rank(priority, time.UnixMilli(ms), sequence)
		requireExact(t, rank)
		requireExact(t, order.Moved(moves))
		require.Negative(t, order.Moved(moves).Compare(rank))
		if moves < 1<<52-1 {
			require.Negative(t, order.Moved(moves+1).Compare(order.Moved(moves)))
		}
		if order.Validate() != nil || priority < queue.MinPriority || priority > queue.MaxPriority ||
			sequence > queue.MaxSequence || ms < -1<<51 || ms > 1<<51 {
			return
		}
		n := func(i int64) *big.Int { return big.NewInt(i) }
		want := new(big.Int).Add(new(big.Int).Mul(n(1000-int64(priority)), n(1<<42)), new(big.Int).SetUint64(sequence))
		if interval > 0 {
			want = new(big.Int).Sub(n(ms), new(big.Int).Mul(n(int64(priority)), n(interval/1e6)))
		}
		require.Equal(t, want.String(), n(rank.Score).String())
		require.Equal(t, sequence, rank.Sequence)
	})
}

// requireExact checks that a sorted set of Redis keeps the score.
func requireExact(t *testing.T, rank queue.Rank) {
	t.Helper()
	require.Equal(t, rank.Score, int64(float64(rank.Score)))
	require.Less(t, max(rank.Score, -rank.Score), int64(1<<53))
}

// perMinute is an order with ageing.
func perMinute() queue.Order { return queue.Order{AgingInterval: time.Minute} }

func priority() *rapid.Generator[int] {
	return rapid.OneOf(rapid.IntRange(0, 3), rapid.IntRange(queue.MinPriority, queue.MaxPriority))
}
