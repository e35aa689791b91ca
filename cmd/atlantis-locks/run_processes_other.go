//go:build !linux

package main

import (
	"os"
	"os/exec"
	"syscall"
	"time"
)

// passedOn are the signals that a command gets which this program gets.
func passedOn() []os.Signal { return []os.Signal{os.Interrupt, syscall.SIGTERM} }

// processes are those of a command: the command alone, here.
type processes struct{ command *exec.Cmd }

func newProcesses(command *exec.Cmd) *processes { return &processes{command} }

func (p *processes) pass(s os.Signal) { _ = p.command.Process.Signal(s) } // it fails only when it has ended

func (p *processes) signal(number syscall.Signal) {
	if number == syscall.SIGKILL {
		_ = p.command.Process.Kill()
		return
	}
	p.pass(number)
}

func (p *processes) endRest(<-chan time.Time) {}
