package main

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/term"
)

// passedOn are the signals that a command gets which this program gets.
func passedOn() []os.Signal {
	return []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2}
}

// processes are those of a command: a group of their own. With a terminal as its
// input the command stays in the group that the terminal talks to, since one of
// another group is stopped when it reads; then it is the command alone.
type processes struct {
	command  *exec.Cmd
	terminal bool
}

// newProcesses prepares a command that is to be started by the calling thread. If
// this program is killed the command is asked to end.
func newProcesses(command *exec.Cmd) *processes {
	p := &processes{command: command, terminal: term.IsTerminal(int(os.Stdin.Fd()))}
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: !p.terminal, Pdeathsig: syscall.SIGTERM}
	return p
}

// pass passes a signal on, but for those that the terminal has sent to the
// command, too.
func (p *processes) pass(s os.Signal) {
	if number, ok := s.(syscall.Signal); ok && !(p.terminal && (number == syscall.SIGINT || number == syscall.SIGQUIT)) {
		p.signal(number)
	}
}

func (p *processes) signal(number syscall.Signal) {
	// It fails only when nobody is left.
	if p.terminal {
		_ = p.command.Process.Signal(number)
	} else {
		_ = syscall.Kill(-p.command.Process.Pid, number)
	}
}

// endRest waits for the processes that a command has left behind until it is late,
// nil if it is late already, and kills those that are left.
func (p *processes) endRest(late <-chan time.Time) {
	if p.terminal {
		return
	}
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for late != nil && !errors.Is(syscall.Kill(-p.command.Process.Pid, 0), syscall.ESRCH) {
		select {
		case <-look.C:
		case <-late:
			late = nil
		}
	}
	p.signal(syscall.SIGKILL)
}
