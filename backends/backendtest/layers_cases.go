package backendtest

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
)

// testLayers runs the cases that hold whatever a caller comes through.
func testLayers(t *testing.T, newBackend NewBackend) {
	for name, newLayer := range layers() {
		run := func(t *testing.T, what string, test func(t *testing.T, l layer, b enhanced.Backend)) {
			t.Run(what, func(t *testing.T) {
				a, b := newAdapter(t, newBackend, nil)
				test(t, newLayer(t, a, b), b)
			})
		}
		t.Run(name, func(t *testing.T) {
			for place, put := range namePlaces() {
				run(t, "hostile "+place, func(t *testing.T, l layer, _ enhanced.Backend) { testHostileNames(t, l, put) })
				run(t, "refused "+place, func(t *testing.T, l layer, _ enhanced.Backend) { testRefusedNames(t, l, put) })
			}
			run(t, "unlock by pull request", testClosePull)
			run(t, "one winner in each round", func(t *testing.T, l layer, _ enhanced.Backend) { testOneWinner(t, l) })
		})
	}
}

// namePlaces are the places of a name in a lock.
func namePlaces() map[string]func(lock *models.ProjectLock, name string) {
	return map[string]func(lock *models.ProjectLock, name string){
		"repository": func(l *models.ProjectLock, name string) { l.Project.RepoFullName = name },
		"path":       func(l *models.ProjectLock, name string) { l.Project.Path = models.NewProject("", name, "").Path },
		"workspace":  func(l *models.ProjectLock, name string) { l.Workspace = name },
		"project":    func(l *models.ProjectLock, name string) { l.Project.ProjectName = name },
	}
}

// testHostileNames has each name in one place, for a pull request of its own.
func testHostileNames(t *testing.T, l layer, put func(lock *models.ProjectLock, name string)) {
	held := make(map[enhanced.ResourceIdentifier]models.ProjectLock)
	for i, name := range hostileNames() {
		lock := projectLock(host, repo, 2*i+1, "dir")
		put(&lock, name)
		resource := enhanced.ProjectResource(lock.Project, lock.Workspace)
		acquired, holder, err := l.tryLock(lock)
		require.NoError(t, err, "%q", name)
		if first, taken := held[resource]; taken {
			require.False(t, acquired, "%q", name)
			require.Equal(t, first.Pull.Num, holder)
			continue
		}
		require.True(t, acquired, "%q", name)
		held[resource] = lock
		other := lock
		other.Pull = pull(host, repo, 2*i+2)
		acquired, holder, err = l.tryLock(other)
		require.NoError(t, err, "%q", name)
		require.False(t, acquired, "%q", name)
		require.Equal(t, lock.Pull.Num, holder, "%q", name)
	}
	locks, err := l.list()
	require.NoError(t, err)
	require.Len(t, locks, len(held))
	for _, lock := range locks {
		want := held[enhanced.ProjectResource(lock.Project, lock.Workspace)]
		require.Equal(t, want.Project, lock.Project, "names are kept byte for byte")
		require.Equal(t, want.Workspace, lock.Workspace)
		require.Equal(t, want.Pull.Num, lock.Pull.Num)
	}
	for _, lock := range held {
		require.NoError(t, l.release(lock))
	}
	locks, err = l.list()
	require.NoError(t, err)
	require.Empty(t, locks)
}

func testRefusedNames(t *testing.T, l layer, put func(lock *models.ProjectLock, name string)) {
	for what, name := range refusedNames() {
		lock := projectLock(host, repo, 5, "dir")
		put(&lock, name)
		acquired, _, err := l.tryLock(lock)
		require.ErrorIs(t, err, enhanced.ErrInvalidRequest, what)
		require.False(t, acquired)
		require.Less(t, len(err.Error()), 500, what)
		require.NotContains(t, err.Error(), "\x1b", what)
		require.NotContains(t, err.Error(), "\n", what)
	}
	locks, err := l.list()
	require.NoError(t, err)
	require.Empty(t, locks)
}

// testClosePull closes pull request 5 of org/app among all that could be taken
// for it: sibling repositories, subgroups of GitLab, numbers that start with 5,
// number 0, users.
func testClosePull(t *testing.T, l layer, b enhanced.Backend) {
	take := func(locks ...models.ProjectLock) {
		for _, lock := range locks {
			acquired, _, err := l.tryLock(lock)
			require.NoError(t, err)
			require.True(t, acquired)
		}
	}
	take(projectLock(host, repo, 5, "a"), projectLock(host, repo, 5, "b"))
	others := []models.ProjectLock{
		projectLock(host, repo, 55, "c"), projectLock(host, repo, -5, "e"), projectLock(host, repo, 0, "d"),
		projectLock(host, "org/app-prod", 5, "a"), projectLock(host, "org/ap", 5, "a"),
		projectLock(host, "org/app/sub", 5, "a"), projectLock(host, "org", 5, "app/z"),
	}
	take(others...)
	// A user's lock, which no layer of Atlantis can take.
	for i, name := range []string{"5", "p5/", "0"} {
		user := acquire(t, b, userRequest(name, "user"+itoa(i)))
		others = append(others, *user.OriginalLock)
	}
	requireClosed(t, l, 5, "a", "b")
	requireClosed(t, l, 5)
	requireListed(t, l, others)
	requireClosed(t, l, 0, "d") // number 0 is a pull request, a user is none
	requireListed(t, l, slices.Delete(others, 2, 3))
	requireClosed(t, l, -5, "e")
}

// requireClosed closes a pull request of org/app that holds locks on the paths.
func requireClosed(t *testing.T, l layer, number int, paths ...string) {
	t.Helper()
	locks, err := l.closePull(repo, number)
	require.NoError(t, err)
	var released []string
	for _, lock := range locks {
		require.Equal(t, repo, lock.Project.RepoFullName)
		require.Equal(t, number, lock.Pull.Num)
		released = append(released, lock.Project.Path)
	}
	require.ElementsMatch(t, paths, released)
}

func requireListed(t *testing.T, l layer, want []models.ProjectLock) {
	t.Helper()
	text := func(locks []models.ProjectLock) (lines []string) {
		for _, lock := range locks {
			lines = append(lines, strings.Join([]string{lock.Project.RepoFullName, lock.Project.Path, itoa(lock.Pull.Num)}, " "))
		}
		return lines
	}
	locks, err := l.list()
	require.NoError(t, err)
	require.ElementsMatch(t, text(want), text(locks))
}

func testOneWinner(t *testing.T, l layer) {
	const callers = 8
	for round := range Rounds(5_000) {
		var winners, winner atomic.Int32
		Together(callers, func(i int) {
			acquired, holder, err := l.tryLock(projectLock(host, repo, i+1, "."))
			switch {
			case err != nil:
				t.Error(err)
			case acquired:
				winners.Add(1)
				winner.Store(int32(i + 1)) //nolint:gosec // small
			case holder < 1 || holder > callers || holder == i+1:
				t.Errorf("pull request %d was refused by %d", i+1, holder)
			}
		})
		require.EqualValues(t, 1, winners.Load(), "round %d", round)
		locks, err := l.closePull(repo, int(winner.Load()))
		require.NoError(t, err)
		require.Len(t, locks, 1)
	}
}
