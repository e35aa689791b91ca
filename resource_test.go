package enhanced_test

import (
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestProjectResourceCleansPathsAsAtlantisDoes(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"": ".", ".": ".", "/": ".", "//": ".", "./": ".", "a": "a", "./a": "a", "a/": "a", "a//": "a", "a/b/..": "a",
		"a/./b": "a/b", "..": "..", "../x": "../x", "a/../../b": "../b", "/etc/passwd": "/etc/passwd",
		`C:\x`: `C:\x`, `a\b`: `a\b`, " a ": " a ", "Ä": "Ä", "a%2F..": "a%2F..",
	}
	for path, want := range tests {
		unclean := models.Project{RepoFullName: repo, Path: path, ProjectName: "api"}
		r := enhanced.ProjectResource(unclean, workspace)
		require.Equal(t, models.NewProject("", path, "").Path, r.Path, "%q", path)
		require.Equal(t, want, r.Path, "%q", path)
		require.Equal(t, enhanced.ResourceIdentifier{
			Type: enhanced.ResourceTypeProject, Namespace: repo, Path: want, Workspace: workspace, Name: "api",
		}, r)
		require.Equal(t, models.NewProject(repo, path, "api"), r.Project())
	}
}

func TestNormalized(t *testing.T) {
	t.Parallel()
	full := enhanced.ResourceIdentifier{
		Type: enhanced.ResourceTypeProject, Namespace: repo, Path: "a", Workspace: workspace, Name: "api",
	}
	without := full
	without.Type, without.Path = "", "./a/"
	require.Equal(t, full, without.Normalized())

	custom := enhanced.ResourceIdentifier{Type: enhanced.ResourceTypeCustom, Namespace: repo, Path: "./a/"}
	require.Equal(t, custom, custom.Normalized(), "only project paths are directories")
}

func TestResourceString(t *testing.T) {
	t.Parallel()
	tests := map[string]enhanced.ResourceIdentifier{
		"org/app (path ., workspace default)":              {Namespace: "org/app", Path: ".", Workspace: "default"},
		"org/app (path ., workspace default, project api)": {Namespace: "org/app", Path: ".", Workspace: "default", Name: "api"},
		"global org/app (path x, workspace default)":       {Type: enhanced.ResourceTypeGlobal, Namespace: "org/app", Path: "x", Workspace: "default"},
		`"" (path "a b", workspace "a,b")`:                 {Path: "a b", Workspace: "a,b"},
		`"a\x1b[2J" (path "\u202e", workspace "a\nb")`:     {Namespace: "a\x1b[2J", Path: "\u202e", Workspace: "a\nb"},
		`🔒 (path é, workspace "\xff")`:                     {Namespace: "🔒", Path: "é", Workspace: "\xff"},
	}
	for want, r := range tests {
		require.Equal(t, want, r.String())
	}
}

func TestLegacyKey(t *testing.T) {
	t.Parallel()
	p := models.NewProject("group/sub/repo", "envs/prod", "api")
	r := enhanced.ProjectResource(p, "staging")
	require.Equal(t, models.GenerateLockKey(p, "staging"), r.LegacyKey())
	require.Equal(t, "group/sub/repo/envs/prod/staging/api", r.LegacyKey())
}

func TestResourceTypesExcludeNothing(t *testing.T) {
	t.Parallel()
	keys := make(map[string]enhanced.ResourceType)
	for _, typ := range []enhanced.ResourceType{
		enhanced.ResourceTypeProject, enhanced.ResourceTypeWorkspace, enhanced.ResourceTypeGlobal, enhanced.ResourceTypeCustom,
	} {
		keys[enhanced.ResourceIdentifier{Type: typ, Namespace: repo, Path: "a"}.Key()] = typ
	}
	require.Len(t, keys, 4)
}

func drawResource(t *rapid.T, label string) enhanced.ResourceIdentifier {
	return enhanced.ResourceIdentifier{
		Type:      rapid.SampledFrom([]enhanced.ResourceType{enhanced.ResourceTypeProject, enhanced.ResourceTypeCustom}).Draw(t, label+" type"),
		Namespace: repo,
		Path:      hostileText().Draw(t, label+" path"),
		Name:      hostileText().Draw(t, label+" name"),
		Workspace: hostileText().Draw(t, label+" workspace"),
	}
}

func TestResourceKeysRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := drawResource(t, "a")
		parsed, err := enhanced.ParseResourceKey(r.Namespace, r.Key())
		if err != nil || parsed != r {
			t.Fatalf("%#v became %q became %#v, %v", r, r.Key(), parsed, err)
		}
		for _, c := range []byte(r.Key()) {
			if c <= ' ' || c >= 0x7f {
				t.Fatalf("key %q is not printable", r.Key())
			}
		}
	})
}

func TestResourceKeysAreInjective(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawResource(t, "a"), drawResource(t, "b")
		if rapid.Bool().Draw(t, "shifted") {
			// The same characters cut at other places.
			b = a
			b.Path, b.Workspace, b.Name = a.Path+"/"+a.Workspace, a.Name, ""
		}
		if (a == b) != (a.Key() == b.Key()) {
			t.Fatalf("%#v and %#v have the keys %q and %q", a, b, a.Key(), b.Key())
		}
	})
}

func TestResourceKeysFoldNothing(t *testing.T) {
	t.Parallel()
	keys := make(map[string]string)
	for _, path := range []string{"acme", "Acme", "ACME", "é", "e\u0301", "аcme", "İ", "i̇", "ǅ", "ǆ", "a b", "a%20b", "a+b", "a\u00a0b"} {
		key := enhanced.ResourceIdentifier{Type: enhanced.ResourceTypeProject, Namespace: repo, Path: path}.Key()
		require.NotContains(t, keys, key, "%q and %q", path, keys[key])
		keys[key] = path
	}
}

func TestParseResourceKeyRefusesOtherForms(t *testing.T) {
	t.Parallel()
	for _, key := range []string{
		"", "project", "project/a/b", "project/a/b/c/d", "project/%/b/c", "project/%2/b/c", "project/%61/b/c", "project/a b/c/d",
		"project/%2f/b/c", "project/a/é/c", "project/a/b/\x00",
	} {
		_, err := enhanced.ParseResourceKey(repo, key)
		require.Error(t, err, "%q", key)
	}
}

func FuzzParseResourceKey(f *testing.F) {
	for _, seed := range []string{
		"", "project/./default/", "project/a%2Fb/default/api", "project/a%2fb/default/", "custom///", "global/%00/%FF/%",
		"a/b/c/d/e", "project/a b/c/d", "///",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, key string) {
		r, err := enhanced.ParseResourceKey(repo, key)
		if err != nil {
			require.Zero(t, r)
			return
		}
		require.Equal(t, key, r.Key(), "one resource has one key")
		require.Equal(t, repo, r.Namespace)
	})
}
