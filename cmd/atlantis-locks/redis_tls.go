package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"time"
)

// redisTLS are the files for TLS, which may be empty.
type redisTLS struct {
	caFile, certFile, keyFile string
	skipVerify                bool
}

// config reads the files.
func (t redisTLS) config() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: t.skipVerify}
	if t.caFile != "" {
		pem, err := os.ReadFile(t.caFile)
		if err != nil {
			return nil, fmt.Errorf("can't read --redis-tls-ca %q: %w", t.caFile, withoutPath(err))
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--redis-tls-ca %q has no certificate in PEM form", t.caFile)
		}
	}
	if t.certFile != "" {
		pair, err := tls.LoadX509KeyPair(t.certFile, t.keyFile)
		if err != nil {
			return nil, fmt.Errorf("can't use --redis-tls-cert %q with --redis-tls-key %q: %w", t.certFile, t.keyFile, withoutPath(err))
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// dialer returns a dialer that reads the files again for each connection, so
// that certificates can be replaced while the program runs.
func (t redisTLS) dialer(timeout time.Duration) dialer {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		config, err := t.config()
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		dialer := tls.Dialer{Config: config}
		return dialer.DialContext(ctx, network, addr)
	}
}
