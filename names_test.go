package enhanced_test

import (
	"strings"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

// name is one part of what a lock is on, in every place it can have.
type name struct{ place, text string }

// apply puts the name in its place of an otherwise plain lock.
func (n name) apply(t *testing.T) models.ProjectLock {
	t.Helper()
	lock := pullLock(5, "dir")
	lock.Project.ProjectName = "api"
	switch n.place {
	case "repository":
		lock.Project.RepoFullName = n.text
	case "path":
		lock.Project.Path = n.text
	case "workspace":
		lock.Workspace = n.text
	case "project name":
		lock.Project.ProjectName = n.text
	case "user":
		lock.User.Username = n.text
	default:
		t.Fatalf("no place %q", n.place)
	}
	return lock
}

// TestNames says which names people may choose (the strict way in, through
// LockManager.Lock) and which Atlantis may bring (the lenient one, through
// LockingAdapter.TryLock).
func TestNames(t *testing.T) {
	t.Parallel()
	const (
		everyone = "everyone" // both accept it
		atlantis = "atlantis" // only the lenient way does
		nobody   = "nobody"
	)
	everywhere := []string{"repository", "path", "workspace", "project name", "user"}
	tests := map[string]struct {
		text     string
		places   []string
		accepted string
	}{
		"empty repository":             {"", []string{"repository"}, atlantis},
		"empty path is the root":       {"", []string{"path"}, everyone},
		"empty workspace":              {"", []string{"workspace"}, atlantis},
		"no project name":              {"", []string{"project name"}, everyone},
		"no user":                      {"", []string{"user"}, atlantis},
		"only spaces":                  {"   ", []string{"repository", "path", "workspace"}, atlantis},
		"only tabs":                    {"\t", everywhere, nobody},
		"NUL":                          {"o/r\x00x", everywhere, nobody},
		"newlines":                     {"o/r\r\nFLUSHALL\r\n", everywhere, nobody},
		"escape sequence":              {"\x1b[2J", everywhere, nobody},
		"bell":                         {"a\ab", everywhere, nobody},
		"delete":                       {"a\x7fb", everywhere, nobody},
		"C1 control":                   {"a\u009b2Jb", everywhere, nobody},
		"parent directory":             {"..", []string{"path"}, atlantis},
		"below the parent directory":   {"../x", []string{"path"}, atlantis},
		"absolute":                     {"/etc/passwd", []string{"path"}, atlantis},
		"leads out":                    {"a/../../b", []string{"path"}, atlantis},
		"starts with two dots":         {"..x", everywhere, everyone},
		"drive letter":                 {`C:\x`, everywhere, everyone},
		"backslash":                    {`a\b`, everywhere, everyone},
		"host and share":               {`\\host\share`, everywhere, everyone},
		"Cyrillic look-alike":          {"аcme", everywhere, everyone},
		"right-to-left override":       {"\u202etxt.exe", everywhere, atlantis},
		"zero-width space":             {"a\u200bb", everywhere, atlantis},
		"byte order mark":              {"\ufeffa", everywhere, atlantis},
		"emoji":                        {"🔒", everywhere, everyone},
		"title case":                   {"ǅ", everywhere, everyone},
		"four-byte letters":            {"𝒳/𠀀", everywhere, everyone},
		"invalid UTF-8":                {"\xff\xfe", everywhere, nobody},
		"invalid UTF-8 after a letter": {"a\xc3", everywhere, nobody},
		"1,024 bytes":                  {strings.Repeat("x", 1024), everywhere, everyone},
		"1,025 bytes":                  {strings.Repeat("x", 1025), everywhere, atlantis},
		"1,025 bytes of letters":       {strings.Repeat("é", 512) + "x", everywhere, atlantis},
		"1 MiB":                        {strings.Repeat("x", 1<<20), []string{"repository", "path", "workspace", "project name"}, nobody},
	}
	for what, test := range tests {
		for _, place := range test.places {
			t.Run(what+" as "+place, func(t *testing.T) {
				t.Parallel()
				n := name{place, test.text}
				t.Run("strict", func(t *testing.T) {
					t.Parallel()
					requireStrict(t, n, test.accepted == everyone)
				})
				t.Run("lenient", func(t *testing.T) {
					t.Parallel()
					// A pull request owns the lock; its user's name is kept, not used.
					requireLenient(t, n, test.accepted != nobody || n.place == "user")
				})
			})
		}
	}
}

func requireStrict(t *testing.T, n name, accepted bool) {
	t.Helper()
	manager := newManager(t, nil)
	asked := n.apply(t)
	_, err := manager.Lock(t.Context(), asked.Project, asked.Workspace, asked.User)
	locks, listErr := manager.List(t.Context())
	require.NoError(t, listErr)
	if !accepted {
		requireNameRefused(t, err)
		require.Empty(t, locks)
		return
	}
	require.NoError(t, err)
	require.Len(t, locks, 1)
	requireSameNames(t, asked, *locks[0])
}

func requireLenient(t *testing.T, n name, accepted bool) {
	t.Helper()
	backend := newBackend(t, enabled())
	manager := newManagerOn(t, backend, enabled())
	adapter := enhanced.NewLockingAdapter(manager, backend, enabled(), nil, nil)
	asked := n.apply(t)
	acquired, _, err := adapter.TryLock(asked)
	locks, listErr := adapter.List()
	require.NoError(t, listErr)
	if !accepted {
		requireNameRefused(t, err)
		require.Empty(t, locks)
		return
	}
	require.NoError(t, err)
	require.True(t, acquired)
	require.Len(t, locks, 1)
	requireSameNames(t, asked, locks[0])
}

// requireSameNames checks that names come back byte for byte, but for the
// cleaning of the path that Atlantis does too.
func requireSameNames(t *testing.T, want, got models.ProjectLock) {
	t.Helper()
	require.Equal(t, models.NewProject(want.Project.RepoFullName, want.Project.Path, want.Project.ProjectName), got.Project)
	require.Equal(t, want.Workspace, got.Workspace)
}

// requireNameRefused checks that a refusal is safe to show on a terminal.
func requireNameRefused(t *testing.T, err error) {
	t.Helper()
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
	require.Less(t, len(err.Error()), 500)
	require.NotRegexp(t, `[[:cntrl:]\x{80}-\x{9f}\x{200b}\x{202e}\x{feff}]`, err.Error())
}

func TestNamesOfOnePath(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"./a", "a/", "a//", "a/b/.."} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			backend := newBackend(t, enabled())
			manager := newManagerOn(t, backend, enabled())
			adapter := enhanced.NewLockingAdapter(manager, backend, enabled(), nil, nil)
			_, err := manager.Lock(t.Context(), models.Project{RepoFullName: repo, Path: "a"}, workspace, alice())
			require.NoError(t, err)
			unclean := models.Project{RepoFullName: repo, Path: path}
			_, err = manager.Lock(t.Context(), unclean, workspace, bob())
			require.ErrorIs(t, err, enhanced.ErrLockExists)
			held, err := adapter.GetLock(unclean, workspace)
			require.NoError(t, err)
			require.Equal(t, alice(), held.User)
			_, err = manager.Unlock(t.Context(), unclean, workspace, alice())
			require.NoError(t, err)

			asked := pullLock(5, "")
			asked.Project.Path = path
			acquired, _, err := adapter.TryLock(asked)
			require.NoError(t, err)
			require.True(t, acquired)
			acquired, holder, err := adapter.TryLock(pullLock(6, "a"))
			require.NoError(t, err)
			require.False(t, acquired)
			require.Equal(t, 5, holder.Pull.Num)
		})
	}
}

func TestNamesThatLookAlikeAreDifferentLocks(t *testing.T) {
	t.Parallel()
	manager := newManager(t, nil)
	names := []string{"acme", "аcme", "Acme", "é", "e\u0301", "a b", "a\u00a0b", `a\b`, "a/b"}
	for _, path := range names {
		_, err := manager.Lock(t.Context(), models.NewProject(repo, path, ""), workspace, alice())
		require.NoError(t, err, "%q", path)
	}
	locks, err := manager.List(t.Context())
	require.NoError(t, err)
	require.Len(t, locks, len(names))
}

// The types beyond projects are for programs; Atlantis' paths are directories,
// theirs are not.
func TestResourceTypes(t *testing.T) {
	t.Parallel()
	manager := newManager(t, nil)
	for _, typ := range []enhanced.ResourceType{
		enhanced.ResourceTypeProject, enhanced.ResourceTypeWorkspace, enhanced.ResourceTypeGlobal, enhanced.ResourceTypeCustom,
	} {
		r := enhanced.ResourceIdentifier{Type: typ, Namespace: repo, Path: "a", Workspace: workspace}
		lock, err := manager.Acquire(t.Context(), &enhanced.EnhancedLockRequest{Resource: r, User: alice()})
		require.NoError(t, err, typ)
		require.Equal(t, r, lock.Resource)
	}
	_, err := manager.Acquire(t.Context(), &enhanced.EnhancedLockRequest{
		Resource: enhanced.ResourceIdentifier{Type: "row", Namespace: repo, Path: "a", Workspace: workspace}, User: alice(),
	})
	require.ErrorIs(t, err, enhanced.ErrInvalidRequest)
	require.ErrorContains(t, err, `"row"`)
}
