package enhanced

import "time"

// instant is a moment on the two clocks that leases are measured by here. Both
// only tell how much time has passed; neither is compared with another machine's.
type instant struct {
	awake time.Time     // Go's monotonic clock; it runs while the process is stopped
	all   time.Duration // it also runs while the machine is suspended
}

func rightNow() instant { return instant{time.Now(), awakeOrNot()} }

// since returns how much time has passed, by the clock that says more.
func (i instant) since() time.Duration {
	return max(time.Since(i.awake), awakeOrNot()-i.all)
}
