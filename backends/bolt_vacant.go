package backends

import (
	"bytes"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// Most steps look for much that is rare: a reservation, a tombstone, a waiter. Where a
// range of a repository has no key at all, steps know that without a look into the
// file. As the rest of the memory, that follows from the file: it is read with it, kept
// with every write, and read again when a transaction is undone.

// rareRanges are the ranges that most repositories have nothing in, most of the time.
func rareRanges() []byte {
	return []byte{
		rangeClosing, rangeLastTry, rangeQueue, rangeReserves, rangeTombstone, rangeWaits, rangeReserved, rangeWaiter,
	}
}

// isRare reports whether a range is one of rareRanges.
func isRare(letter byte) bool {
	switch letter {
	case rangeClosing, rangeLastTry, rangeQueue, rangeReserves, rangeTombstone, rangeWaits, rangeReserved, rangeWaiter:
		return true
	default:
		return false
	}
}

// ranges is a set of ranges.
type ranges uint32

func (r ranges) has(letter byte) bool { return r&(1<<(letter-'a')) != 0 }

func (r *ranges) add(letter byte) { *r |= 1 << (letter - 'a') }

func (r *ranges) remove(letter byte) { *r &^= 1 << (letter - 'a') }

// isVacant reports whether a range is known to have no keys. Only steps know.
func (r *repository) isVacant(letter byte) bool {
	return r.known != nil && isRare(letter) && !r.known.used.has(letter)
}

// hasKeys looks whether a range has keys.
func (r *repository) hasKeys(letter byte) bool {
	if r.bucket == nil {
		return false
	}
	key, _ := r.cursor().Seek([]byte{letter})
	return len(key) > 0 && key[0] == letter
}

// readRanges notes which of the rare ranges have keys.
func (m *memory) readRanges(r *repository) {
	for _, letter := range rareRanges() {
		if r.hasKeys(letter) {
			m.used.add(letter)
		}
	}
}

// notePut notes that a key has been written.
func (s *repositoryStep) notePut(key []byte) {
	if isRare(key[0]) && !s.memory().used.has(key[0]) {
		s.memoryToChange().used.add(key[0])
	}
}

// noteDelete notes that a key has been deleted.
func (s *repositoryStep) noteDelete(key []byte) {
	if isRare(key[0]) && s.memory().used.has(key[0]) && !s.hasKeys(key[0]) {
		s.memoryToChange().used.remove(key[0])
	}
}

// lookUp is bbolt's Get, but for what it makes anew for each call.
func (r *repository) lookUp(key []byte) []byte {
	found, value := r.cursor().Seek(key)
	if !bytes.Equal(found, key) {
		return nil
	}
	return value
}

// lookUpStock is lookUp in stock Atlantis' locks.
func (r *repository) lookUpStock(key string) []byte {
	if r.stockLookups == nil {
		r.stockLookups = r.legacy.Cursor()
	}
	found, value := r.stockLookups.Seek([]byte(key))
	if string(found) != key {
		return nil
	}
	return value
}

// keyOf is a resource's key. Steps ask for the same one many times.
func (r *repository) keyOf(resource enhanced.ResourceIdentifier) string {
	if r.key == "" || r.keyed != resource {
		r.key, r.keyed = resource.Key(), resource
	}
	return r.key
}
