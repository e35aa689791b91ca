package main

import (
	"fmt"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/options"
	"github.com/spf13/cobra"
)

// checkNames looks at the names of the environment variables, see
// [options.Set.CheckNames].
func (env environment) checkNames() (mistyped, doubtful []options.Problem) {
	if env.environ == nil {
		return nil, nil
	}
	return newOptions().CheckNames(env.environ(), configVariable, serverVariable, lockIDVariable, tokenVariable)
}

// checkVariables refuses mistyped variables, for a command that reads some of them.
func checkVariables(cmd *cobra.Command, env environment) error {
	if mistyped, _ := env.checkNames(); len(mistyped) > 0 {
		return problemsError(cmd, mistyped)
	}
	return warnOfVariables(env)
}

// warnOfVariables warns of variables that have no effect, and may be meant to.
func warnOfVariables(env environment) error {
	_, doubtful := env.checkNames()
	return warnOf(env, doubtful)
}

// warnOf says what is doubtful, each on a line of its own.
func warnOf(env environment, problems []options.Problem) error {
	for _, p := range problems {
		if _, err := fmt.Fprintf(env.stderr, "warning: %s\n", escape(p.Error())); err != nil {
			return err
		}
	}
	return nil
}
