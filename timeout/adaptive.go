package timeout

import (
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// AdaptiveOptions configure an [AdaptiveTimeoutManager]. The zero value works.
type AdaptiveOptions struct {
	// Min and Max bound the time-outs. Max is the time-out of an operation of
	// which little is known yet. Defaults 100ms and 5s.
	Min time.Duration
	Max time.Duration
	// Quantile, above 0 and at most 1, is the share of calls whose latency counts
	// as usual. Default 0.99.
	Quantile float64
	// Factor, at least 1, is how many times the usual latency a call may take.
	// Above 1, it lets the time-out grow when calls run into it. Default 4.
	Factor float64
}

// window is how many latencies of an operation are kept, the latest ones.
const window = 256

// enough is how many latencies make an estimate; it is renewed at each as many.
const enough = 16

// AdaptiveTimeoutManager gives each operation a time-out that follows its
// latency:
//
//	timeout = min(Max, max(Min, Factor * q))
//
// where q is the Quantile of the last 256 latencies by the nearest rank
// (definition 1 of Hyndman and Fan, "Sample Quantiles in Statistical Packages",
// 1996), renewed with every 16th. That a usual latency in a high quantile is the
// yardstick for giving up on a call is from Dean and Barroso, "The Tail at
// Scale" (2013), https://doi.org/10.1145/2408776.2408794.
//
// A call that ran into its time-out is observed with the time it took, so the
// time-out grows by Factor while the operation has become slower than it, as the
// retransmission time-out of https://www.rfc-editor.org/rfc/rfc6298 does in its
// section 5.5, and comes back with the last slow call that leaves the window.
//
// Make it with [NewAdaptiveTimeoutManager]; all methods are safe for concurrent
// use. It keeps 2 KiB for each operation, and never forgets one: name operations
// after what is done, not after whom or what it is done to.
type AdaptiveTimeoutManager struct {
	options    AdaptiveOptions
	operations sync.Map // of *latencies, by name
}

type latencies struct {
	timeout atomic.Int64

	mu    sync.Mutex // protects all below
	ring  [window]time.Duration
	count int
}

// NewAdaptiveTimeoutManager answers [ErrInvalid] for options out of their bounds,
// and for a Min above Max.
func NewAdaptiveTimeoutManager(options AdaptiveOptions) (*AdaptiveTimeoutManager, error) {
	o := options
	if o.Min == 0 {
		o.Min = 100 * time.Millisecond
	}
	if o.Max == 0 {
		o.Max = 5 * time.Second
	}
	if o.Quantile == 0 {
		o.Quantile = 0.99
	}
	if o.Factor == 0 {
		o.Factor = 4
	}
	switch {
	case o.Min < 0:
		return nil, fmt.Errorf("%w: Min %v is negative", ErrInvalid, o.Min)
	case o.Min > o.Max:
		return nil, fmt.Errorf("%w: Min %v is above Max %v", ErrInvalid, o.Min, o.Max)
	case !(o.Quantile > 0 && o.Quantile <= 1): // NaN, too
		return nil, fmt.Errorf("%w: Quantile %v is not above 0 and at most 1", ErrInvalid, o.Quantile)
	case !(o.Factor >= 1) || math.IsInf(o.Factor, 0):
		return nil, fmt.Errorf("%w: Factor %v is not a number of at least 1", ErrInvalid, o.Factor)
	}
	return &AdaptiveTimeoutManager{options: o}, nil
}

// Timeout returns the time-out of an operation now.
func (m *AdaptiveTimeoutManager) Timeout(operation string) time.Duration {
	if l, known := m.operations.Load(operation); known {
		return time.Duration(l.(*latencies).timeout.Load()) //nolint:errcheck,forcetypeassert // nothing else is in it
	}
	return m.options.Max
}

// Observe takes in how long a call took, until its answer or until its time-out
// ended it. Calls that their callers ended for other reasons are not to be
// observed: they say nothing about the operation.
func (m *AdaptiveTimeoutManager) Observe(operation string, latency time.Duration) {
	any, known := m.operations.Load(operation)
	if !known {
		fresh := &latencies{}
		fresh.timeout.Store(int64(m.options.Max))
		any, _ = m.operations.LoadOrStore(operation, fresh)
	}
	l := any.(*latencies) //nolint:errcheck,forcetypeassert // nothing else is in it
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ring[l.count%window] = latency
	l.count++
	if l.count%enough == 0 {
		l.timeout.Store(int64(m.estimate(l)))
	}
}

// estimate is the formula. The latencies are locked.
func (m *AdaptiveTimeoutManager) estimate(l *latencies) time.Duration {
	sorted := l.ring
	n := min(l.count, window)
	slices.Sort(sorted[:n])
	rank := max(1, int(math.Ceil(m.options.Quantile*float64(n))))
	usual := float64(sorted[rank-1]) * m.options.Factor
	return time.Duration(min(float64(m.options.Max), max(float64(m.options.Min), usual)))
}
