package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
)

// cmdHoldHTTP serves something else than locks until the script ends, and puts
// its address into $STRANGER: holdhttp
func cmdHoldHTTP(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: holdhttp")
	}
	server := httptest.NewServer(http.HandlerFunc(stranger))
	ts.Defer(server.Close)
	ts.Setenv("STRANGER", server.URL)
}

// stranger answers in as many ways as a server can that is none of ours: the
// first part of the path says in which.
func stranger(w http.ResponseWriter, r *http.Request) {
	switch first, _, _ := strings.Cut(r.URL.Path[1:], "/"); first {
	case "missing":
		http.NotFound(w, r)
	case "moved":
		http.Redirect(w, r, "/", http.StatusFound)
	case "cut":
		panic(http.ErrAbortHandler)
	case "hostile":
		w.Header().Set("Content-Type", api.ProblemContentType)
		w.WriteHeader(http.StatusConflict)
		fmt.Fprint(w, `{"code":"LOCK_EXISTS","detail":"\u001b[2J\r\nall is well","holder":{"id":"\u001b]0;x\u0007"}}`)
	case "hostilelist":
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"locks":[{"repository":"\u001b[2J","path":"a\tb","workspace":"\u202e","project_name":"\n","owner_id":"\u0007","note":"\u009b31m"}]}`)
	case "spy":
		// An import that answers only if no credential came over.
		body, err := io.ReadAll(r.Body)
		if err != nil || strings.Contains(string(body), "hunter2") {
			http.Error(w, "a credential came over", http.StatusTeapot)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"dry_run":false,"results":[{"key":"k","outcome":"taken"}]}`)
	default:
		fmt.Fprintln(w, "hello")
	}
}
