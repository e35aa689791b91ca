package backends

import (
	"slices"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// memory is what is remembered of the requests of one repository, and what is known
// of its locks and its log. Only steps use it.
type memory struct {
	// requests are the tokens of the locks that requests got, by their IDs.
	requests map[string]int64
	// endings say how locks ended, by their tokens.
	endings map[int64]ending
	// due is when endings are forgotten, in the order of time. The first ones
	// are stored, as far as kept.
	due  []dueEnding
	kept int
	// holdings is what owners hold.
	holdings holdings
	// archived is the sequence up to which the log is in its archive.
	archived uint64
	// room is how many records more than minRecent may be beside the rest now.
	room uint64
	// oldest is the log's first record, nil where that is not known.
	oldest *outdatedRecord
	// used are those of the rare ranges that have keys.
	used ranges
}

type dueEnding struct {
	at, token int64
	// stored says that the ending has an entry of its own in the file.
	stored bool
}

// end remembers how a lock ended, until a time that is not before an earlier one's.
func (m *memory) end(token, until int64, e ending) {
	m.endings[token] = e
	m.due = append(m.due, dueEnding{at: until, token: token})
	if e.Request != "" {
		m.requests[e.Request] = token
	}
}

// stored notes that an ending has an entry of its own.
func (m *memory) stored(token int64) {
	// Log records are removed in their order, so it is the next one.
	for i := m.kept; i < len(m.due); i++ {
		if m.due[i].token == token {
			m.due[i].stored, m.kept = true, i+1
			return
		}
	}
}

// forget removes the next ending whose time has come.
func (m *memory) forget(now int64) (dueEnding, bool) {
	if len(m.due) == 0 || m.due[0].at > now {
		return dueEnding{}, false
	}
	next := m.due[0]
	if m.due = m.due[1:]; len(m.due) == 0 {
		m.due = nil
	}
	m.kept = max(m.kept-1, 0)
	if request := m.endings[next.token].Request; m.requests[request] == next.token {
		delete(m.requests, request)
	}
	delete(m.endings, next.token)
	return next, true
}

// memory returns what is remembered of the repository's requests.
func (s *repositoryStep) memory() *memory {
	m, found := s.backend.memories[s.tag]
	if !found {
		m = s.readMemory()
		s.backend.memories[s.tag] = m
	}
	return m
}

// memoryToChange is memory for a step that changes it: it is read again if the
// transaction is undone.
func (s *repositoryStep) memoryToChange() *memory {
	s.batch.remembered[s.tag] = struct{}{}
	return s.memory()
}

// undone drops what a transaction has changed in the memory but not in the file.
func (b *BoltBackend) undone(batch *batch) {
	for tag := range batch.remembered {
		delete(b.memories, tag)
	}
}

// forgetAll removes the endings whose time has come and that are only in this
// process, of all repositories.
func (b *BoltBackend) forgetAll(now int64) {
	for _, m := range b.memories {
		for m.kept == 0 {
			if _, ok := m.forget(now); !ok {
				break
			}
		}
	}
}

// readMemory reads the memory from the repository's locks and log, and from
// what was kept of log records that are gone.
func (r *repository) readMemory() *memory {
	m := &memory{requests: make(map[string]int64), endings: make(map[int64]ending), holdings: newHoldings()}
	if r.bucket == nil {
		return m
	}
	m.archived = r.archived()
	m.readRanges(r)
	cursor := r.bucket.Cursor()
	for key, value := cursor.Seek([]byte{rangeForget}); len(key) > 0 && key[0] == rangeForget; key, value = cursor.Next() {
		var e ending
		if at, token, ok := splitForgetKey(key); ok && decode(value, &e) == nil && e.isSound(r.name) {
			m.end(token, at, e)
			m.stored(token)
		}
	}
	for _, record := range r.recentEndings() {
		token, until, e, _ := record.ending()
		m.end(token, until, e)
	}
	r.eachHeld(func(resourceKey string, lock heldLock, owner enhanced.Owner) {
		if lock.Request != "" {
			m.requests[lock.Request] = lock.Token
		}
		if owner != (enhanced.Owner{}) {
			m.holdings.add(owner, resourceKey)
		}
	})
	return m
}

// recentEndings returns the log records of the ends that are remembered still.
func (r *repository) recentEndings() (records []*logRecord) {
	for c := r.logFromEnd(); c.valid(); c.previous() {
		record, err := readLogRecord(r.name, c.data)
		if err != nil {
			continue
		}
		if record.Time+memoryTime.Microseconds() <= r.now {
			break
		}
		if _, _, _, ok := record.ending(); ok {
			records = append(records, record)
		}
	}
	slices.Reverse(records)
	return records
}
