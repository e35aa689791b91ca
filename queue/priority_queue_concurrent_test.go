package queue_test

import (
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/queue"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const workers = 8

// All goroutines use all methods at once; each entry leaves exactly once.
func TestEachEntryLeavesOnce(t *testing.T) {
	t.Parallel()
	const each = 200
	q := newPriorityQueue[int](t, queue.Options{Order: perMinute(), Limit: workers * each})
	var left [workers * each]atomic.Int32
	took := func(item queue.Item[int], found bool) {
		if found {
			left[item.Value].Add(1)
		}
	}
	atOnce(func(worker int) {
		for i := range each {
			value := worker*each + i
			id, resource := strconv.Itoa(value), name(value%3)
			position, err := q.Push(id, resource, value%4, value)
			assert.NoError(t, err)
			assert.Positive(t, position)
			switch i % 4 {
			case 0:
				took(q.Pop(resource))
			case 1:
				took(q.Remove(strconv.Itoa(value - 1)))
			case 2:
				q.MoveToFront(id)
				q.Position(id)
				q.Peek(resource)
			case 3:
				for _, item := range q.Items(resource) {
					assert.Equal(t, resource, item.Resource)
				}
				q.Resources()
			}
		}
	})
	size := 0
	for _, resource := range q.Resources() {
		size += q.Len(resource)
	}
	require.Equal(t, q.Size(), size)
	atOnce(func(worker int) {
		for range each {
			took(q.Pop(name(worker % 3)))
		}
	})
	for _, resource := range q.Resources() {
		for q.Len(resource) > 0 {
			took(q.Pop(resource))
		}
	}
	require.Zero(t, q.Size())
	require.Empty(t, q.Resources())
	for value := range left {
		require.EqualValues(t, 1, left[value].Load(), value)
	}
}

func TestOneOfManyCallersWins(t *testing.T) {
	t.Parallel()
	for range 50 {
		q := newPriorityQueue[int](t, queue.Options{Limit: 3})
		var pushed, removed, popped, fitted atomic.Int32
		atOnce(func(int) {
			if _, err := q.Push("same", "app", 1, 0); err == nil {
				pushed.Add(1)
			} else {
				assert.ErrorIs(t, err, queue.ErrDuplicate)
			}
		})
		atOnce(func(worker int) {
			if worker%2 == 0 {
				if _, found := q.Remove("same"); found {
					removed.Add(1)
				}
			} else if _, found := q.Pop("app"); found {
				popped.Add(1)
			}
		})
		atOnce(func(worker int) {
			if _, err := q.Push(name(worker), "app", 1, 0); err == nil {
				fitted.Add(1)
			} else {
				assert.ErrorIs(t, err, queue.ErrFull)
			}
		})
		require.EqualValues(t, 1, pushed.Load())
		require.EqualValues(t, 1, removed.Load()+popped.Load())
		require.EqualValues(t, 3, fitted.Load())
		require.Equal(t, 3, q.Len("app"))
	}
}

// Each goroutine calls one method alone, so that no lock of another one hides a
// missing one from the race detector.
func TestEachMethodTakesTheLock(t *testing.T) {
	t.Parallel()
	q := newPriorityQueue[int](t, queue.Options{})
	memory := newMemoryQueue[int](t, 0)
	together(
		func(i int) {
			_, err := q.Push(strconv.Itoa(i), "app", i%4, i)
			assert.NoError(t, err)
		},
		func(int) { q.Pop("app") },
		func(int) { q.Peek("app") },
		func(i int) { q.Remove(strconv.Itoa(i)) },
		func(i int) { q.Position(strconv.Itoa(i)) },
		func(i int) { q.MoveToFront(strconv.Itoa(i)) },
		func(int) { q.Len("app") },
		func(int) { q.Size() },
		func(int) { q.Resources() },
		func(int) { q.Items("app") },
	)
	together(
		func(i int) {
			_, err := memory.Push(i)
			assert.NoError(t, err)
		},
		func(int) { memory.Pop() },
		func(int) { memory.Peek() },
		func(int) { memory.Len() },
		func(int) { memory.Items() },
	)
}

// A clock that gives two callers their times in the other order than the lock
// lets them in doesn't change who came first.
func TestConcurrentPushesKeepTheirOrder(t *testing.T) {
	t.Parallel()
	const each = 100
	q := newPriorityQueue[int](t, queue.Options{Order: perMinute(), Limit: workers * each})
	atOnce(func(worker int) {
		for i := range each {
			_, err := q.Push(strconv.Itoa(worker)+"-"+strconv.Itoa(i), "app", 1, worker*each+i)
			assert.NoError(t, err)
		}
	})
	last := make(map[int]int)
	for i, item := range q.Items("app") {
		require.EqualValues(t, i+1, item.Rank.Sequence, "it is the order in which they came")
		worker := item.Value / each
		require.Equal(t, last[worker], item.Value%each, "of one worker in the order of its calls")
		last[worker]++
	}
}

// together calls each function 300 times in a goroutine of its own.
func together(calls ...func(i int)) {
	run(len(calls), func(number int) {
		for i := range 300 {
			calls[number](i)
		}
	})
}

// atOnce runs all workers, and waits for them.
func atOnce(work func(worker int)) { run(workers, work) }

// run runs n goroutines, released together, and waits for them.
func run(n int, work func(number int)) {
	start := make(chan struct{})
	var done sync.WaitGroup
	for number := range n {
		done.Go(func() {
			<-start
			work(number)
		})
	}
	close(start)
	done.Wait()
}

func name(i int) string { return "name-" + strconv.Itoa(i) }
