package backendtest

import (
	"strings"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/stretchr/testify/require"
)

// hostileNames are names that stock Atlantis accepts and that break careless
// stores: separators of keys, patterns, hash tags of Redis Cluster, escapes,
// markup, look-alikes.
func hostileNames() []string {
	return []string{
		"", " ", ".", "..", "../x", "/etc/passwd", "a/../../b", "a/b/c/d", "/", "//", "x/default",
		"{}", "{a", "}{a}", "a{b}{c}", "{{a}}",
		"*", "x[1]", "a?b", `a\*`, "a%2Fb", "%", "%00", "%252e", "a+b", "a&b=c", "a#b", "a:b", "a|b", "a,b",
		`C:\x`, `a\b`, `\\host\share`, "pr:github.com/org%2Fapp/5", "user:alice", "::",
		"é", "e\u0301", "аcme", "ǅ", "🔒", "\u202etxt", "a\u200bb", "İ",
		"<script>alert(1)</script>", `"><img src=x onerror=alert(1)>`, "javascript:alert(1)", "{{.Env}}",
		"Acme", "acme", "ACME", strings.Repeat("long/", 200),
	}
}

// refusedNames are the ones that no entry accepts: a listed difference from stock.
func refusedNames() map[string]string {
	return map[string]string{
		"NUL": "o/r\x00x", "newlines": "o/r\r\nFLUSHALL\r\n", "escape": "\x1b[2J", "bell": "a\ab", "delete": "a\x7fb",
		"C1 control": "a\u0085b", "invalid UTF-8": "\xff\xfe", "huge": strings.Repeat("x", 1<<20),
	}
}

func testNames(t *testing.T, newBackend NewBackend) {
	t.Run("hostile owners", func(t *testing.T) {
		b := newBackend(t, nil)
		for i, name := range hostileNames() {
			if name == "" {
				continue
			}
			lock := acquire(t, b, userRequest(name, "dir"+itoa(i)))
			owner, err := enhanced.ParseOwner(lock.Owner)
			require.NoError(t, err)
			require.Equal(t, enhanced.UserOwner(name), owner)
			_, err = b.Release(t.Context(), enhanced.ReleaseRequest{Resource: lock.Resource, Owner: enhanced.UserOwner(name).String()})
			require.NoError(t, err)
		}
		for what, name := range refusedNames() {
			_, err := b.AcquireLock(t.Context(), userRequest(name, "."))
			require.ErrorIs(t, err, enhanced.ErrInvalidRequest, what)
		}
	})

	t.Run("GitLab subgroups and slashes keep apart", func(t *testing.T) {
		config := enhanced.DefaultConfig()
		config.PreserveLegacyFormat = false
		b := newBackend(t, config)
		first := acquire(t, b, pullRequestOf(host, "a/b", 1, "c/d"))
		second := acquire(t, b, pullRequestOf(host, "a/b/c", 2, "d"))
		require.NotEqual(t, first.ID, second.ID)
	})
}
