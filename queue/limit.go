package queue

import "fmt"

// DefaultLimit is how many entries may wait where a limit of zero is given.
const DefaultLimit = 1000

// limitOf returns the limit that a configured one means.
func limitOf(configured int) (int, error) {
	if configured < 0 {
		return 0, fmt.Errorf("%w: limit %d is negative", ErrInvalid, configured)
	}
	if configured == 0 {
		return DefaultLimit, nil
	}
	return configured, nil
}
