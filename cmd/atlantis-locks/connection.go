package main

import (
	"net"
	"strconv"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/client"
	"github.com/spf13/cobra"
)

const (
	serverVariable = "ATLANTIS_LOCKS_SERVER"
	defaultServer  = "http://" + defaultListen
)

// connection is the flag of all commands that talk to a server.
type connection struct {
	env    environment
	server string
}

func addConnectionFlag(cmd *cobra.Command, env environment) *connection {
	c := connection{env: env}
	cmd.Flags().StringVar(&c.server, "server", setting(env, serverVariable, defaultServer), "address of the server (env "+serverVariable+")")
	return &c
}

// client returns a client of the server. It does not dial.
func (c *connection) client(cmd *cobra.Command) (*client.Client, error) {
	if err := checkVariables(cmd, c.env); err != nil {
		return nil, err
	}
	address := c.server
	// What serve --listen takes, a server is found by, too.
	if _, port, err := net.SplitHostPort(address); err == nil {
		if _, err := strconv.ParseUint(port, 10, 16); err == nil {
			address = "http://" + address
		}
	}
	server, err := client.New(address)
	if err != nil {
		return nil, usagef(cmd, "--server: %v; give one such as %s", err, defaultServer)
	}
	return server, nil
}
