// Package web serves locks over HTTP: a JSON API under /api/v1, described by an
// OpenAPI document that is made from the handlers' types, and health checks.
// [NewHandler] returns an http.Handler to serve alone or to mount elsewhere;
// package api has the types that it speaks.
//
// The API has no authentication of its own: who can reach it can do everything.
// It refuses what a browser sends on behalf of another site.
package web

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/logging"
)

// Options configures a handler. Its zero value works.
type Options struct {
	// Logger gets one line for each request, and the causes of failures that
	// callers are not told. Nil logs nothing.
	Logger logging.SimpleLogging
	// LoopbackOnly answers only requests whose Host is a loopback address or
	// localhost. Set it where nothing but the listening address keeps others
	// out: a page of another site can point a name of its own at 127.0.0.1, and
	// is then of the same origin.
	LoopbackOnly bool
	// Stopping ends calls that wait for a lock, when it is closed: a server that
	// is to stop waits for its calls. Nil ends none.
	Stopping <-chan struct{}
	// Reload reads the server's configuration again. Its errors are shown to the
	// caller where they are INVALID_REQUEST. With nil there is no such operation.
	Reload func(context.Context) (api.Reload, error)
}

// server is what the handlers share.
type server struct {
	manager *enhanced.EnhancedLockManager
	logger  logging.SimpleLogging
	api     huma.API
	// stopping ends what waits.
	stopping <-chan struct{}
}

// NewHandler returns the handler of the API on manager.
func NewHandler(manager *enhanced.EnhancedLockManager, options Options) http.Handler {
	mux := http.NewServeMux()
	s := &server{
		manager: manager,
		logger:  enhanced.LoggerOrNoop(options.Logger),
		api:     humago.New(mux, apiConfig()),

		stopping: options.Stopping,
	}
	s.api.UseMiddleware(s.requireJSON)
	s.registerLocks()
	s.registerUnlock()
	s.registerRefresh()
	s.registerQueue()
	s.registerSets()
	s.registerPriority()
	s.registerDeadlocks()
	s.registerStats()
	s.registerMode()
	s.registerImport()
	s.registerVerify()
	s.registerCompatibility()
	s.registerLog()
	s.registerHealth()
	s.registerReload(options.Reload)
	mux.Handle("GET "+openAPIPath, openAPIHandler(s.api))

	handler := answerProblems(mux)
	handler = refuseOddQueries(handler)
	handler = refuseCrossOrigin(handler)
	if options.LoopbackOnly {
		handler = refuseForeignHosts(handler)
	}
	handler = s.recoverPanics(handler)
	handler = s.logRequests(handler)
	return setHeaders(handler)
}
