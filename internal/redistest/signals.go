//go:build !windows

package redistest

import "syscall"

// Stop and Continue are the signals that stop a process and let it go on.
const (
	Stop     = syscall.SIGSTOP
	Continue = syscall.SIGCONT
)
