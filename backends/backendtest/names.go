package backendtest

import (
	"strings"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
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
	// Each place of a name in turn holds each hostile name.
	places := map[string]func(project *models.Project, workspace *string, name string){
		"repository": func(p *models.Project, _ *string, name string) { p.RepoFullName = name },
		"path":       func(p *models.Project, _ *string, name string) { p.Path = name },
		"workspace":  func(_ *models.Project, w *string, name string) { *w = name },
		"project":    func(p *models.Project, _ *string, name string) { p.ProjectName = name },
	}
	request := func(place, name string) *enhanced.EnhancedLockRequest {
		r := pullRequest(5, "dir")
		places[place](&r.Project, &r.Workspace, name)
		r.Project = models.NewProject(r.Project.RepoFullName, r.Project.Path, r.Project.ProjectName)
		return r
	}

	for place := range places {
		t.Run("hostile "+place, func(t *testing.T) {
			// Without stock's copies, whose keys make different projects one.
			config := enhanced.DefaultConfig()
			config.PreserveLegacyFormat = false
			b := newBackend(t, config)
			held := make(map[enhanced.ResourceIdentifier]*enhanced.EnhancedLock)
			for _, name := range hostileNames() {
				r := request(place, name)
				want := enhanced.ProjectResource(r.Project, r.Workspace)
				lock, acquired, err := b.TryAcquireLock(t.Context(), r)
				require.NoError(t, err, "%q", name)
				_, taken := held[want]
				require.Equal(t, !taken, acquired, "%q", name)
				require.Equal(t, want, lock.Resource, "%q", name)
				held[want] = lock
			}
			locks, err := b.ListLocks(t.Context())
			require.NoError(t, err)
			require.Len(t, locks, len(held))
			for r, lock := range held {
				found, err := b.GetLock(t.Context(), lock.ID)
				require.NoError(t, err)
				require.Equal(t, r, found.Resource)
				require.Equal(t, r.Project(), found.OriginalLock.Project, "names are kept byte for byte")
				released, err := b.Release(t.Context(), enhanced.ReleaseRequest{Resource: r, Owner: lock.Owner})
				require.NoError(t, err)
				require.Equal(t, lock.ID, released.ID)
			}
			locks, err = b.ListLocks(t.Context())
			require.NoError(t, err)
			require.Empty(t, locks)
		})

		t.Run("refused "+place, func(t *testing.T) {
			b := newBackend(t, nil)
			for what, name := range refusedNames() {
				_, _, err := b.TryAcquireLock(t.Context(), request(place, name))
				require.ErrorIs(t, err, enhanced.ErrInvalidRequest, what)
				require.Less(t, len(err.Error()), 500, what)
				require.NotContains(t, err.Error(), "\x1b", what)
				require.NotContains(t, err.Error(), "\n", what)
			}
			locks, err := b.ListLocks(t.Context())
			require.NoError(t, err)
			require.Empty(t, locks)
		})
	}

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
