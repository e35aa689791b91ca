package queue_test

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/queue"
	"pgregory.net/rapid"
)

// waiter is an entry of the model.
type waiter struct {
	id       string
	priority int
	come     int64 // ms
	number   int   // of all that came
	move     int   // number of the last move, 0 for none
}

// model is what a PriorityQueue is compared with: a sorted slice for each
// resource. It computes no ranks, so it shares no fault with the queue.
type model struct {
	interval int64 // ms, 0 is strict
	limit    int
	lines    map[string][]*waiter
	latest   int64
	pushes   int
	moves    int
}

func (m *model) compare(a, b *waiter) int {
	// Who was not moved has 0, the least.
	if byMove := cmp.Compare(b.move, a.move); byMove != 0 {
		return byMove
	}
	if m.interval == 0 {
		return cmp.Or(cmp.Compare(b.priority, a.priority), cmp.Compare(a.number, b.number))
	}
	// How much longer a has waited, against how much higher b is.
	return cmp.Or(cmp.Compare(int64(b.priority-a.priority)*m.interval, b.come-a.come), cmp.Compare(a.number, b.number))
}

// find returns where an ID waits, or -1.
func (m *model) find(id string) (resource string, index int) {
	for resource, line := range m.lines {
		if i := slices.IndexFunc(line, func(w *waiter) bool { return w.id == id }); i >= 0 {
			return resource, i
		}
	}
	return "", -1
}

func (m *model) push(id, resource string, priority int, come int64) int {
	m.latest = max(m.latest, come)
	m.pushes++
	m.lines[resource] = append(m.lines[resource], &waiter{id: id, priority: priority, come: m.latest, number: m.pushes})
	slices.SortFunc(m.lines[resource], m.compare)
	_, index := m.find(id)
	return index + 1
}

func (m *model) remove(resource string, index int) {
	m.lines[resource] = slices.Delete(m.lines[resource], index, index+1)
	if len(m.lines[resource]) == 0 {
		delete(m.lines, resource)
	}
}

func (m *model) size() int {
	size := 0
	for _, line := range m.lines {
		size += len(line)
	}
	return size
}

func TestPriorityQueueAgainstASortedSlice(t *testing.T) {
	t.Parallel()
	for name, interval := range map[string]time.Duration{
		"strict": 0, "ageing": time.Second, "fast ageing": time.Millisecond, "slow ageing": queue.MaxAgingInterval,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) { checkPriorityQueue(t, interval) })
		})
	}
}

func checkPriorityQueue(t *rapid.T, interval time.Duration) {
	// Lines of a few entries are often full, and those of many have deep heaps.
	m := &model{interval: interval.Milliseconds(), lines: make(map[string][]*waiter)}
	m.limit = rapid.SampledFrom([]int{1, 3, 100}).Draw(t, "limit")
	now := int64(1_800_000_000_000)
	q, err := queue.NewPriorityQueue[string](queue.Options{
		Order: queue.Order{AgingInterval: interval}, Limit: m.limit,
		Now: func() time.Time { return time.UnixMilli(now) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ids := rapid.Custom(func(t *rapid.T) string { return strconv.Itoa(rapid.IntRange(0, 60).Draw(t, "number")) })
	resources := rapid.SampledFrom([]string{"app", "app", "app", "web", ""})

	enter := func(t *rapid.T) {
		now += rapid.Int64Range(0, 3000).Draw(t, "later")
		id, resource, p := ids.Draw(t, "id"), resources.Draw(t, "resource"), priority().Draw(t, "priority")
		_, waits := m.find(id)
		full := len(m.lines[resource]) == m.limit
		want := 0
		if waits < 0 && !full {
			want = m.push(id, resource, p, now)
		}
		position, err := q.Push(id, resource, p, "value of "+id)
		if position != want || (err == nil) != (want > 0) {
			t.Fatalf("position %d of %s, %v; want %d", position, id, err, want)
		}
	}
	check := func(item queue.Item[string], found bool, resource string, index int) {
		if !found {
			if index >= 0 && index < len(m.lines[resource]) {
				t.Fatalf("nothing at %d of %q, want %v", index, resource, m.lines[resource][index])
			}
			return
		}
		if index < 0 || index >= len(m.lines[resource]) {
			t.Fatalf("%v at %d of %q, want nothing", item, index, resource)
		}
		want := m.lines[resource][index]
		if item.ID != want.id || item.Resource != resource || item.Priority != want.priority ||
			item.Enqueued.UnixMilli() != want.come || item.Value != "value of "+want.id {
			t.Fatalf("%v at %d of %q, want %v", item, index, resource, want)
		}
	}
	t.Repeat(map[string]func(*rapid.T){
		// More often than the others, so that lines become long.
		"push": enter, "push more": enter, "push again": enter,
		"set back": func(t *rapid.T) { now -= rapid.Int64Range(0, 5000).Draw(t, "back") },
		"pop": func(t *rapid.T) {
			resource := resources.Draw(t, "resource")
			item, found := q.Pop(resource)
			check(item, found, resource, 0)
			if found {
				m.remove(resource, 0)
			}
		},
		"remove": func(t *rapid.T) {
			id := ids.Draw(t, "id")
			resource, index := m.find(id)
			item, found := q.Remove(id)
			check(item, found, resource, index)
			if found {
				m.remove(resource, index)
			}
		},
		"move": func(t *rapid.T) {
			id := ids.Draw(t, "id")
			resource, index := m.find(id)
			if q.MoveToFront(id) != (index >= 0) {
				t.Fatalf("%s is at %d of %q", id, index, resource)
			}
			if index >= 0 {
				m.moves++
				m.lines[resource][index].move = m.moves
				slices.SortFunc(m.lines[resource], m.compare)
			}
		},
		"": func(t *rapid.T) {
			if q.Size() != m.size() {
				t.Fatalf("size %d, want %d", q.Size(), m.size())
			}
			if got, want := q.Resources(), slices.Sorted(maps.Keys(m.lines)); !slices.Equal(got, want) {
				t.Fatalf("resources %q, want %q", got, want)
			}
			for _, resource := range []string{"app", "web", "", "none"} {
				items := q.Items(resource)
				if len(items) != len(m.lines[resource]) || q.Len(resource) != len(items) {
					t.Fatalf("%d items and length %d of %q, want %d", len(items), q.Len(resource), resource, len(m.lines[resource]))
				}
				first, found := q.Peek(resource)
				check(first, found, resource, 0)
				for i, item := range items {
					check(item, true, resource, i)
					if position, found := q.Position(item.ID); !found || position != i+1 {
						t.Fatalf("position %d, %v of %s, want %d", position, found, item.ID, i+1)
					}
				}
			}
		},
	})
}
