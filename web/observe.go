package web

import (
	"net/http"
	"runtime/debug"
	"time"
)

// logRequests logs one line for each request: changes for everybody, what only
// reads at level debug.
func (s *server) logRequests(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		recorder := &statusRecorder{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(recorder, r)
		log := s.logger.Info
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			log = s.logger.Debug
		}
		// The query stays out: it holds names that people chose.
		log("%s %q: %d in %v", r.Method, r.URL.Path, recorder.status, time.Since(start).Round(time.Microsecond))
	})
}

// recoverPanics answers a panic with a problem, and keeps what it said here.
func (s *server) recoverPanics(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			problem := recover()
			if problem == nil {
				return
			}
			if problem == http.ErrAbortHandler { //nolint:errorlint // net/http compares it in the same way
				panic(problem)
			}
			s.logger.Err("panic in %s %q: %v\n%s", r.Method, r.URL.Path, problem, debug.Stack())
			writeProblem(w, newProblem(http.StatusInternalServerError, "unexpected error; the server's log says more"))
		}()
		next.ServeHTTP(w, r)
	})
}

// statusRecorder remembers the status of an answer.
type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (r *statusRecorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (r *statusRecorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// discard is an answer that nobody gets.
type discard struct{ header http.Header }

func (d discard) Header() http.Header       { return d.header }
func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) WriteHeader(int)             {}
