package deadlock

import "errors"

// ErrInvalid marks an option out of bounds; the message names it, its value and
// what would be right.
var ErrInvalid = errors.New("invalid")
