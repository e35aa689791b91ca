package queue

import (
	"errors"
	"fmt"
)

// Sentinels for errors.Is.
var (
	// ErrInvalid marks a configuration or a priority out of bounds; the message
	// names the value and the bounds.
	ErrInvalid = errors.New("invalid")
	// ErrDuplicate is what a [DuplicateError] matches.
	ErrDuplicate = errors.New("waits already")
	// ErrFull is what a [FullError] matches.
	ErrFull = errors.New("queue is full")
)

// DuplicateError says that an entry with the same ID waits already. Nothing was
// changed.
type DuplicateError struct {
	// ID is the one in question.
	ID string
	// Resource is what the entry that waits already waits for.
	Resource string
}

// Error names the ID and the resource.
func (e *DuplicateError) Error() string {
	return fmt.Sprintf("%q waits already, for %q", e.ID, e.Resource)
}

// Is reports whether target is [ErrDuplicate].
func (e *DuplicateError) Is(target error) bool { return target == ErrDuplicate }

// FullError says that no more entries may wait. Nothing was changed. Trying
// again helps once an entry has left.
type FullError struct {
	// Resource is the one whose line is full, empty for a [MemoryQueue].
	Resource string
	// Size is how many entries wait.
	Size int
	// Limit is how many may wait.
	Limit int
}

// Error names the resource, the size and the limit.
func (e *FullError) Error() string {
	if e.Resource == "" {
		return fmt.Sprintf("queue is full: %d of %d wait", e.Size, e.Limit)
	}
	return fmt.Sprintf("queue of %q is full: %d of %d wait", e.Resource, e.Size, e.Limit)
}

// Is reports whether target is [ErrFull].
func (e *FullError) Is(target error) bool { return target == ErrFull }
