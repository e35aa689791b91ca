package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

const configVariable = "ATLANTIS_LOCKS_CONFIG"

// configFile is the flag of commands that read their settings from a file, too:
// YAML whose keys are the names of flags, as in Atlantis' own.
type configFile struct{ path string }

func addConfigFlag(cmd *cobra.Command, env environment) *configFile {
	var c configFile
	cmd.Flags().StringVar(&c.path, "config", setting(env, configVariable, ""),
		"YAML file with values of these flags; the command line and the environment win over it (env "+configVariable+")")
	return &c
}

// onlyTyped are flags about one run, which neither the environment nor a file
// has.
func onlyTyped() []string { return []string{"config", "help", "address-file", "output", "dry-run"} }

// apply gives flags the values that the file has for them, where neither the
// command line nor the environment has one. On an error some may be set.
func (c *configFile) apply(cmd *cobra.Command, env environment) error {
	if c.path == "" {
		return nil
	}
	content, err := os.ReadFile(c.path)
	if err != nil {
		return fmt.Errorf("can't read --config %q: %w", c.path, withoutPath(err))
	}
	entries, err := parseConfig(content)
	if err != nil {
		return usagef(cmd, "%s: %v", printable(c.path), err)
	}
	var problems []string
	seen := make(map[string]int)
	for _, e := range entries {
		flag := cmd.Flags().Lookup(e.name)
		var err error
		switch line := seen[e.name]; {
		case flag == nil || slices.Contains(onlyTyped(), e.name):
			// A value may be a password, so it is not repeated.
			err = fmt.Errorf("%s is not a setting of %s", printable(e.name), cmd.Name())
		case line > 0:
			err = fmt.Errorf("%s is in line %d already", e.name, line)
		case e.err != nil:
			err = fmt.Errorf("%s %w", e.name, e.err)
		case !flag.Changed && env.getenv(variableOf(e.name)) == "":
			err = setFlag(flag, e.values)
		}
		seen[e.name] = e.line
		if err != nil {
			problems = append(problems, fmt.Sprintf("line %d: %v", e.line, err))
		}
	}
	if len(problems) > 0 {
		return usagef(cmd, "%s: %s", printable(c.path), strings.Join(problems, "; "))
	}
	return nil
}

// setFlag sets a flag without marking it as typed.
func setFlag(flag *pflag.Flag, values []string) error {
	if list, ok := flag.Value.(pflag.SliceValue); ok {
		return list.Replace(values)
	}
	if len(values) != 1 {
		return fmt.Errorf("%s takes one value, not a list", flag.Name)
	}
	if err := flag.Value.Set(values[0]); err != nil {
		return fmt.Errorf("%s %s is no %s: %w", flag.Name, printable(values[0]), flag.Value.Type(), err)
	}
	return nil
}

// configEntry is a line of a configuration.
type configEntry struct {
	name   string
	values []string
	line   int
	err    error // what is wrong with the values
}

// parseConfig reads a YAML mapping of names to values or lists of values. It
// takes the document as it is written, since what is decoded into Go's types has
// lost its lines, its duplicates and how a number was written.
func parseConfig(content []byte) ([]configEntry, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	var document yaml.Node
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("it has more than one document")
	}
	root := document.Content[0]
	if root.ShortTag() == "!!null" {
		return nil, nil
	}
	if root.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("line %d: want lines such as \"backend: redis\"", root.Line)
	}
	var entries []configEntry
	for i := 0; i < len(root.Content); i += 2 {
		key := root.Content[i]
		e := configEntry{name: key.Value, line: key.Line}
		e.values, e.err = configValues(root.Content[i+1])
		entries = append(entries, e)
	}
	return entries, nil
}

// configValues are a value, or those of a list, as they are written.
func configValues(node *yaml.Node) ([]string, error) {
	list := []*yaml.Node{node}
	if node.Kind == yaml.SequenceNode {
		list = node.Content
	}
	var values []string
	for _, one := range list {
		switch {
		case one.ShortTag() == "!!null":
			return nil, errors.New("has no value")
		case one.Kind != yaml.ScalarNode:
			return nil, errors.New("takes a value or a list of values")
		}
		values = append(values, one.Value)
	}
	return values, nil
}
