package enhanced

import (
	"fmt"
)

// Fallback says whether the legacy database would answer if the store failed now,
// or does so. It asks no store. The fallback begins with the first call of a
// method that decides on project locks.
func (a *LockingAdapter) Fallback() FallbackStatus {
	if f := a.runningFallback(); f != nil {
		return f.status()
	}
	state := a.state.Load()
	reason := a.noFallback(state.config)
	if reason == nil {
		return FallbackStatus{State: FallbackClosed, Reason: "this process has not reached the store yet"}
	}
	return FallbackStatus{State: FallbackOff, Reason: reason.Error()}
}

// noFallback returns why there is no fallback with a configuration, nil if there
// is one.
func (a *LockingAdapter) noFallback(config *EnhancedConfig) error {
	single, is := a.backend.(SingleProcessStore)
	switch {
	case !config.Enabled:
		return noFallbackError("enabled: false, the legacy database decides")
	case !config.LegacyFallback:
		return noFallbackError("legacy_fallback: false")
	case config.AdapterName != "":
		return fmt.Errorf("adapter_name: %q, the mode of the fleet says which databases decide", config.AdapterName)
	case a.legacy == nil:
		return noFallbackError("legacy_fallback: true, but there is no legacy database")
	case !config.FallbackSingleReplica && !(is && single.SingleProcess()):
		return noFallbackError("legacy_fallback: true needs fallback_single_replica: true, which is false; several replicas that share the store, each with a legacy database of its own, would grant one lock to several while they can't reach it")
	default:
		return nil
	}
}

// noFallbackError is one of noFallback, which is asked with each operation: to make
// another error each time takes a while.
type noFallbackError string

func (e noFallbackError) Error() string { return string(e) }

func (a *LockingAdapter) hasFallback(config *EnhancedConfig) bool { return a.noFallback(config) == nil }

// fallbackFor returns the fallback, which it starts if there is to be one; nil
// for none.
func (a *LockingAdapter) fallbackFor(config *EnhancedConfig) *fallback {
	a.fallbackMu.Lock()
	defer a.fallbackMu.Unlock()
	if a.fallback != nil || a.closed {
		return a.fallback
	}
	if reason := a.noFallback(config); reason != nil {
		if !a.warned && config.LegacyFallback && a.legacy != nil {
			a.logger.Warn("there is no fallback to the legacy database: %v", reason)
			a.warned = true
		}
		return nil
	}
	a.fallback = newFallback(a.store, a.legacy, a.logger)
	return a.fallback
}

func (a *LockingAdapter) runningFallback() *fallback {
	a.fallbackMu.Lock()
	defer a.fallbackMu.Unlock()
	return a.fallback
}

// mayEndFallback refuses a configuration that would forget what the legacy
// database has granted while the store failed, or was switched off.
func (a *LockingAdapter) mayEndFallback(config *EnhancedConfig) error {
	reason := a.noFallback(config)
	if reason == nil || !config.Enabled {
		return nil
	}
	if f := a.runningFallback(); f != nil && f.isUsed() {
		return NewInvalidError("%v; the fallback is in use since %v, wait until the store has what the legacy database granted, see LockingAdapter.Fallback", reason, f.status().Since)
	}
	if a.legacy == nil || a.IsEnhancedModeEnabled() {
		return nil
	}
	// One that can't be asked is no reason to stay with it.
	if s, err := readStanding(a.legacy); err == nil && s != nil && !s.Alone.IsZero() {
		return NewInvalidError("%v; the legacy database decides alone since %v, and the store gets what it granted with the fallback only", reason, s.Alone)
	}
	return nil
}

// endFallback ends the fallback if there is to be none with a configuration. No
// operation is under way then. If the legacy database decides from now on, it gets what
// the store holds.
func (a *LockingAdapter) endFallback(config *EnhancedConfig) {
	a.fallbackMu.Lock()
	f := a.fallback
	if f == nil || a.hasFallback(config) {
		f = nil
	} else {
		a.fallback = nil
	}
	a.warned = false
	a.fallbackMu.Unlock()
	a.noted.Store(false)
	if f == nil {
		return
	}
	f.stop()
	if !config.Enabled {
		ctx, cancel := a.operationContext()
		defer cancel()
		f.handOver(ctx)
	}
}

// closeFallback ends the fallback for good.
func (a *LockingAdapter) closeFallback() {
	a.fallbackMu.Lock()
	f := a.fallback
	a.fallback, a.closed = nil, true
	a.fallbackMu.Unlock()
	if f != nil {
		f.stop()
	}
}
