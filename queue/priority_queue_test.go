package queue_test

import (
	"math"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/queue"
	"github.com/stretchr/testify/require"
)

func TestPriorityQueueRefusesItsOptions(t *testing.T) {
	t.Parallel()
	for message, options := range map[string]queue.Options{
		"limit -1":                 {Limit: -1},
		"-9223372036854775808":     {Limit: math.MinInt},
		"ageing interval -1s":      {Order: queue.Order{AgingInterval: -time.Second}},
		"ageing interval 1µs":      {Order: queue.Order{AgingInterval: time.Microsecond}},
		"ageing interval 8760h0m1": {Order: queue.Order{AgingInterval: queue.MaxAgingInterval + time.Second}},
	} {
		q, err := queue.NewPriorityQueue[int](options)
		require.Nil(t, q)
		require.ErrorIs(t, err, queue.ErrInvalid)
		require.ErrorContains(t, err, message)
	}
}

func TestAnEmptyPriorityQueue(t *testing.T) {
	t.Parallel()
	q := newPriorityQueue[int](t, queue.Options{})
	push(t, q, "gone", "app", 0, 1)
	_, found := q.Remove("gone")
	require.True(t, found)

	_, found = q.Pop("app")
	require.False(t, found)
	_, found = q.Peek("app")
	require.False(t, found)
	_, found = q.Remove("gone")
	require.False(t, found)
	_, found = q.Position("gone")
	require.False(t, found)
	require.False(t, q.MoveToFront("gone"))
	require.Zero(t, q.Len("app"))
	require.Zero(t, q.Size())
	require.Empty(t, q.Items("app"))
	require.Empty(t, q.Resources(), "an empty line is no line")
}

func TestPushRefusesADuplicate(t *testing.T) {
	t.Parallel()
	q := newPriorityQueue[int](t, queue.Options{})
	push(t, q, "a", "app", 1, 1)
	for _, resource := range []string{"app", "web"} {
		position, err := q.Push("a", resource, 3, 2)
		require.Zero(t, position)
		require.ErrorIs(t, err, queue.ErrDuplicate)
		require.NotErrorIs(t, err, queue.ErrFull)
		var duplicate *queue.DuplicateError
		require.ErrorAs(t, err, &duplicate)
		require.Equal(t, queue.DuplicateError{ID: "a", Resource: "app"}, *duplicate)
		require.EqualError(t, err, `"a" waits already, for "app"`)
	}
	require.Equal(t, []string{"app"}, q.Resources())
	item, _ := q.Pop("app")
	require.Equal(t, 1, item.Value, "the first one stays as it was")
	require.Equal(t, 1, push(t, q, "a", "web", 3, 2), "an ID may come again")
}

func TestTheLimitIsThatOfOneLine(t *testing.T) {
	t.Parallel()
	q := newPriorityQueue[int](t, queue.Options{Limit: 2})
	push(t, q, "a", "app", 0, 0)
	push(t, q, "b", "app", 0, 0)
	position, err := q.Push("c", "app", queue.MaxPriority, 0)
	require.Zero(t, position)
	require.ErrorIs(t, err, queue.ErrFull)
	require.NotErrorIs(t, err, queue.ErrDuplicate)
	var full *queue.FullError
	require.ErrorAs(t, err, &full)
	require.Equal(t, queue.FullError{Resource: "app", Size: 2, Limit: 2}, *full)
	require.EqualError(t, err, `queue of "app" is full: 2 of 2 wait`)

	push(t, q, "c", "web", 0, 0)
	_, found := q.Remove("a")
	require.True(t, found)
	require.Equal(t, 2, push(t, q, "d", "app", 0, 0), "a place is free again")
}

func TestTheDefaultLimit(t *testing.T) {
	t.Parallel()
	q := newPriorityQueue[int](t, queue.Options{})
	for i := range queue.DefaultLimit {
		require.Equal(t, i+1, push(t, q, name(i), "app", 0, 0))
	}
	_, err := q.Push("one more", "app", 0, 0)
	require.ErrorIs(t, err, queue.ErrFull)
}

func TestPushRefusesPrioritiesOutOfBounds(t *testing.T) {
	t.Parallel()
	q := newPriorityQueue[int](t, queue.Options{})
	for _, priority := range []int{queue.MinPriority - 1, queue.MaxPriority + 1, math.MinInt, math.MaxInt} {
		_, err := q.Push("a", "app", priority, 0)
		require.ErrorIs(t, err, queue.ErrInvalid)
		require.ErrorContains(t, err, "is not from -1000 to 1000")
	}
	require.Zero(t, q.Size())
	push(t, q, "lowest", "app", queue.MinPriority, 0)
	require.Equal(t, 1, push(t, q, "highest", "app", queue.MaxPriority, 0))
}

func TestItemsTellWhatWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ageing := perMinute()
		q := newPriorityQueue[string](t, queue.Options{Order: ageing})
		push(t, q, "a", "app", 1, "alpha")
		start := time.Now()
		<-time.After(90 * time.Second)
		push(t, q, "b", "app", 2, "beta")
		a := queue.Item[string]{
			ID: "a", Resource: "app", Priority: 1, Enqueued: start, Rank: ageing.Rank(1, start, 1), Value: "alpha",
		}
		late := start.Add(90 * time.Second)
		b := queue.Item[string]{
			ID: "b", Resource: "app", Priority: 2, Enqueued: late, Rank: ageing.Rank(2, late, 2), Value: "beta",
		}
		require.Equal(t, []queue.Item[string]{a, b}, q.Items("app"), "it has waited a priority's worth longer")
		require.True(t, q.MoveToFront("b"))
		b.Rank = ageing.Moved(1)
		require.Equal(t, []queue.Item[string]{b, a}, q.Items("app"))
		first, _ := q.Peek("app")
		require.Equal(t, b, first)
	})
}

// Set back by an hour, a clock must not let who comes now overtake who waits.
func TestAClockThatIsSetBackKeepsTheOrder(t *testing.T) {
	t.Parallel()
	now := time.Now()
	q := newPriorityQueue[int](t, queue.Options{Order: perMinute(), Now: func() time.Time { return now }})
	push(t, q, "first", "app", 1, 0)
	now = now.Add(-time.Hour)
	require.Equal(t, 2, push(t, q, "second", "app", 1, 0))
	now = now.Add(time.Hour + time.Second)
	require.Equal(t, 3, push(t, q, "third", "app", 1, 0))
}

// Ranks are made of the wall clock, so times have to be compared by it alone:
// the monotonic part goes on where the wall clock was set back.
func TestTimesHaveNoMonotonicPart(t *testing.T) {
	t.Parallel()
	q := newPriorityQueue[int](t, queue.Options{})
	push(t, q, "a", "app", 1, 0)
	item, _ := q.Peek("app")
	require.WithinDuration(t, time.Now(), item.Enqueued, time.Minute)
	require.Equal(t, item.Enqueued.Round(0), item.Enqueued)
}

// What has left is free for the garbage collector, though the line lives on and
// keeps the slots.
func TestThePriorityQueueKeepsNothingThatLeft(t *testing.T) {
	t.Parallel()
	q := newPriorityQueue[*[64]byte](t, queue.Options{})
	var gone []weak.Pointer[[64]byte]
	for i := range 16 {
		value := new([64]byte)
		gone = append(gone, weak.Make(value))
		push(t, q, name(i), "app", i%4, value)
	}
	push(t, q, "stays", "app", queue.MinPriority, nil)
	for q.Len("app") > 1 {
		_, found := q.Pop("app")
		require.True(t, found)
		_, found = q.Remove(q.Items("app")[(q.Len("app")-1)/2].ID)
		require.True(t, found)
	}
	require.Equal(t, "stays", q.Items("app")[0].ID)
	runtime.GC()
	for _, value := range gone {
		require.Nil(t, value.Value())
	}
	runtime.KeepAlive(q)
}

func newPriorityQueue[T any](tb testing.TB, options queue.Options) *queue.PriorityQueue[T] {
	tb.Helper()
	q, err := queue.NewPriorityQueue[T](options)
	require.NoError(tb, err)
	return q
}

func push[T any](tb testing.TB, q *queue.PriorityQueue[T], id, resource string, priority int, value T) int {
	tb.Helper()
	position, err := q.Push(id, resource, priority, value)
	require.NoError(tb, err)
	return position
}
