package redistest

import (
	"os/exec"
	"syscall"
)

// endWithTest has a test that is killed take a server along.
func endWithTest(server *exec.Cmd) {
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
