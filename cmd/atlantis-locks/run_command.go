package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// commandExit is how a command ended, which says itself what there is to say.
type commandExit struct{ code int }

func (e *commandExit) Error() string { return fmt.Sprintf("the command ended with code %d", e.code) }

// outcome is how a supervised command ended.
type outcome struct {
	err  error // nil, a commandExit, or why it did not start
	lost bool  // the lock was lost while it ran
}

// supervise runs a command until it ends. Signals are passed on. When the lock is
// lost it calls tell, and ends the command. A context that has ended before the
// command starts keeps it from starting.
func supervise(ctx context.Context, command *exec.Cmd, h *enhanced.Handle, grace time.Duration, tell func(error)) outcome {
	// That a process is to end with its parent is said of the thread that starts it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, passedOn()...)
	defer signal.Stop(signals)
	if ctx.Err() != nil {
		return outcome{err: notStarted(fmt.Errorf("interrupted before the command started: %w", ctx.Err()))}
	}
	if err := h.Check(); err != nil {
		return outcome{err: notStarted(err)}
	}
	processes := newProcesses(command)
	if err := command.Start(); err != nil {
		return outcome{err: cannotRun(err)}
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	lost, result := h.Done(), outcome{}
	var late <-chan time.Time
	for {
		select {
		case s := <-signals:
			processes.pass(s)
		case <-lost:
			lost, result.lost = nil, true
			tell(context.Cause(h.Context()))
			processes.signal(syscall.SIGTERM)
			late = time.After(grace)
		case <-late:
			late = nil
			processes.signal(syscall.SIGKILL)
		case err := <-ended:
			if result.lost {
				processes.endRest(late)
			}
			result.err = exitOf(command, err)
			return result
		}
	}
}

// exitOf returns how a command ended, as shells tell it.
func exitOf(command *exec.Cmd, err error) error {
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return err
	}
	code := command.ProcessState.ExitCode()
	if status, ok := command.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		code = 128 + int(status.Signal())
	}
	if code == 0 {
		return nil
	}
	return &commandExit{code}
}
