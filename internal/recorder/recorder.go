// Package recorder counts what a backend does, for its statistics.
package recorder

import (
	"sync"
	"time"
)

// window is how many of the latest requests the failure rate looks at.
const window = 100

// Recorder counts decisions. Its zero value is ready; it is safe for
// concurrent use.
type Recorder struct {
	mu       sync.Mutex // protects all below
	snapshot Snapshot
	waited   time.Duration
	held     time.Duration
	// recent is a ring of the latest requests; true marks a store failure.
	recent [window]bool
	next   int
}

// Snapshot is a copy of the counters.
type Snapshot struct {
	Acquired, Refused, Failed int64
	Released, Expired         int64
	// Unchecked counts requests that were not looked at to the end for deadlocks.
	Unchecked                int64
	AverageWait, AverageHold time.Duration
	// RecentFailureRate is the share of failures among the last 100 requests.
	RecentFailureRate float64
}

// Acquired counts a request that was granted after wait.
func (r *Recorder) Acquired(wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.snapshot.Acquired++
	r.waited += wait
	r.decided(false)
}

// Refused counts a request that was decided and not granted.
func (r *Recorder) Refused() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.snapshot.Refused++
	r.decided(false)
}

// Failed counts a request that the store could not decide.
func (r *Recorder) Failed() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.snapshot.Failed++
	r.decided(true)
}

func (r *Recorder) decided(failed bool) {
	r.recent[r.next] = failed
	r.next = (r.next + 1) % window
}

// Released counts a lock that was given back after it was held for that long.
func (r *Recorder) Released(held time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.snapshot.Released++
	r.held += held
}

// Expired counts a lock whose lease ran out after it was held for that long.
func (r *Recorder) Expired(held time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.snapshot.Expired++
	r.held += held
}

// Unchecked counts a request that has entered its queue before all that it waits
// for was looked at.
func (r *Recorder) Unchecked() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.snapshot.Unchecked++
}

// Snapshot returns the counters as they stand.
func (r *Recorder) Snapshot() Snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.snapshot
	if s.Acquired > 0 {
		s.AverageWait = r.waited / time.Duration(s.Acquired)
	}
	if ended := s.Released + s.Expired; ended > 0 {
		s.AverageHold = r.held / time.Duration(ended)
	}
	failures := 0
	for _, failed := range r.recent {
		if failed {
			failures++
		}
	}
	// Counted over the requests there have been, so that the first failures
	// of a fresh process weigh fully.
	if requests := min(s.Acquired+s.Refused+s.Failed, window); requests > 0 {
		s.RecentFailureRate = float64(failures) / float64(requests)
	}
	return s
}
