//go:build !linux

package enhanced

import "time"

// awakeOrNot reads a clock that also runs while the machine is suspended. Here
// that is the wall clock: who sets it forward ends leases early, never late,
// since the monotonic clock counts too.
func awakeOrNot() time.Duration { return time.Duration(time.Now().UnixNano()) }
