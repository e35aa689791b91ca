package tests

import (
	"errors"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/runatlantis/atlantis/server/core/locking"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/events/models"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// The listed differences, in the words of docs/compatibility.md.
const (
	listedPrefix    = "| Closing pull request 5 of `org/app` also unlocks pull request 5 of `org/app-prod` (prefix match) | only that repository's locks are released |"
	listedToken     = "| Lock and pull status records hold the VCS token in clear text | removed before anything is written;"
	listedControl   = "| `TryLock` with NUL, another control character or invalid UTF-8 in a name | accepted; invalid UTF-8 changes when it is stored | `INVALID_REQUEST` |"
	listedLong      = "| `TryLock` with names of more than 16,000 bytes (escaped, together) | reports success above bbolt's key limit and stores nothing | `INVALID_REQUEST` |"
	listedLongRedis = "| The same on Redis | taken | `INVALID_REQUEST` |"
	listedMistaken  = "| `TryLock` refused by the same number of another host or repository, or by a user's lock | `(false, lock)`, which Atlantis takes for its own | error `LOCK_EXISTS` |"
	listedCloneURL  = "| `TryLock`, `GetLock`, `List`: `Pull.BaseRepo.CloneURL` | the URL with the token | empty |"
	listedPassword  = "| `TryLock`, `GetLock`, `List`: passwords in other URLs | as given | `<redacted>` |"
	listedUnclean   = "| `TryLock` with a path that is not clean (`a/`, `./a`) | another lock than `a` | the same lock as `a` |"
	listedSibling   = "| `UnlockIfOwnedByPull` where the same number of another repository holds the same key | released | kept |"
	listedHosts     = "| `UnlockByPull` where several hosts hold locks for one repository and number | all are released | refused, named |"
)

// What the list says beyond these can't be met here: users' locks and the
// manager's calls have no stock side, unreadable records and keys of the past
// are in stock_faults_bolt_test.go, and one process closes a store once.
func listedDifferences() []string {
	return []string{
		listedPrefix, listedToken, listedControl, listedMistaken,
		listedCloneURL, listedPassword, listedUnclean, listedSibling, listedHosts,
	}
}

func TestListedDifferencesAreListed(t *testing.T) {
	page, err := os.ReadFile("../docs/compatibility.md")
	require.NoError(t, err)
	for _, words := range append(listedDifferences(), listedLong, listedLongRedis) {
		require.Contains(t, string(page), words)
	}
}

// answer is what one side answers to a call.
type answer struct {
	value any
	err   error
}

// compare fails unless ours is what stock answers. What is given as stock's may
// have been changed by a listed difference before.
func (d *differential) compare(t *rapid.T, call string, stock, ours answer) {
	if reflect.DeepEqual(stock.value, ours.value) && (stock.err == nil) == (ours.err == nil) {
		return
	}
	t.Fatalf("%s: a difference that is not listed\nstock: %+v, error %v\nours:  %+v, error %v", call, stock.value, stock.err, ours.value, ours.err)
}

func (d *differential) compareErrors(t *rapid.T, call string, stock, ours error) {
	d.compare(t, call, answer{nil, stock}, answer{nil, ours})
}

// met counts a listed difference.
func (d *differential) met(words string) { d.listed[words]++ }

// shown is a lock as compared: without its time, which the client takes for
// each side anew.
func shown(lock models.ProjectLock) models.ProjectLock {
	lock.Time = time.Time{}
	return lock
}

// stockLock is stock's lock as ours shows it by the list.
func (d *differential) stockLock(lock models.ProjectLock) models.ProjectLock {
	if lock.Pull.BaseRepo.CloneURL != "" {
		d.met(listedCloneURL)
		lock.Pull.BaseRepo.CloneURL = ""
	}
	for _, address := range []*string{&lock.Pull.URL, &lock.Pull.BaseRepo.SanitizedCloneURL} {
		if text := withoutPassword(*address); text != *address {
			d.met(listedPassword)
			*address = text
		}
	}
	return shown(lock)
}

// withoutPassword replaces the password of the URLs that drawURL draws.
func withoutPassword(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return address // such as one that has been sanitized before
	}
	if password, ok := u.User.Password(); ok {
		return strings.Replace(address, ":"+password+"@", ":<redacted>@", 1)
	}
	return address
}

func (d *differential) stockLocks(locks []models.ProjectLock) (result []models.ProjectLock) {
	for _, lock := range locks {
		result = append(result, d.stockLock(lock))
	}
	return result
}

func ourLocks(locks []models.ProjectLock) (result []models.ProjectLock) {
	for _, lock := range locks {
		result = append(result, shown(lock))
	}
	return result
}

func (d *differential) stockPointer(lock *models.ProjectLock) any {
	if lock == nil {
		return nil
	}
	return d.stockLock(*lock)
}

func ourPointer(lock *models.ProjectLock) any {
	if lock == nil {
		return nil
	}
	return shown(*lock)
}

// stockStatus is stock's pull status as ours shows it by the list.
func (d *differential) stockStatus(status *models.PullStatus) *models.PullStatus {
	if status == nil {
		return nil
	}
	s := *status
	s.Pull = d.stockLock(models.ProjectLock{Pull: s.Pull}).Pull
	if s.Pull != status.Pull {
		d.met(listedToken)
	}
	return &s
}

func (d *differential) tryLock(t *rapid.T) {
	project, workspace, pull, user := drawOddProject(t), drawWorkspace(t), drawPull(t), drawUser(t)
	t.Logf("TryLock(%+v, %q, %s#%d of %s, %+v)", project, workspace, pull.BaseRepo.VCSHost.Hostname, pull.Num, pull.BaseRepo.FullName, user)
	stock, stockErr := d.stock.client.TryLock(project, workspace, pull, user)
	ours, ourErr := d.ours.client.TryLock(project, workspace, pull, user)
	// undo takes back what stock has done and ours has not.
	undo := func() {
		if stock.LockAcquired {
			_, err := d.stock.Unlock(project, workspace)
			require.NoError(t, err)
		}
	}
	resource := enhanced.ProjectResource(project, workspace)
	switch {
	case hasOddText(project.RepoFullName, project.Path, project.ProjectName, workspace):
		if stockErr == nil && errors.Is(ourErr, enhanced.ErrInvalidRequest) {
			d.met(listedControl)
			undo()
			return
		}
	case len(project.RepoFullName)+len(resource.Key()) > 16_000:
		if stockErr == nil && errors.Is(ourErr, enhanced.ErrInvalidRequest) {
			d.met(d.long)
			undo()
			return
		}
	case project.Path != resource.Path:
		d.met(listedUnclean)
		undo()
		key := stock.LockKey
		stock, stockErr = d.stock.client.TryLock(resource.Project(), workspace, pull, user)
		stock.LockKey = key
	}
	holder := stock.CurrLock
	isAnother := holder.Pull.BaseRepo.VCSHost.Hostname != pull.BaseRepo.VCSHost.Hostname ||
		holder.Project.RepoFullName != project.RepoFullName
	if stockErr == nil && !stock.LockAcquired && errors.Is(ourErr, enhanced.ErrLockExists) && holder.Pull.Num == pull.Num && isAnother {
		d.met(listedMistaken)
		return
	}
	type response struct {
		LockAcquired bool
		CurrLock     models.ProjectLock
		LockKey      string
	}
	d.compare(t, "TryLock",
		answer{response{stock.LockAcquired, d.stockLock(stock.CurrLock), stock.LockKey}, stockErr},
		answer{response{ours.LockAcquired, shown(ours.CurrLock), ours.LockKey}, ourErr})
}

// hasOddText reports whether a name has what the list refuses.
func hasOddText(names ...string) bool {
	for _, name := range names {
		if !utf8.ValidString(name) || strings.IndexFunc(name, unicode.IsControl) >= 0 {
			return true
		}
	}
	return false
}

func (d *differential) unlock(t *rapid.T) {
	key := drawKey(t)
	t.Logf("Unlock(%q)", key)
	stock, stockErr := d.stock.client.Unlock(key)
	ours, ourErr := d.ours.client.Unlock(key)
	d.compare(t, "Unlock", answer{d.stockPointer(stock), stockErr}, answer{ourPointer(ours), ourErr})
}

func (d *differential) getLock(t *rapid.T, key string) {
	t.Logf("GetLock(%q)", key)
	stock, stockErr := d.stock.client.GetLock(key)
	ours, ourErr := d.ours.client.GetLock(key)
	d.compare(t, "GetLock", answer{d.stockPointer(stock), stockErr}, answer{ourPointer(ours), ourErr})
}

func (d *differential) list(t *rapid.T) map[string]models.ProjectLock {
	stock, stockErr := d.stock.client.List()
	ours, ourErr := d.ours.client.List()
	require.NoError(t, stockErr)
	require.NoError(t, ourErr)
	stockShown, ourShown := make(map[string]models.ProjectLock), make(map[string]models.ProjectLock)
	for key, lock := range stock {
		stockShown[key] = d.stockLock(lock)
	}
	for key, lock := range ours {
		ourShown[key] = shown(lock)
	}
	d.compare(t, "List", answer{stockShown, nil}, answer{ourShown, nil})
	if d.unordered {
		return stock
	}
	// The order, which the client's map hides.
	inOrder, err := d.stock.List()
	require.NoError(t, err)
	ourOrder, err := d.ours.List()
	require.NoError(t, err)
	d.compare(t, "List in order", answer{d.stockLocks(inOrder), nil}, answer{ourLocks(ourOrder), nil})
	return stock
}

func (d *differential) unlockIfOwnedByPull(t *rapid.T) {
	project, workspace, number := drawProject(t), drawWorkspace(t), drawNumber(t)
	t.Logf("UnlockIfOwnedByPull(%+v, %q, %d)", project, workspace, number)
	stock, stockErr := d.stock.client.UnlockIfOwnedByPull(project, workspace, number)
	ours, ourErr := d.ours.client.UnlockIfOwnedByPull(project, workspace, number)
	if stockErr == nil && stock != nil && stock.Project.RepoFullName != project.RepoFullName && ours == nil && ourErr == nil {
		d.met(listedSibling)
		acquired, _, err := d.stock.TryLock(*stock)
		require.NoError(t, err)
		require.True(t, acquired)
		return
	}
	d.compare(t, "UnlockIfOwnedByPull", answer{d.stockPointer(stock), stockErr}, answer{ourPointer(ours), ourErr})
}

func (d *differential) unlockByPull(t *rapid.T) {
	repository, number := drawRepository(t), drawNumber(t)
	t.Logf("UnlockByPull(%q, %d)", repository, number)
	stock, stockErr := d.stock.client.UnlockByPull(repository, number)
	ours, ourErr := d.ours.client.UnlockByPull(repository, number)
	// takeAgain gives back what stock has released and ours has not.
	takeAgain := func(lock models.ProjectLock) {
		acquired, _, err := d.stock.TryLock(lock)
		require.NoError(t, err)
		require.True(t, acquired)
	}
	var expected []models.ProjectLock
	hosts := make(map[string]bool)
	for _, lock := range stock {
		if lock.Project.RepoFullName != repository {
			d.met(listedPrefix)
			takeAgain(lock)
			continue
		}
		expected = append(expected, lock)
		if host := lock.Pull.BaseRepo.VCSHost.Hostname; host != "" {
			hosts[host] = true
		}
	}
	if len(hosts) > 1 && errors.Is(ourErr, enhanced.ErrInvalidRequest) {
		d.met(listedHosts)
		require.Empty(t, ours)
		for host := range hosts {
			require.ErrorContains(t, ourErr, enhanced.PullOwner(host, repository, number).Describe())
		}
		for _, lock := range expected {
			takeAgain(lock)
		}
		return
	}
	if d.unordered {
		byKey := func(a, b models.ProjectLock) int {
			return strings.Compare(models.GenerateLockKey(a.Project, a.Workspace), models.GenerateLockKey(b.Project, b.Workspace))
		}
		slices.SortFunc(expected, byKey)
		slices.SortFunc(ours, byKey)
	}
	d.compare(t, "UnlockByPull", answer{d.stockLocks(expected), stockErr}, answer{ourLocks(ours), ourErr})
}

// compareAll compares everything that is held, by list and one by one.
func (d *differential) compareAll(t *rapid.T) {
	for key := range d.list(t) {
		d.getLock(t, key)
	}
}

var _ locking.Locker = (*locking.Client)(nil)
