package main

import (
	"crypto/tls"
	"net"
	"testing"
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/redistest"
	"github.com/stretchr/testify/require"
)

// Certificates are replaced while the program runs: each connection shows the
// ones that are there then, and trusts the authorities that are there then.
func TestRedisTLSReadsItsFilesAgain(t *testing.T) {
	t.Parallel()
	secure := redistest.NewSecure(t)
	config := secure.TLS()
	config.ClientCAs, config.ClientAuth = config.RootCAs, tls.RequireAndVerifyClientCert
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	require.NoError(t, err)
	defer listener.Close()
	names := make(chan string)
	go func() {
		defer close(names)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if server, ok := conn.(*tls.Conn); ok && server.Handshake() == nil {
				names <- server.ConnectionState().PeerCertificates[0].Subject.CommonName
			}
			_ = conn.Close()
		}
	}()
	files := redisTLS{caFile: secure.CAFile, certFile: secure.CertFile, keyFile: secure.KeyFile}
	dial := files.dialer(10 * time.Second)
	connect := func() error {
		conn, err := dial(t.Context(), "tcp", listener.Addr().String())
		if err == nil {
			err = conn.Close()
		}
		return err
	}
	require.NoError(t, connect())
	require.Equal(t, "first", <-names)
	secure.Issue("second")
	require.NoError(t, connect())
	require.Equal(t, "second", <-names)

	files.caFile = redistest.NewSecure(t).CAFile
	_, err = files.dialer(10*time.Second)(t.Context(), "tcp", listener.Addr().String())
	require.ErrorContains(t, err, "certificate signed by unknown authority")
	require.NoError(t, listener.Close())
	for range names {
		t.Error("a server of another authority was trusted")
	}
}

// A server that accepts and says nothing does not hold up a dial.
func TestRedisTLSDialEnds(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	start := time.Now()
	_, err = redisTLS{}.dialer(50*time.Millisecond)(t.Context(), "tcp", listener.Addr().String())
	require.Error(t, err)
	require.Less(t, time.Since(start), time.Minute)
}
