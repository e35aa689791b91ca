package main

import (
	"encoding/json"
	"errors"
	"fmt"

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
)

// usageError says that the program was called wrongly.
type usageError struct {
	command string
	message string
}

func (e *usageError) Error() string { return e.message }

func usagef(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{command: cmd.CommandPath(), message: fmt.Sprintf(format, args...)}
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
	default:
		return exitError
	}
}

// hintFor says what to do next, "" if there is nothing to say.
func hintFor(err error) string {
	if hinted := (*hintedError)(nil); errors.As(err, &hinted) {
		return hinted.hint
	}
	if usage := (*usageError)(nil); errors.As(err, &usage) {
		return fmt.Sprintf("see \"%s --help\"", usage.command)
	}
	if unreachable := (*client.UnreachableError)(nil); errors.As(err, &unreachable) {
		if unreachable.OutcomeUnknown {
			return `the change may have been made; look with "atlantis-locks list" before repeating it`
		}
		return `start the server with "atlantis-locks serve", or name another one with --server or ATLANTIS_LOCKS_SERVER`
	}
	problem := (*api.Problem)(nil)
	if !errors.As(err, &problem) {
		return ""
	}
	switch {
	case problem.OutcomeUnknown:
		return `the change may have been made; look with "atlantis-locks list" before repeating it`
	case problem.Code == enhanced.ErrCodeLockExists && problem.Holder == nil:
		return `"atlantis-locks stats" names the records that can't be read`
	case problem.Code == enhanced.ErrCodeLockExists:
		return fmt.Sprintf(`"atlantis-locks show %s" tells more; its owner can unlock it`, problem.Holder.ID)
	case problem.Code == enhanced.ErrCodeLockNotFound, problem.Code == enhanced.ErrCodeLockExpired:
		return `"atlantis-locks list" shows what is locked`
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
	code, hint := exitCode(err), hintFor(err)
	if wantsJSON(command) {
		f := failure{Error: err.Error(), ExitCode: code, Hint: hint}
		if problem := (*api.Problem)(nil); errors.As(err, &problem) {
			f.Code, f.Holder = problem.Code, problem.Holder
		}
		_ = json.NewEncoder(env.stderr).Encode(f) // there is nobody left to tell
		return code
	}
	fmt.Fprintf(env.stderr, "error: %s\n", escape(err.Error()))
	if hint != "" {
		fmt.Fprintf(env.stderr, "hint: %s\n", escape(hint))
	}
	return code
}
