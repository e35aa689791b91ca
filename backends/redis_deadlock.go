package backends

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/deadlock"
)

// A script walks along the waits of a repository, see scripts/waits.lua. When it
// finds a cycle it sends the picture of what it has read, which is judged here with
// the same code as on bbolt. The script acts on that once it has seen the same picture
// again. See docs/adr/0025-a-script-walks-the-program-judges.md.

// pictured are the waits of a repository as a script has read them. It is a
// [deadlock.Source].
type pictured struct {
	repository string
	holders    map[string]string
	waiters    map[string]deadlock.Waiter // by request
	waits      map[string][]string        // requests by owner
	ahead      map[string]string          // requests
}

// readPicture reads what a script has drawn.
func readPicture(repository, text string) (*pictured, error) {
	p := &pictured{
		repository: repository, holders: make(map[string]string), waiters: make(map[string]deadlock.Waiter),
		waits: make(map[string][]string), ahead: make(map[string]string),
	}
	for part := range strings.SplitSeq(text, "\x00") {
		if part == "" {
			continue
		}
		lines := strings.Split(part[1:], "\n")
		switch kind := part[0]; {
		case kind == 'o':
			p.waits[lines[0]] = lines[1:]
		case kind == 'h' && len(lines) == 2:
			p.holders[p.graphName(lines[0])] = lines[1]
		case kind == 'a' && len(lines) == 2:
			p.ahead[lines[0]] = lines[1]
		case kind == 'w' && len(lines) == 5:
			priority, err := strconv.Atoi(lines[3])
			if err != nil {
				return nil, err
			}
			micros, err := strconv.ParseInt(cmp.Or(lines[4], "0"), 10, 64)
			if err != nil {
				return nil, err
			}
			p.waiters[lines[0]] = deadlock.Waiter{
				Owner: lines[2], Resource: p.graphName(lines[1]), Request: lines[0], Priority: priority, Since: time.UnixMicro(micros),
			}
		default:
			return nil, fmt.Errorf("the picture of waits has the part %q", part)
		}
	}
	return p, nil
}

func (p *pictured) graphName(key string) string { return p.repository + "\x00" + key }

// Holder is of [deadlock.Source].
func (p *pictured) Holder(resource string) (owner string, held bool) {
	owner = p.holders[resource]
	return owner, owner != ""
}

// Waits is of [deadlock.Source].
func (p *pictured) Waits(owner string, limit int) (found []deadlock.Waiter) {
	requests := p.waits[owner]
	for _, request := range requests[:min(limit, len(requests))] {
		found = append(found, p.waiters[request])
	}
	return found
}

// Ahead is of [deadlock.Source].
func (p *pictured) Ahead(w deadlock.Waiter) (ahead deadlock.Waiter, found bool) {
	ahead, found = p.waiters[p.ahead[w.Request]]
	return ahead, found
}

// judgement is what a script is to do about a picture.
type judgement struct {
	digest string // of the picture, empty for none
	report *enhanced.DeadlockReport
	record string   // of the report
	moved  []string // requests
}

// args are those of the scripts: digest, record, and the requests that are moved.
func (j judgement) args() []any {
	args := []any{j.digest, j.record}
	for _, request := range j.moved {
		args = append(args, request)
	}
	return args
}

// judgementOf completes a judgement.
func judgementOf(repository, digest string, report *enhanced.DeadlockReport) (judgement, error) {
	record, err := encode(newDeadlockRecord(repository, report))
	if err != nil {
		return judgement{}, err
	}
	j := judgement{digest: digest, report: report, record: string(record)}
	for _, moved := range report.Moved {
		j.moved = append(j.moved, moved.RequestID)
	}
	return j, nil
}

// drawing is a picture as a script has answered it.
type drawing struct {
	digest, picture string
	limit           int // of the walk
}

// newDrawing reads the values of an answer.
func newDrawing(a answer) (drawing, error) {
	limit, err := strconv.Atoi(a.value(2))
	return drawing{a.value(0), a.value(1), limit}, err
}

// walk walks from the waiter of a request as the script has.
func (d drawing) walk(repository, request string) (*deadlock.Walked, error) {
	source, err := readPicture(repository, d.picture)
	if err != nil {
		return nil, err
	}
	w, drawn := source.waiters[request]
	if !drawn {
		return nil, fmt.Errorf("the picture of waits lacks the request %q", request)
	}
	return deadlock.Walk(source, w, d.limit), nil
}

// judgeRequest judges a request that would close a cycle.
func judgeRequest(r *enhanced.EnhancedLockRequest, a answer) (judgement, error) {
	drawn, err := newDrawing(a)
	if err != nil {
		return judgement{}, err
	}
	repository := r.Resource.Namespace
	walked, err := drawn.walk(repository, r.ID)
	switch {
	case err != nil:
		return judgement{}, err
	case walked.Outcome != deadlock.OutcomeCycle:
		return judgement{}, fmt.Errorf("the cycle that the request %q would close is not in the picture", r.ID)
	}
	outcome, moves := enhanced.DeadlockRefused, movesOf(walked)
	if moves != nil {
		outcome = enhanced.DeadlockReordered
	}
	report, err := enhanced.NewDeadlockReport(outcome, "", walked.Cycle, moves)
	if err != nil {
		return judgement{}, err
	}
	return judgementOf(repository, drawn.digest, report)
}

// checkLimit is DeadlockCheckLimit where requests are looked at, else 0.
func checkLimit(config *enhanced.EnhancedConfig, waits bool) int {
	if !config.DeadlockPrevention || !waits {
		return 0
	}
	return config.DeadlockCheckLimit
}

// decideRequest has the script acquire decide a request, and judges it where it
// closes a cycle of waits. The error of one that is refused for that is DEADLOCK.
func (b *RedisBackend) decideRequest(ctx context.Context, r *enhanced.EnhancedLockRequest, waits bool, args []any) (answer, *enhanced.EnhancedLock, error) {
	operation := "acquire " + r.Resource.String()
	limit := checkLimit(b.config.Load(), waits)
	var judged judgement
	for range maxFollow {
		all := append(append(args[:len(args):len(args)], limit), judged.args()...)
		a, elsewhere, err := b.decideOn(ctx, operation, b.scripts.acquire, r.Resource, all...)
		switch {
		case err != nil || elsewhere != nil:
			return a, elsewhere, err
		case a.status == "deadlock":
			holder, err := b.lockIn(a.value(0), a.value(1), r.Resource)
			if err != nil {
				holder = nil // then it is not named
			}
			return a, nil, enhanced.NewDeadlockError(r.Resource, r.Owner().String(), judged.report, holder)
		case a.status != "cycle":
			if a.value(2) == "1" {
				b.recorder.Unchecked()
			}
			return a, nil, nil
		}
		first := judged.report == nil
		if judged, err = judgeRequest(r, a); err != nil {
			return answer{}, nil, enhanced.NewBackendError(operation, err)
		}
		if first {
			// What stock has released meanwhile is no edge.
			if err := b.settleWaits(ctx, operation, judged.report.Cycle); err != nil {
				return answer{}, nil, err
			}
		}
	}
	return answer{}, nil, enhanced.NewBackendError(operation, fmt.Errorf("those who wait change all the time"))
}

// settleWaits does what is due on the resources of a cycle, and takes over what stock
// has done to them: that may be what ends the deadlock.
func (b *RedisBackend) settleWaits(ctx context.Context, operation string, cycle []enhanced.DeadlockWait) error {
	settled := make(map[enhanced.ResourceIdentifier]bool)
	for _, w := range cycle {
		if settled[w.Resource] {
			continue
		}
		settled[w.Resource] = true
		a, err := b.settleOne(ctx, operation, w.Resource)
		if err != nil {
			return err
		}
		if status := a.value(0); status == "stock" || status == "old" {
			// Who can't be taken over is no edge.
			if _, err := b.LookupLock(ctx, w.Resource); err != nil && !isDecision(err) {
				return err
			}
		}
	}
	return nil
}
