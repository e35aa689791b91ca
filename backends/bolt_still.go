package backends

// HoldStill calls f while nobody writes to the backend's file, neither this
// backend nor another user of the same open file. Whoever wants to write waits, f
// too, so it must only read. It exists for stock's boltdb on the same file, which
// reads what its transaction gave it after the transaction has ended. When the file
// is closed, f is called all the same.
func (b *BoltBackend) HoldStill(f func()) {
	// A transaction that has written nothing ends without touching the file.
	if tx, err := b.db.Begin(true); err == nil {
		defer tx.Rollback() //nolint:errcheck // nothing to roll back
	}
	f()
}
