package web

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
)

// setHeaders sets what every answer has: it is data, never a page, and no
// browser or proxy is to keep it.
func setHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// refuseCrossOrigin refuses changes that a browser asks for on behalf of
// another site.
func refuseCrossOrigin(next http.Handler) http.Handler {
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		writeProblem(w, newProblem(http.StatusForbidden, "a page of another site may not change locks"))
	}))
	return protection.Handler(next)
}

// refuseForeignHosts refuses requests for other hosts than this one.
func refuseForeignHosts(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isLoopbackHost(r.Host) {
			writeProblem(w, newProblem(http.StatusMisdirectedRequest, "this server answers only for localhost and loopback addresses"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isLoopbackHost reports whether the value of a Host header, with or without a
// port, is a loopback address or localhost.
func isLoopbackHost(host string) bool {
	name := (&url.URL{Host: host}).Hostname()
	if strings.EqualFold(name, "localhost") {
		return true
	}
	address, err := netip.ParseAddr(name)
	return err == nil && address.IsLoopback()
}

// refuseOddQueries refuses queries that two readers could read differently.
func refuseOddQueries(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if detail := oddity(r.URL.RawQuery); detail != "" {
			writeProblem(w, newProblem(http.StatusBadRequest, detail))
			return
		}
		next.ServeHTTP(w, r)
	})
}

func oddity(query string) string {
	values, err := url.ParseQuery(query)
	if err != nil {
		return "the query can't be read: " + err.Error()
	}
	for pair := range strings.SplitSeq(query, "&") {
		if pair != "" && !strings.Contains(pair, "=") {
			return "a query parameter has no value: " + pair
		}
	}
	for name, v := range values {
		if len(v) > 1 {
			return "a query parameter is given twice: " + name
		}
	}
	return ""
}

// requireJSON refuses bodies that are no plain JSON. A browser sends other
// types across sites without asking, and compressed ones have no known size.
func (s *server) requireJSON(ctx huma.Context, next func(huma.Context)) {
	refuse := func(detail string) {
		_ = huma.WriteErr(s.api, ctx, http.StatusUnsupportedMediaType, detail) // the client has gone
	}
	if ctx.Operation().RequestBody != nil {
		var types int
		ctx.EachHeader(func(name, _ string) {
			if name == "Content-Type" {
				types++
			}
		})
		mediaType, _, err := mime.ParseMediaType(ctx.Header("Content-Type"))
		if types != 1 || err != nil || mediaType != "application/json" {
			refuse("send the body as application/json, and say so in the Content-Type header")
			return
		}
		if encoding := ctx.Header("Content-Encoding"); encoding != "" && encoding != "identity" {
			refuse("send the body as it is: no Content-Encoding is understood")
			return
		}
	}
	next(ctx)
}

// answerProblems answers what the mux has no handler for with a problem
// instead of plain text.
func answerProblems(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		refusal, pattern := mux.Handler(r)
		if pattern != "" {
			controller := http.NewResponseController(w)
			r.Body = &deadlineBody{ReadCloser: r.Body, controller: controller}
			if r.URL.Path == api.WaitPath {
				_ = controller.SetWriteDeadline(time.Time{}) // not a network connection
			}
			mux.ServeHTTP(w, r)
			return
		}
		// The mux alone knows which methods a path has.
		probe := &statusRecorder{ResponseWriter: discard{header: http.Header{}}}
		refusal.ServeHTTP(probe, r)
		detail := "there is nothing at this address; " + openAPIPath + " lists what there is"
		if allow := probe.Header().Get("Allow"); allow != "" {
			w.Header().Set("Allow", allow)
			detail = "this address takes " + allow + " only"
		}
		writeProblem(w, newProblem(probe.status, detail))
	})
}

// deadlineBody removes the read deadline once the body has been read whole. A
// deadline that passes later would end the request's context: the server goes
// on reading to notice when the client leaves. A body that is not read whole
// keeps its deadline, for the server still reads some of what is left.
type deadlineBody struct {
	io.ReadCloser
	controller *http.ResponseController
}

func (b *deadlineBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		_ = b.controller.SetReadDeadline(time.Time{}) // not a network connection
	}
	return n, err
}
