package queue_test

import (
	"fmt"
	"math"
	"sync/atomic"
	"testing"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/queue"
)

// lengths returns how many entries wait in the queues that are measured.
func lengths() []int { return []int{1, 100, 10_000, 1_000_000} }

// benchmarkLines measures an operation on queues whose entries wait in one
// line, and in lines of ten. IDs are name(i), and entry i waits for
// name(i / perLine).
func benchmarkLines(b *testing.B, op func(b *testing.B, q *queue.PriorityQueue[int], length, perLine int)) {
	b.Helper()
	for _, length := range lengths() {
		for _, perLine := range [...]int{length, 10} {
			if perLine > length {
				continue
			}
			b.Run(fmt.Sprintf("waiting=%d/perline=%d", length, perLine), func(b *testing.B) {
				q := newPriorityQueue[int](b, queue.Options{Limit: math.MaxInt})
				for i := range length {
					push(b, q, name(i), name(i/perLine), 1, i)
				}
				b.ReportAllocs()
				op(b, q, length, perLine)
			})
		}
	}
}

// One entry is served and waits again at the end.
func BenchmarkPriorityQueuePushPop(b *testing.B) {
	benchmarkLines(b, func(b *testing.B, q *queue.PriorityQueue[int], length, perLine int) {
		lines := make([]string, length/perLine)
		for i := range lines {
			lines[i] = name(i)
		}
		for i := 0; b.Loop(); i++ {
			item, _ := q.Pop(lines[i%len(lines)])
			if _, err := q.Push(item.ID, item.Resource, item.Priority, item.Value); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// One entry, wherever it stands, leaves and waits again at the end.
func BenchmarkPriorityQueueRemove(b *testing.B) {
	benchmarkLines(b, func(b *testing.B, q *queue.PriorityQueue[int], length, _ int) {
		ids := make([]string, length)
		for i := range ids {
			ids[i] = name(i)
		}
		// A prime, so that it comes to all of them, from all over the heap.
		for i := 0; b.Loop(); i = (i + 7919) % length {
			item, _ := q.Remove(ids[i])
			if _, err := q.Push(item.ID, item.Resource, item.Priority, item.Value); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// What Push and Position cost in the middle of a line, where they count the
// entries ahead: half of those that wait.
func BenchmarkPriorityQueueMiddle(b *testing.B) {
	for _, length := range lengths() {
		b.Run(fmt.Sprintf("waiting=%d", length), func(b *testing.B) {
			q := newPriorityQueue[int](b, queue.Options{Limit: math.MaxInt})
			for i := range length {
				// The higher priority first, since each then goes to the end.
				push(b, q, name(i), "app", 2-2*i/length, i)
			}
			b.Run("op=push+remove", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if position, err := q.Push("new", "app", 2, 0); err != nil || position != (length+1)/2+1 {
						b.Fatal(position, err)
					}
					q.Remove("new")
				}
			})
			b.Run("op=position", func(b *testing.B) {
				b.ReportAllocs()
				middle := name((length - 1) / 2)
				for b.Loop() {
					if position, found := q.Position(middle); !found || position != (length+1)/2 {
						b.Fatal(position, found)
					}
				}
			})
		})
	}
}

// All processors at once, each on a line of its own.
func BenchmarkPriorityQueueParallel(b *testing.B) {
	q := newPriorityQueue[int](b, queue.Options{})
	var number atomic.Int64
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		id := name(int(number.Add(1)))
		for pb.Next() {
			if _, err := q.Push(id, id, 1, 0); err != nil {
				b.Error(err)
				return
			}
			q.Pop(id)
		}
	})
}

func BenchmarkMemoryQueuePushPop(b *testing.B) {
	for _, length := range lengths() {
		b.Run(fmt.Sprintf("waiting=%d", length), func(b *testing.B) {
			q := newMemoryQueue[int](b, math.MaxInt)
			for i := range length {
				if _, err := q.Push(i); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				value, _ := q.Pop()
				if _, err := q.Push(value); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
