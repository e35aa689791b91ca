// Command atlantis-locks serves Atlantis' locks over HTTP and works with them:
// lock, unlock, list, show, stats, and import from stock Atlantis.
package main

import (
	"cmp"
	"context"
	"io"
	"os"
	"os/signal"
	"os/user"
	"syscall"
	"time"
)

func main() {
	os.Exit(run(environment{
		program:  os.Args[0],
		stdout:   os.Stdout,
		stderr:   os.Stderr,
		getenv:   os.Getenv,
		environ:  os.Environ,
		username: currentUser,
		now:      time.Now,
	}, os.Args[1:]))
}

// environment is what the program gets from outside.
type environment struct {
	// program is how it was called: a name that is in PATH, or a path.
	program  string
	stdout   io.Writer
	stderr   io.Writer
	getenv   func(string) string
	environ  func() []string // nil for one that has no names
	username func() (string, error)
	now      func() time.Time
}

// command returns a command line of this program, as one would type it.
func (env environment) command(line string) string {
	return printable(cmp.Or(env.program, programName)) + " " + line
}

// run runs one command and returns the exit code. The first SIGINT or SIGTERM
// asks the command to end, the second one ends the process.
func run(env environment, args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	root := newRootCommand(env)
	root.SetArgs(args)
	command, err := root.ExecuteContextC(ctx)
	return report(env, command, err)
}

func currentUser() (string, error) {
	u, err := user.Current()
	if err != nil {
		return "", err
	}
	return u.Username, nil
}
