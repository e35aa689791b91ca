package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/client"
	"github.com/spf13/cobra"
)

// Exit codes, as the help lists them.
const (
	exitDone = iota
	exitError
	exitUsage
	exitHeld
	exitNotFound
	exitDenied
	exitUnreachable
	exitViolations
	exitTimeout
	exitDeadlock
	exitInterrupted = 130 // as of a program that SIGINT has ended
)

// stoppingCode is what a server that stops gives to those who wait there.
const stoppingCode = "SERVICE_UNAVAILABLE"

// usageError says that the program was called wrongly.
type usageError struct {
	command string
	message string
	err     error // nil, or what the server says
	// lines are what people read instead of the message, where it is of several
	// problems.
	lines []string
}

func (e *usageError) Error() string { return e.message }
func (e *usageError) Unwrap() error { return e.err }

func usagef(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{command: cmd.CommandPath(), message: fmt.Sprintf(format, args...)}
}

// asUsage returns a server's refusal of a request as wrong usage, in the words
// of the command line. Other errors stay as they are.
func asUsage(cmd *cobra.Command, err error) error {
	problem := (*api.Problem)(nil)
	if !errors.As(err, &problem) || problem.Code != enhanced.ErrCodeInvalidRequest {
		return err
	}
	message := problem.Detail
	for _, word := range [][2]string{
		{"repository", "REPO"}, {"path", "PATH"}, {"workspace", "WORKSPACE"}, {"project name", "--project-name"},
		{"user", "--user"}, {"host", "--host"}, {"timeout", "--timeout"}, {"metadata note", "--note"}, {"reason", "--reason"},
	} {
		if rest, found := strings.CutPrefix(problem.Detail, word[0]+" "); found {
			message = word[1] + " " + rest
		}
	}
	return &usageError{command: cmd.CommandPath(), message: message, err: err}
}

// hintedError is an error with a word on what to do next.
type hintedError struct {
	err  error
	hint string
}

func (e *hintedError) Error() string { return e.err.Error() }
func (e *hintedError) Unwrap() error { return e.err }

func withHint(err error, format string, args ...any) error {
	return &hintedError{err: err, hint: fmt.Sprintf(format, args...)}
}

// codedError is an error that asks for an exit code.
type codedError struct {
	code int
	err  error
}

func (e *codedError) Error() string { return e.err.Error() }
func (e *codedError) Unwrap() error { return e.err }

// exitCode returns the exit code for the outcome of a command.
func exitCode(err error) int {
	if err == nil {
		return exitDone
	}
	if coded := (*codedError)(nil); errors.As(err, &coded) {
		return coded.code
	}
	if usage := (*usageError)(nil); errors.As(err, &usage) {
		return exitUsage
	}
	if unreachable := (*client.UnreachableError)(nil); errors.As(err, &unreachable) {
		return exitUnreachable
	}
	if left := (*leftError)(nil); errors.As(err, &left) && errors.Is(err, context.Canceled) {
		return exitInterrupted
	}
	problem := (*api.Problem)(nil)
	if !errors.As(err, &problem) {
		return exitError
	}
	switch problem.Code {
	case enhanced.ErrCodeLockExists:
		return exitHeld
	case enhanced.ErrCodeLockNotFound, enhanced.ErrCodeLockExpired:
		return exitNotFound
	case enhanced.ErrCodePermissionDenied:
		return exitDenied
	case enhanced.ErrCodeTimeout:
		return exitTimeout
	case enhanced.ErrCodeDeadlock:
		return exitDeadlock
	case stoppingCode:
		return exitUnreachable
	default:
		return exitError
	}
}

// hintFor says what to do next, "" if there is nothing to say.
func hintFor(env environment, err error) string {
	if hinted := (*hintedError)(nil); errors.As(err, &hinted) {
		return hinted.hint
	}
	if usage := (*usageError)(nil); errors.As(err, &usage) {
		_, subcommand, _ := strings.Cut(usage.command+" ", " ")
		return fmt.Sprintf("see %q", env.command(subcommand+"--help"))
	}
	if unreachable := (*client.UnreachableError)(nil); errors.As(err, &unreachable) {
		if unreachable.OutcomeUnknown {
			return fmt.Sprintf("the change may have been made; look with %q before repeating it", env.command("list"))
		}
		return fmt.Sprintf("start the server with %q, or name another one with --server or %s", env.command("serve"), serverVariable)
	}
	problem := (*api.Problem)(nil)
	if !errors.As(err, &problem) {
		return ""
	}
	switch {
	case problem.OutcomeUnknown:
		return fmt.Sprintf("the change may have been made; look with %q before repeating it", env.command("list"))
	case problem.Code == enhanced.ErrCodeLockExists && problem.Holder == nil:
		return fmt.Sprintf("%q names the records that can't be read", env.command("stats"))
	case problem.Code == enhanced.ErrCodeLockExists:
		return heldHint(env, problem.Holder)
	case problem.Code == enhanced.ErrCodeLockNotFound, problem.Code == enhanced.ErrCodeLockExpired:
		return fmt.Sprintf("%q shows what is locked", env.command("list"))
	case problem.Code == enhanced.ErrCodePermissionDenied && problem.Holder != nil:
		return `ask the owner, or override with --force --reason "..."`
	default:
		return ""
	}
}

// failure is an error as --output json shows it.
type failure struct {
	Error    string    `json:"error"`
	Code     string    `json:"code,omitempty"`
	ExitCode int       `json:"exit_code"`
	Hint     string    `json:"hint,omitempty"`
	Holder   *api.Lock `json:"holder,omitempty"`
}

// report prints what went wrong and returns the exit code. The text may come
// from a server, so it is made safe for a terminal.
func report(env environment, command *cobra.Command, err error) int {
	if err == nil {
		return exitDone
	}
	if ended := (*commandExit)(nil); errors.As(err, &ended) {
		return ended.code // and a command says itself what there is to say
	}
	code, hint := exitCode(err), hintFor(env, err)
	if wantsJSON(command) {
		f := failure{Error: err.Error(), ExitCode: code, Hint: hint}
		if problem := (*api.Problem)(nil); errors.As(err, &problem) {
			f.Code, f.Holder = problem.Code, problem.Holder
		}
		_ = json.NewEncoder(env.stderr).Encode(f) // there is nobody left to tell
		return code
	}
	lines := []string{err.Error()}
	if usage := (*usageError)(nil); errors.As(err, &usage) && len(usage.lines) > 0 {
		lines = usage.lines
	}
	for _, line := range lines {
		fmt.Fprintf(env.stderr, "error: %s\n", escape(line))
	}
	if hint != "" {
		fmt.Fprintf(env.stderr, "hint: %s\n", escape(hint))
	}
	return code
}
