package redistest

import "syscall"

// Stop and Continue stand for the signals that stop a process and let it go on.
// Windows has none: to send one is an error.
const (
	Stop     = syscall.Signal(19)
	Continue = syscall.Signal(18)
)
