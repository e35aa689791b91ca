package queue_test

import (
	"math"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"weak"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/queue"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestMemoryQueueLimits(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{-1, math.MinInt} {
		q, err := queue.NewMemoryQueue[int](limit)
		require.Nil(t, q)
		require.ErrorIs(t, err, queue.ErrInvalid)
		require.ErrorContains(t, err, "limit "+strconv.Itoa(limit))
	}
	for limit, holds := range map[int]int{0: queue.DefaultLimit, 1: 1, 15: 15, 16: 16, 17: 17} {
		q := newMemoryQueue[int](t, limit)
		for i := range holds {
			position, err := q.Push(i)
			require.NoError(t, err)
			require.Equal(t, i+1, position)
		}
		position, err := q.Push(holds)
		require.Zero(t, position)
		require.ErrorIs(t, err, queue.ErrFull)
		var full *queue.FullError
		require.ErrorAs(t, err, &full)
		require.Equal(t, queue.FullError{Size: holds, Limit: holds}, *full)
		require.ErrorContains(t, err, "queue is full: ")
	}
	_, err := newMemoryQueue[int](t, math.MaxInt).Push(1)
	require.NoError(t, err, "room is made as it is needed")
}

func TestMemoryQueueAgainstASlice(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.SampledFrom([]int{1, 3, 16, 100}).Draw(t, "limit")
		q, err := queue.NewMemoryQueue[int](limit)
		if err != nil {
			t.Fatal(err)
		}
		var model []int
		next := 0
		enter := func(t *rapid.T) {
			// Several at once: the room for 16 has to be outgrown at every place
			// of the first value.
			for range rapid.IntRange(1, 12).Draw(t, "times") {
				next++
				position, err := q.Push(next)
				if full := len(model) == limit; full != (err != nil) {
					t.Fatalf("%v with %d waiting", err, len(model))
				} else if full {
					continue
				}
				model = append(model, next)
				if position != len(model) {
					t.Fatalf("position %d, want %d", position, len(model))
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"push": enter, "push more": enter,
			"pop": func(t *rapid.T) {
				for range rapid.IntRange(1, 12).Draw(t, "times") {
					value, found := q.Pop()
					if found != (len(model) > 0) || found && value != model[0] || !found && value != 0 {
						t.Fatalf("popped %d, %v of %v", value, found, model)
					}
					model = model[min(1, len(model)):]
				}
			},
			"": func(t *rapid.T) {
				if q.Len() != len(model) || !slices.Equal(q.Items(), model) {
					t.Fatalf("%d are %v, want %v", q.Len(), q.Items(), model)
				}
				value, found := q.Peek()
				if found != (len(model) > 0) || found && value != model[0] || !found && value != 0 {
					t.Fatalf("peeked %d, %v of %v", value, found, model)
				}
			},
		})
	})
}

func TestTheMemoryQueueKeepsNothingThatLeft(t *testing.T) {
	t.Parallel()
	q := newMemoryQueue[*[64]byte](t, 0)
	var gone []weak.Pointer[[64]byte]
	for range 20 {
		value := new([64]byte)
		gone = append(gone, weak.Make(value))
		_, err := q.Push(value)
		require.NoError(t, err)
	}
	for range 20 {
		_, found := q.Pop()
		require.True(t, found)
	}
	runtime.GC()
	for _, value := range gone {
		require.Nil(t, value.Value())
	}
	runtime.KeepAlive(q)
}

func TestMemoryQueueConcurrently(t *testing.T) {
	t.Parallel()
	const each = 500
	q := newMemoryQueue[int](t, workers*each)
	var left [workers * each]atomic.Int32
	// A value that is popped later than another one of its worker was pushed
	// later, for everyone who pops.
	atOnce(func(worker int) {
		last := make(map[int]int)
		for i := range each {
			_, err := q.Push(worker*each + i)
			assert.NoError(t, err)
			if i%2 == 1 {
				q.Peek()
				q.Items()
				value, found := q.Pop()
				assert.True(t, found, "more are pushed than popped")
				left[value].Add(1)
				from := value / each
				assert.GreaterOrEqual(t, value%each, last[from])
				last[from] = value % each
			}
		}
	})
	require.Equal(t, workers*each/2, q.Len())
	for q.Len() > 0 {
		value, _ := q.Pop()
		left[value].Add(1)
	}
	for value := range left {
		require.EqualValues(t, 1, left[value].Load(), value)
	}
}

func newMemoryQueue[T any](tb testing.TB, limit int) *queue.MemoryQueue[T] {
	tb.Helper()
	q, err := queue.NewMemoryQueue[T](limit)
	require.NoError(tb, err)
	return q
}
