package main

import (
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// atlantisModule is the version of Atlantis whose types and files are meant.
const atlantisModule = "github.com/runatlantis/atlantis"

// version says what this program was built from.
type version struct {
	Version  string `json:"version"`
	Revision string `json:"revision"`
	Atlantis string `json:"atlantis"`
	Go       string `json:"go"`
}

func newVersionCommand(env environment) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the version of this program",
		Args:  wantArgs(),
	}
	output := addOutputFlag(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		v := readVersion()
		if *output == formatJSON {
			return printJSON(env.stdout, v)
		}
		_, err := fmt.Fprintln(env.stdout, v)
		return err
	}
	return cmd
}

func (v version) String() string {
	return fmt.Sprintf("%s %s (revision %s, for Atlantis %s, %s)", programName, v.Version, v.Revision, v.Atlantis, v.Go)
}

func readVersion() version {
	v := version{Version: "unknown", Revision: "unknown", Atlantis: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Version, v.Go = info.Main.Version, info.GoVersion
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			v.Revision = setting.Value
		}
	}
	// Inside Atlantis' source tree Atlantis is the main module.
	for _, dependency := range append(info.Deps, &info.Main) {
		if dependency.Path == atlantisModule {
			v.Atlantis = dependency.Version
		}
	}
	return v
}
