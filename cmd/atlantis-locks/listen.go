package main

import (
	"errors"
	"fmt"
	"net"
	"syscall"

	"github.com/spf13/cobra"
)

const defaultListen = "127.0.0.1:4142"

// checkListen says why serve would refuse an address, as far as that can be told
// without asking for a name.
func checkListen(address string) error {
	if host, _, err := net.SplitHostPort(address); err == nil && host != "" && net.ParseIP(host) == nil {
		return nil
	}
	resolved, err := net.ResolveTCPAddr("tcp", address)
	switch {
	case err != nil:
		return fmt.Errorf("%q is no address to listen on: %w; give an address and a port, such as %s", address, err, defaultListen)
	case !resolved.IP.IsLoopback():
		return fmt.Errorf("%q is not a loopback address, and there is no authentication yet; listen on %s", address, defaultListen)
	}
	return nil
}

// listenLoopback listens on a loopback address and refuses all others: whoever
// can reach the server can release every lock, since there is no
// authentication yet.
func listenLoopback(cmd *cobra.Command, address string) (net.Listener, error) {
	resolved, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, withHint(usagef(cmd, "can't listen on --listen %q: %v", address, err), "give --listen an address and a port, such as %s", defaultListen)
	}
	if !resolved.IP.IsLoopback() {
		return nil, withHint(fmt.Errorf("refusing to listen on %q: it is not a loopback address, and there is no authentication yet", address),
			"listen on %s, and reach it from elsewhere through an SSH tunnel", defaultListen)
	}
	// What was checked is what is used: a name could resolve differently now.
	listener, err := (&net.ListenConfig{}).Listen(cmd.Context(), "tcp", resolved.String())
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, withHint(fmt.Errorf("port %d on %s is taken by another process", resolved.Port, resolved.IP),
			"stop that process, or choose another port with --listen %s", net.JoinHostPort(resolved.IP.String(), "0"))
	}
	if err != nil {
		return nil, fmt.Errorf("can't listen on %q: %w", address, err)
	}
	return listener, nil
}
