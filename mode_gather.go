package enhanced

import "time"

// gatherEvery is the time between the moments at which a store in a file is told, see
// gather.
const gatherEvery = 10 * time.Millisecond

// gather waits for the next moment at which a store in a file is told what both
// databases are to know, so that what many calls tell it takes one transaction. Each
// transaction waits for the disk, and so does Atlantis' own database, mostly for the
// same one, with each lock and each release. A call that is alone does not wait.
func (m *member) gather() {
	if _, file := m.adapter.backend.(stillStore); !file || m.busy.Load() < 2 {
		return
	}
	now := time.Now()
	<-time.After(gatherEvery - now.Sub(now.Truncate(gatherEvery)))
}
