package backendtest

import (
	"context"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// queueConfig is a configuration with the queue on.
func queueConfig(change func(c *enhanced.EnhancedConfig)) *enhanced.EnhancedConfig {
	config := enhanced.DefaultConfig()
	config.EnablePriorityQueue = true
	if change != nil {
		change(config)
	}
	return config
}

// waiter is a call that waits in a goroutine.
type waiter struct {
	request *enhanced.EnhancedLockRequest
	cancel  context.CancelFunc
	done    chan struct{}
	lock    *enhanced.EnhancedLock
	err     error
}

// enqueue starts a call and returns once it waits.
func enqueue(t *testing.T, b enhanced.Backend, request *enhanced.EnhancedLockRequest) *waiter {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &waiter{request: request, cancel: cancel, done: make(chan struct{})}
	before := queueLength(t, b)
	go func() {
		defer close(w.done)
		w.lock, w.err = b.AcquireLock(ctx, request)
	}()
	t.Cleanup(func() {
		cancel()
		<-w.done
	})
	Eventually(t, "the request waits", func() bool {
		select {
		case <-w.done:
			t.Fatalf("the request does not wait: %v", w.err)
		default:
		}
		return queueLength(t, b) > before
	})
	return w
}

func queueLength(t *testing.T, b enhanced.Backend) int {
	t.Helper()
	status, err := b.GetQueueStatus(t.Context())
	require.NoError(t, err)
	return status.Size
}

// result waits for the call's answer.
func (w *waiter) result(t *testing.T) (*enhanced.EnhancedLock, error) {
	t.Helper()
	select {
	case <-w.done:
	case <-time.After(patience):
		t.Fatalf("%s still waits after %v", w.request.Owner().Describe(), patience)
	}
	return w.lock, w.err
}

func (w *waiter) requireGranted(t *testing.T) *enhanced.EnhancedLock {
	t.Helper()
	lock, err := w.result(t)
	require.NoError(t, err)
	require.Equal(t, w.request.Owner().String(), lock.Owner)
	return lock
}

func (w *waiter) requireWaits(t *testing.T) {
	t.Helper()
	select {
	case <-w.done:
		t.Fatalf("%s does not wait any more: %v", w.request.Owner().Describe(), w.err)
	default:
	}
}

func userWith(name, path string, priority enhanced.Priority) *enhanced.EnhancedLockRequest {
	r := userRequest(name, path)
	r.Priority = priority
	return r
}

// requireVerified checks that nothing is wrong with what is stored.
func requireVerified(t *testing.T, b enhanced.Backend) {
	t.Helper()
	violations, err := b.(enhanced.Verifier).Verify(t.Context())
	require.NoError(t, err)
	require.Empty(t, violations)
}
