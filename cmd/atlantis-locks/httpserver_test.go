package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// A server that is told to stop takes no more connections at once, and ends
// when the requests are answered that it has.
func TestServeUntilFinishesRequests(t *testing.T) {
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	ctx, stop := context.WithCancel(t.Context())
	entered, release := make(chan struct{}), make(chan struct{})
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		select {
		case <-release:
		case <-r.Context().Done():
		}
		_, _ = io.WriteString(w, "finished")
	})
	served := make(chan error, 1)
	go func() { served <- serveUntil(ctx, listener, handler, enhanced.LoggerOrNoop(nil)) }()
	answered := make(chan string, 1)
	go func() {
		defer close(answered)
		response, err := http.Get("http://" + address)
		if err != nil {
			return
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err == nil {
			answered <- string(body)
		}
	}()
	<-entered
	stop()
	require.Eventually(t, func() bool {
		connection, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", address)
		if err == nil {
			_ = connection.Close()
		}
		return err != nil
	}, 20*time.Second, time.Millisecond, "it still takes connections")
	select {
	case err := <-served:
		t.Fatalf("it did not wait for the request: %v", err)
	default:
	}
	close(release)
	require.Equal(t, "finished", <-answered)
	require.NoError(t, <-served)
}
