package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/options"
	"github.com/spf13/cobra"
)

const configVariable = variablePrefix + "CONFIG"

// configSource reads the options of a command from its flags, the environment and
// the file that --config names.
type configSource struct {
	set  *options.Set[settings]
	cmd  *cobra.Command
	env  environment
	path string
}

// addConfigFlags adds --config and the flags of the options that pick chooses.
func addConfigFlags(cmd *cobra.Command, env environment, pick func(*options.Option) bool) *configSource {
	c := &configSource{set: newOptions(), cmd: cmd, env: env}
	cmd.Flags().StringVar(&c.path, "config", env.getenv(configVariable),
		"YAML file with options; the command line and the environment win over it (env "+configVariable+")")
	c.set.AddFlags(cmd.Flags(), pick)
	return c
}

func allOptions(*options.Option) bool { return true }

// load reads the options, the file too, again at each call.
func (c *configSource) load() (*configuration, error) {
	sources := options.Sources{Flags: c.cmd.Flags(), Getenv: c.env.getenv, FileName: printable(c.path)}
	if c.path != "" {
		content, err := readConfigFile(c.path)
		if err != nil {
			return nil, fmt.Errorf("can't read --config %q: %w", c.path, err)
		}
		sources.File = content
	}
	loaded, problems := loadConfiguration(c.set, sources)
	mistyped, _ := c.env.checkNames()
	problems = append(mistyped, problems...)
	if len(problems) > 0 {
		return nil, problemsError(c.cmd, problems)
	}
	return loaded, nil
}

// onlyFlags has neither the environment nor a file count from now on.
func (c *configSource) onlyFlags() {
	c.path = ""
	c.env.getenv, c.env.environ = func(string) string { return "" }, nil
}

// readConfigFile reads a file, and not much more of one that is too large.
func readConfigFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, withoutPath(err)
	}
	content, err := io.ReadAll(io.LimitReader(file, options.MaxFile+1))
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, withoutPath(err)
	}
	return content, nil
}

// problemsError says all that is wrong, each on a line of its own.
func problemsError(cmd *cobra.Command, problems []options.Problem) error {
	lines := make([]string, len(problems))
	for i, p := range problems {
		lines[i] = p.Error()
	}
	return &usageError{command: cmd.CommandPath(), message: strings.Join(lines, "; "), lines: lines}
}

// warnings are about secrets that others can read, and settings without effect.
func (c *configSource) warnings(loaded *configuration) error {
	var lines []string
	for _, o := range c.set.All() {
		if !o.Secret {
			continue
		}
		switch origin := loaded.Origin(o); origin.Kind {
		case options.FromFlag:
			lines = append(lines, fmt.Sprintf("the list of processes shows the password in %v; give it in %s or in a file", origin, o.Variable))
		case options.FromFile:
			if info, err := os.Stat(c.path); err == nil && info.Mode().Perm()&0o077 != 0 {
				lines = append(lines, fmt.Sprintf("%q has mode %#o: other users of this machine can read the password in line %d; chmod it to 0600", c.path, info.Mode().Perm(), origin.Line))
			}
		}
	}
	for _, line := range lines {
		if _, err := fmt.Fprintf(c.env.stderr, "warning: %s\n", line); err != nil {
			return err
		}
	}
	return warnOf(c.env, loaded.withoutEffect())
}
