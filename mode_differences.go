package enhanced

import (
	"fmt"
	"slices"
	"sync"

	"github.com/runatlantis/atlantis/server/events/models"
)

// recentDifferences is how many differences an adapter keeps.
const recentDifferences = 10

// differences counts what the two databases say differently.
type differences struct {
	mu     sync.Mutex
	total  int64
	recent []string
}

func (d *differences) add(text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.total++
	d.recent = append(d.recent, text)
	if over := len(d.recent) - recentDifferences; over > 0 {
		d.recent = slices.Delete(d.recent, 0, over)
	}
}

func (d *differences) count() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.total
}

func (d *differences) texts() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.recent)
}

// differs notes that the store says something else than the legacy database, which
// decides.
func (m *member) differs(operation, resource, legacy, store string) {
	text := fmt.Sprintf("%s %s: the legacy database says %s, the store %s", operation, resource, legacy, store)
	m.differences.add(text)
	m.adapter.logger.Warn("adapter %q: %s", m.name, text)
}

const nobody = "nobody holds it"

// heldBy describes a lock of either database, for people.
func heldBy(lock *models.ProjectLock) string {
	if lock == nil {
		return nobody
	}
	return fmt.Sprintf("pull request %d holds it", lock.Pull.Num)
}

// keysOf are the sorted keys, with the holders' pull requests, of locks.
func keysOf(locks []models.ProjectLock) []string {
	keys := make([]string, len(locks))
	for i, lock := range locks {
		keys[i] = fmt.Sprintf("%s by %d", models.GenerateLockKey(lock.Project, lock.Workspace), lock.Pull.Num)
	}
	slices.Sort(keys)
	return keys
}
