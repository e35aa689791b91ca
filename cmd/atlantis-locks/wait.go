package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/google/uuid"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/client"
	"golang.org/x/term"
)

const (
	// lookInterval is how often somebody who waits is told where he stands, and
	// firstLook how soon for the first time.
	lookInterval = time.Second
	firstLook    = 100 * time.Millisecond
)

// waitForLock takes a lock, and tells on stderr how far the queue is meanwhile.
func waitForLock(ctx context.Context, env environment, server *client.Client, request api.AcquireRequest) (api.Lock, error) {
	if request.RequestID == "" {
		id, err := uuid.NewV7()
		if err != nil {
			return api.Lock{}, fmt.Errorf("making the request's ID: %w", err)
		}
		request.RequestID = id.String()
	}
	looking, stop := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() { lookAtQueue(looking, env, server, request) })
	lock, err := server.Wait(ctx, request)
	stop()
	done.Wait()
	if err != nil && ctx.Err() != nil {
		return lock, leftQueue(ctx)
	}
	return lock, noQueue(request.Owner, err)
}

// leftError says that somebody waits no longer, and why.
type leftError struct{ why error }

func (*leftError) Error() string   { return "you have left the queue" }
func (e *leftError) Unwrap() error { return e.why }

func leftQueue(ctx context.Context) error { return &leftError{ctx.Err()} }

// noQueue adds to a refusal of one who wants to wait that there is no queue, which
// is so unless the lock is his own.
func noQueue(owner api.Owner, err error) error {
	problem := (*api.Problem)(nil)
	if !errors.As(err, &problem) || problem.Code != enhanced.ErrCodeLockExists || problem.Holder == nil || problem.Holder.Owner == owner {
		return err
	}
	return withHint(fmt.Errorf("%w; the server has no queue for it, so --wait is of no use", err),
		"\"serve --enable-priority-queue\" has queues; without one, ask again later")
}

// lookAtQueue says where a request stands, until ctx ends.
func lookAtQueue(ctx context.Context, env environment, server *client.Client, request api.AcquireRequest) {
	line := newStatusLine(env.stderr)
	defer line.end()
	tick := time.NewTicker(firstLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if where, since := whereabouts(ctx, server, request); where != "" && ctx.Err() == nil {
			line.show(where, since, env.now())
			tick.Reset(lookInterval)
		}
	}
}

// whereabouts describes a request's place, "" where it has none, and says since
// when the request waits.
func whereabouts(ctx context.Context, server *client.Client, request api.AcquireRequest) (where string, since time.Time) {
	queue, err := server.Queue(ctx, request.Repository)
	if err != nil {
		return "", since
	}
	var own *api.Waiter
	for i, w := range queue.Waiters {
		if w.RequestID == request.RequestID {
			own = &queue.Waiters[i]
		}
	}
	if own == nil {
		return "", since
	}
	length := 0
	for _, w := range queue.Waiters {
		if w.Path == own.Path && w.Workspace == own.Workspace && w.ProjectName == own.ProjectName && w.Type == own.Type {
			length++
		}
	}
	where = fmt.Sprintf("number %d of %d in the queue", own.Place, length)
	resource := api.Resource{Repository: own.Repository, Path: own.Path, Workspace: own.Workspace, ProjectName: own.ProjectName}
	if position, err := server.Position(ctx, resource, own.Owner); err == nil {
		if what := blockerText(position.Blocker); what != "" {
			where += ", " + what
		}
	}
	return where, own.Since
}

// blockerText says what those who wait for a lock wait for, "" for nothing. Times
// are of the clock, so that what has not changed reads the same.
func blockerText(b *api.Blocker) string {
	if b == nil {
		return ""
	}
	who, until := ownerText(api.Lock{Owner: b.Owner, OwnerID: b.OwnerID}), ""
	if b.Until != nil {
		until = b.Until.UTC().Format("2006-01-02 15:04:05 UTC")
	}
	switch b.Kind {
	case enhanced.BlockedByClaim:
		return fmt.Sprintf("granted to %s, which has until %s to take it", who, until)
	case enhanced.BlockedByReservation:
		return fmt.Sprintf("kept for %s, which plans again, until %s", who, until)
	case enhanced.BlockedByDelay:
		return fmt.Sprintf("kept for %s until %s, since its lease ended without a release", who, until)
	case enhanced.BlockedBySet:
		return "behind a set of locks that " + who + " waits for"
	}
	if b.Note == "" {
		return "held by " + who
	}
	return "held by " + who + " (note: " + printable(b.Note) + ")"
}

// statusLine is one line that changes on a terminal. Elsewhere each change of
// place or holder is a line of its own.
type statusLine struct {
	w        io.Writer
	terminal bool
	last     string
}

func newStatusLine(w io.Writer) *statusLine {
	file, ok := w.(*os.File)
	return &statusLine{w: w, terminal: ok && term.IsTerminal(int(file.Fd()))}
}

func (l *statusLine) show(where string, since, now time.Time) {
	switch {
	case l.terminal:
		fmt.Fprintf(l.w, "\r\x1b[K%s, waiting for %s", where, roughly(now.Sub(since)))
	case where != l.last:
		fmt.Fprintln(l.w, where)
	}
	l.last = where
}

// end clears the line.
func (l *statusLine) end() {
	if l.terminal && l.last != "" {
		fmt.Fprint(l.w, "\r\x1b[K")
	}
}
