package backends

import "time"

// linger is how long a loop outlives its last step, at least.
const linger = 10 * time.Millisecond

// assign has somebody commit what waits, with c.mu held. It reports whether that is the
// caller, who may where it would wait in any case.
func (c *committer) assign(mayLead bool) (lead bool) {
	switch {
	case c.leading || c.looping && !c.resting: // they look at what has come
		return false
	case mayLead:
		c.leading = true
		return true
	case !c.looping:
		c.looping, c.resting, c.weary = true, false, false
		// One for many steps: a limit for each would wake a processor each time.
		c.patience = time.AfterFunc(linger, c.tire)
		go c.loop()
	default:
		c.resting = false
		c.wakeUp()
	}
	c.asked = true
	return false
}

// loop commits what waits. When nothing does it lingers: a caller that takes
// and releases locks one after the other would otherwise pay for a new
// goroutine with a small stack each time.
func (c *committer) loop() {
	left := false
	defer func() {
		if !left { // the goroutine has ended in a step
			c.mu.Lock()
			defer c.mu.Unlock()
			c.endLoop()
		}
	}()
	for {
		switch c.next() {
		case runSteps:
			for again := c.commit(nil); len(again) > 0; {
				again = c.commit(again)
			}
		case getPages:
			c.getPages()
		case rest:
			<-c.wake
		case leave:
			left = true
			return
		}
	}
}

// task is what a loop does next.
type task int

const (
	runSteps task = iota
	getPages
	rest
	leave
)

func (c *committer) next() task {
	lacking := c.lacksPages()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.resting = false
	switch {
	case !c.leading && len(c.waiting) > 0:
		return runSteps
	case c.closed || c.weary: // who leads has another loop take what comes
		c.endLoop()
		return leave
	case !c.leading && lacking && c.unusable() == nil:
		return getPages
	default:
		c.resting = true
		return rest
	}
}

// endLoop is called with c.mu held.
func (c *committer) endLoop() {
	c.looping = false
	c.patience.Stop()
	c.idle.Broadcast()
}

// tire has a loop leave that got no step since the last time.
func (c *committer) tire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked {
		c.asked = false
		c.patience.Reset(linger)
		return
	}
	c.weary = true
	c.wakeUp()
}

// wakeUp tells a resting loop that something has changed.
func (c *committer) wakeUp() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// lead has a caller run one transaction, with its step and those that have come
// meanwhile. What is left of it, and what comes later, is left to a loop: a caller that
// is answered goes.
func (c *committer) lead() {
	var left []*pendingStep
	defer func() { c.pass(left) }() // also where the caller's goroutine ends in its step
	left = c.commit(nil)
}

// pass ends the time of who has led, and leaves what is left to somebody else.
func (c *committer) pass(left []*pendingStep) {
	lacking := c.lacksPages()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = append(left, c.waiting...)
	if len(c.waiting) == 0 && lacking && c.unusable() == nil {
		go func() {
			c.getPages()
			c.pass(nil)
		}()
		return
	}
	c.leading = false
	c.idle.Broadcast()
	if len(c.waiting) > 0 {
		c.assign(false)
	} else {
		c.waiting = nil
	}
}
