package main

import (
	"strings"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/spf13/cobra"
)

// defaultHost is the host of --pull when none is named.
const defaultHost = "github.com"

// projectFlags name a project together with REPO PATH WORKSPACE.
type projectFlags struct{ name string }

func addProjectFlag(cmd *cobra.Command) *projectFlags {
	var p projectFlags
	cmd.Flags().StringVar(&p.name, "project-name", "", "the project's name, if it has one")
	return &p
}

func (p *projectFlags) resource(args []string) api.Resource {
	return api.Resource{Repository: args[0], Path: args[1], Workspace: args[2], ProjectName: p.name}
}

// wantProject checks that the arguments are REPO PATH WORKSPACE.
func wantProject(cmd *cobra.Command, args []string) error {
	if err := wantArgs("REPO", "PATH", "WORKSPACE")(cmd, args); err != nil {
		return err
	}
	return checkProject(cmd, args)
}

// checkProject checks that REPO, PATH and WORKSPACE say something.
func checkProject(cmd *cobra.Command, args []string) error {
	for i, what := range []string{
		"REPO %q is empty; give the repository's full name, such as acme/infra",
		"PATH %q is empty; give the project's directory in the repository, . for its root",
		"WORKSPACE %q is empty; give the Terraform workspace, which is default where there is no other",
	} {
		if strings.TrimSpace(args[i]) == "" {
			return usagef(cmd, what, args[i])
		}
	}
	return nil
}

// ownerFlags name who holds a lock, or waits for it.
type ownerFlags struct {
	user string
	pull int
	host string
}

func addOwnerFlags(cmd *cobra.Command) *ownerFlags { return ownerFlagsFor(cmd, "owns the lock") }

// addWaiterFlags is addOwnerFlags for a command about those who wait.
func addWaiterFlags(cmd *cobra.Command) *ownerFlags { return ownerFlagsFor(cmd, "waits") }

func ownerFlagsFor(cmd *cobra.Command, does string) *ownerFlags {
	var o ownerFlags
	cmd.Flags().StringVar(&o.user, "user", "", "the user who "+does+" (default: you, by the name of your login)")
	cmd.Flags().IntVar(&o.pull, "pull", 0, "the pull request of REPO that "+does+", instead of a user")
	cmd.Flags().StringVar(&o.host, "host", defaultHost, "the VCS host of --pull")
	return &o
}

func (o *ownerFlags) owner(cmd *cobra.Command, env environment) (api.Owner, error) {
	given := cmd.Flags().Changed
	switch {
	case given("user") && given("pull"):
		return api.Owner{}, usagef(cmd, "--user and --pull exclude each other: a lock has one owner")
	case given("host") && !given("pull"):
		return api.Owner{}, usagef(cmd, "--host says where --pull is; there is no --pull")
	case given("pull") && o.pull < 1:
		return api.Owner{}, usagef(cmd, "--pull %d is no pull request; their numbers start at 1", o.pull)
	case given("pull"):
		return api.Owner{Pull: o.pull, Host: o.host}, nil
	default:
		name, err := o.userName(cmd, env)
		return api.Owner{User: name}, err
	}
}

// userName returns --user, or the name of the login.
func (o *ownerFlags) userName(cmd *cobra.Command, env environment) (string, error) {
	if o.user != "" {
		return o.user, nil
	}
	if cmd.Flags().Changed("user") {
		return "", usagef(cmd, "--user is empty")
	}
	name, err := env.username()
	if err != nil || name == "" {
		return "", usagef(cmd, "the name of your login is unknown; give --user")
	}
	return name, nil
}
