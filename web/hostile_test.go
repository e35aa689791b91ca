package web_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/stretchr/testify/require"
)

func TestContentTypes(t *testing.T) {
	s := startServer(t, nil)
	for _, path := range []string{api.LocksPath, api.UnlockPath, api.ImportPath} {
		for name, edit := range map[string]func(http.Header){
			"none":       func(h http.Header) { h.Del("Content-Type") },
			"text":       func(h http.Header) { h.Set("Content-Type", "text/plain") },
			"form":       func(h http.Header) { h.Set("Content-Type", "application/x-www-form-urlencoded") },
			"like JSON":  func(h http.Header) { h.Set("Content-Type", "application/problem+json") },
			"two":        func(h http.Header) { h.Add("Content-Type", "application/json") },
			"unreadable": func(h http.Header) { h.Set("Content-Type", "application/json; =") },
			"compressed": func(h http.Header) { h.Set("Content-Encoding", "gzip") },
		} {
			t.Run(path+" "+name, func(t *testing.T) {
				r := s.send(t, http.MethodPost, path, freezeProd, func(r *http.Request) { edit(r.Header) })
				problem(t, r, http.StatusUnsupportedMediaType, "UNSUPPORTED_MEDIA_TYPE")
			})
		}
	}
	require.Zero(t, s.lockCount(t))
	r := s.send(t, http.MethodPost, api.LocksPath, freezeProd, func(r *http.Request) {
		r.Header.Set("Content-Type", "application/json; charset=utf-8")
	})
	require.Equal(t, http.StatusCreated, r.StatusCode)
}

func TestBodiesThatCannotBeRead(t *testing.T) {
	s := startServer(t, nil)
	owner := `"owner":{"user":"a"}`
	for name, c := range map[string]struct{ body, says string }{
		"empty":                {``, "body is required"},
		"text":                 {`hello`, "body"},
		"cut off":              {`{"repository":`, "body"},
		"two values":           {freezeProd + freezeProd, "body"},
		"a name twice":         {`{"repository":"r","repository":"s","path":"p","workspace":"w",` + owner + `}`, `field "repository" is given twice`},
		"a name in two cases":  {`{"repository":"r","Repository":"s","path":"p","workspace":"w",` + owner + `}`, `field "Repository" is given twice`},
		"an inner name twice":  {`{"repository":"r","path":"p","workspace":"w","owner":{"user":"a","user":"b"}}`, `field "user" is given twice`},
		"a Kelvin sign":        {"{\"workspace\":\"w\",\"wor\u212Aspace\":\"v\"}", "is given twice"},
		"deep arrays":          {strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000), "nested deeper"},
		"deep objects":         {strings.Repeat(`{"a":`, 33) + "1" + strings.Repeat("}", 33), "nested deeper"},
		"invalid UTF-8":        {"{\"repository\":\"\xff\xfe\",\"path\":\"p\",\"workspace\":\"w\"," + owner + "}", "UTF-8"},
		"half a surrogate":     {`{"repository":"\ud800","path":"p","workspace":"w",` + owner + `}`, "surrogate"},
		"surrogates reversed":  {`{"repository":"\udc00\ud800","path":"p","workspace":"w",` + owner + `}`, "surrogate"},
		"surrogate, then text": {`{"repository":"\ud800abcdef","path":"p","workspace":"w",` + owner + `}`, "surrogate"},
	} {
		t.Run(name, func(t *testing.T) {
			p := problem(t, s.post(t, api.LocksPath, c.body), http.StatusBadRequest, "INVALID_REQUEST")
			require.Contains(t, p.Detail, c.says)
		})
	}
	require.Zero(t, s.lockCount(t))

	// What only looks like it is taken.
	body := `{"repository":"\\ud800 \ud83d\ude00 \"","path":"p","workspace":"w","owner":{"user":"a"}}`
	lock := decode[api.Lock](t, s.post(t, api.LocksPath, body), http.StatusCreated)
	require.Equal(t, `\ud800 😀 "`, lock.Repository)
}

// Errors never repeat a body: it can be large, and can hold a credential.
func TestErrorsDoNotRepeatTheBody(t *testing.T) {
	s := startServer(t, nil)
	for _, body := range []string{
		`{"repository":"r","path":"p","workspace":"w","owner":{"user":"a"},"hunter2":"hunter3"}`,
		`{"records":[{"key":"k","lock":{"CloneURL":"https://bot:hunter3@github.com"}}]}`,
		`{"repository":"hunter3"`,
	} {
		for _, path := range []string{api.LocksPath, api.ImportPath, api.UnlockPath} {
			r := s.post(t, path, body)
			require.GreaterOrEqual(t, r.StatusCode, 400)
			require.NotContains(t, string(r.body), "hunter3")
		}
	}
}

func TestLargeBodies(t *testing.T) {
	s := startServer(t, nil)
	for path, limit := range map[string]int{api.LocksPath: 1 << 20, api.UnlockPath: 1 << 20, api.ImportPath: api.MaxImportBytes} {
		r := s.post(t, path, `{"note":"`+strings.Repeat("x", limit)+`"}`)
		problem(t, r, http.StatusRequestEntityTooLarge, "REQUEST_ENTITY_TOO_LARGE")
	}
	// An import can be larger than the rest.
	problem(t, s.post(t, api.ImportPath, `{"note":"`+strings.Repeat("x", 5<<18)+`"}`), http.StatusUnprocessableEntity, "INVALID_REQUEST")
}

// A body without end is cut off, and so is the connection.
func TestEndlessBody(t *testing.T) {
	s := startServer(t, nil)
	connection, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.Listener.Addr().String())
	require.NoError(t, err)
	defer connection.Close()
	_, err = fmt.Fprintf(connection, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n", api.LocksPath)
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		chunk := append([]byte("1000\r\n"), append(bytes.Repeat([]byte(" "), 0x1000), "\r\n"...)...)
		for {
			if _, err := connection.Write(chunk); err != nil {
				return
			}
		}
	}()
	response, err := http.ReadResponse(bufio.NewReader(connection), nil)
	require.NoError(t, err)
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	problem(t, reply{Response: response, body: content}, http.StatusRequestEntityTooLarge, "REQUEST_ENTITY_TOO_LARGE")
	<-done
}

// A body that comes too slowly is not waited for.
func TestSlowBody(t *testing.T) {
	t.Parallel()
	s := startServer(t, nil)
	connection, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.Listener.Addr().String())
	require.NoError(t, err)
	defer connection.Close()
	require.NoError(t, connection.SetDeadline(time.Now().Add(30*time.Second)))
	_, err = fmt.Fprintf(connection, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{", api.LocksPath)
	require.NoError(t, err)
	response, err := http.ReadResponse(bufio.NewReader(connection), nil)
	require.NoError(t, err)
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	problem(t, reply{Response: response, body: content}, http.StatusRequestTimeout, "REQUEST_TIMEOUT")
}

// A compressed body is refused before anything unpacks it.
func TestCompressionBomb(t *testing.T) {
	s := startServer(t, nil)
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, err := w.Write(make([]byte, 8<<20))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	r := s.send(t, http.MethodPost, api.LocksPath, packed.String(), func(r *http.Request) { r.Header.Set("Content-Encoding", "gzip") })
	problem(t, r, http.StatusUnsupportedMediaType, "UNSUPPORTED_MEDIA_TYPE")
	problem(t, s.post(t, api.LocksPath, packed.String()), http.StatusBadRequest, "INVALID_REQUEST")
}

func TestMethods(t *testing.T) {
	s := startServer(t, nil)
	for path, allow := range map[string]string{
		api.LocksPath:        "GET, HEAD, POST",
		api.LocksPath + "/x": "GET, HEAD",
		api.LookupPath:       "GET, HEAD",
		api.UnlockPath:       "POST",
		api.StatsPath:        "GET, HEAD",
		api.ImportPath:       "POST",
		api.LivePath:         "GET, HEAD",
		api.ReadyPath:        "GET, HEAD",
		api.OpenAPIPath:      "GET, HEAD",
	} {
		for _, method := range []string{http.MethodTrace, http.MethodDelete, http.MethodPut, http.MethodPatch, http.MethodOptions, "PROPFIND"} {
			r := s.send(t, method, path, "", nil)
			require.Equal(t, allow, r.Header.Get("Allow"), "%s %s", method, path)
			p := problem(t, r, http.StatusMethodNotAllowed, "METHOD_NOT_ALLOWED")
			require.Contains(t, p.Detail, allow)
		}
	}
	for _, path := range []string{"/", "/api", "/api/v1", "/api/v2/locks", "/docs", "/schemas/Lock.json", "/openapi.yaml", "/metrics", "/api/v1/locks/a/b"} {
		problem(t, s.get(t, path), http.StatusNotFound, "NOT_FOUND")
	}
}

// GET and HEAD change nothing, whatever they carry.
func TestReadingChangesNothing(t *testing.T) {
	s := startServer(t, nil)
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		for _, path := range []string{api.LocksPath, api.UnlockPath, api.ImportPath, api.LookupPath} {
			s.send(t, method, path, freezeProd, func(r *http.Request) { r.Header.Set("Content-Type", "application/json") })
			s.send(t, method, path, freezeProd, func(r *http.Request) { r.Header.Set("X-Http-Method-Override", "POST") })
		}
	}
	require.Zero(t, s.lockCount(t))
	r := s.send(t, http.MethodHead, api.LocksPath, "", nil)
	require.Equal(t, http.StatusOK, r.StatusCode)
	require.Empty(t, r.body)
}

func TestOddQueries(t *testing.T) {
	s := startServer(t, nil)
	for query, says := range map[string]string{
		"?repository=a&repository=b":   "given twice: repository",
		"?repository=a&repositor%79=b": "given twice: repository",
		"?repository=%zz":              "can't be read",
		"?repository=a;owner=b":        "can't be read",
		"?repository":                  "no value: repository",
		"?owner=user:a&repository":     "no value: repository",
	} {
		require.Contains(t, problem(t, s.get(t, api.LocksPath+query), http.StatusBadRequest, "INVALID_REQUEST").Detail, says)
	}
	p := problem(t, s.get(t, api.LocksPath+"?repo=a"), http.StatusUnprocessableEntity, "INVALID_REQUEST")
	require.Contains(t, p.Detail, "query.repo: unknown query parameter")
	problem(t, s.send(t, http.MethodPost, api.LocksPath+"?dry_run=true", freezeProd, nil), http.StatusUnprocessableEntity, "INVALID_REQUEST")
	require.Zero(t, s.lockCount(t))
}

func TestCrossOrigin(t *testing.T) {
	s := startServer(t, nil)
	for name, header := range map[string][2]string{
		"fetch from another site":      {"Sec-Fetch-Site", "cross-site"},
		"fetch from a sibling":         {"Sec-Fetch-Site", "same-site"},
		"form of another site":         {"Origin", "https://evil.example"},
		"sandboxed frame":              {"Origin", "null"},
		"another port of the same box": {"Origin", "http://127.0.0.1:1"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, path := range []string{api.LocksPath, api.UnlockPath, api.ImportPath, "/nothing"} {
				r := s.send(t, http.MethodPost, path, freezeProd, func(r *http.Request) { r.Header.Set(header[0], header[1]) })
				problem(t, r, http.StatusForbidden, "FORBIDDEN")
			}
			require.Zero(t, s.lockCount(t))
			r := s.send(t, http.MethodGet, api.LocksPath, "", func(r *http.Request) { r.Header.Set(header[0], header[1]) })
			require.Equal(t, http.StatusOK, r.StatusCode)
			require.Empty(t, r.Header.Get("Access-Control-Allow-Origin"))
		})
	}
	r := s.send(t, http.MethodPost, api.LocksPath, freezeProd, func(r *http.Request) { r.Header.Set("Origin", s.URL) })
	require.Equal(t, http.StatusCreated, r.StatusCode)
}

// A page whose own name was pointed at this server is of the same origin for
// the browser; only the Host header tells.
func TestForeignHosts(t *testing.T) {
	s := startServer(t, nil)
	port := s.Listener.Addr().(*net.TCPAddr).Port
	for host, want := range map[string]int{
		fmt.Sprintf("127.0.0.1:%d", port): http.StatusOK,
		fmt.Sprintf("localhost:%d", port): http.StatusOK,
		"LOCALHOST":                       http.StatusOK,
		"[::1]:4142":                      http.StatusOK,
		"127.8.9.10":                      http.StatusOK,
		"evil.example":                    http.StatusMisdirectedRequest,
		"localhost.evil.example":          http.StatusMisdirectedRequest,
		"127.0.0.1.evil.example:4142":     http.StatusMisdirectedRequest,
		"10.0.0.1":                        http.StatusMisdirectedRequest,
		"0.0.0.0":                         http.StatusMisdirectedRequest,
	} {
		r := s.send(t, http.MethodGet, api.LocksPath, "", func(r *http.Request) { r.Host = host })
		require.Equal(t, want, r.StatusCode, host)
		if want != http.StatusOK {
			problem(t, r, want, "MISDIRECTED_REQUEST")
		}
	}
}

func TestHeaders(t *testing.T) {
	s := startServer(t, nil)
	for _, path := range []string{api.LocksPath, api.OpenAPIPath, api.LivePath, "/nothing"} {
		h := s.get(t, path).Header
		require.Equal(t, "nosniff", h.Get("X-Content-Type-Options"))
		require.Equal(t, "no-store", h.Get("Cache-Control"))
		require.Contains(t, h.Get("Content-Security-Policy"), "default-src 'none'")
	}
}
