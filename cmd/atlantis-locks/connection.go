package main

import (
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/client"
	"github.com/spf13/cobra"
)

const (
	serverVariable = "ATLANTIS_LOCKS_SERVER"
	defaultServer  = "http://" + defaultListen
)

// connection is the flag of all commands that talk to a server.
type connection struct{ server string }

func addConnectionFlag(cmd *cobra.Command, env environment) *connection {
	var c connection
	cmd.Flags().StringVar(&c.server, "server", setting(env, serverVariable, defaultServer), "address of the server (env "+serverVariable+")")
	return &c
}

// client returns a client of the server. It does not dial.
func (c *connection) client(cmd *cobra.Command) (*client.Client, error) {
	server, err := client.New(c.server)
	if err != nil {
		return nil, usagef(cmd, "%v", err)
	}
	return server, nil
}
