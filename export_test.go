package enhanced

import "time"

// SleepOver makes a handle see that the machine was suspended for so long.
func (h *Handle) SleepOver(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sent.all -= d
	h.got.all -= d
}
