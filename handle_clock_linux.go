package enhanced

import (
	"time"

	"golang.org/x/sys/unix"
)

// awakeOrNot reads a clock that also runs while the machine is suspended, which
// Go's monotonic clock on Linux (CLOCK_MONOTONIC) does not, and that nobody can
// set. See https://man7.org/linux/man-pages/man2/clock_gettime.2.html.
func awakeOrNot() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0 // before Linux 2.6.39; the monotonic clock remains
	}
	return time.Duration(now.Nano())
}
