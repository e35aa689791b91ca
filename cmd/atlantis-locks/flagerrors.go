package main

import (
	"errors"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// flagError says what is wrong with a flag, in words that are not Go's.
func flagError(cmd *cobra.Command, err error) error {
	var number *strconv.NumError
	if invalid := (*pflag.InvalidValueError)(nil); errors.As(err, &invalid) && errors.As(err, &number) {
		return usagef(cmd, "--%s %s: want a number, %v", invalid.GetFlag().Name, printable(invalid.GetValue()), number.Err)
	}
	unknown := (*pflag.NotExistError)(nil)
	if !errors.As(err, &unknown) || unknown.GetSpecifiedShortnames() != "" {
		return usagef(cmd, "%v", err)
	}
	// What cobra does for commands.
	names := &cobra.Command{SuggestionsMinimumDistance: 2}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		names.AddCommand(&cobra.Command{Use: f.Name, Run: func(*cobra.Command, []string) {}})
	})
	near := names.SuggestionsFor(unknown.GetSpecifiedName())
	if len(near) == 0 {
		return usagef(cmd, "%v", err)
	}
	return usagef(cmd, "%v; did you mean --%s?", err, near[0])
}
