package tests

// contention counts the grants of locks that somebody else was refused before.
type contention struct {
	grants  int
	refused map[string]bool // by resource, since the last grant
}

func newContention() *contention { return &contention{refused: make(map[string]bool)} }

// answer counts what somebody who wanted a resource was told.
func (c *contention) answer(resource string, granted bool) {
	if granted && c.refused[resource] {
		c.grants++
	}
	c.refused[resource] = !granted
}
