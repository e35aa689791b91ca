package tests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/runatlantis/atlantis/server/events/models"
	"go.etcd.io/bbolt"
)

// loadStep is what the process under load reports of each call, once before it
// is sent and once when it is answered.
type loadStep struct {
	Call     int64
	Answered bool
	// Op is acquire, release, transfer or refresh.
	Op       string
	Resource string
	// Lock is the ID that the call is about, or the one that acquire got.
	Lock    string
	Owner   string
	Token   int64
	Granted bool
	Failed  string
}

// The leases that are asked for: a refresh makes one longer.
const (
	loadLease     = time.Hour
	loadExtension = 2 * time.Hour
)

// onRedis begins the name of a store that is a Redis server's address, loadName
// is how the process calls itself there.
const (
	onRedis  = "redis:"
	loadName = "load"
)

// runLoad is a process that works on a store until it is killed: on a file, or on
// a Redis server.
func runLoad(store string) {
	if addr, ok := strings.CutPrefix(store, onRedis); ok {
		work(backends.NewRedisBackend(redis.NewClient(&redis.Options{Addr: addr, ClientName: loadName, DisableIdentity: true}), nil, nil))
		return
	}
	db, err := bbolt.Open(store, 0o600, &bbolt.Options{Timeout: 10 * time.Second})
	if err != nil {
		panic(err)
	}
	b, err := backends.NewBoltBackend(db, nil, nil)
	if err != nil {
		panic(err)
	}
	work(b)
}

func work(b enhanced.Backend) {
	reporter := &reporter{out: json.NewEncoder(os.Stdout)}
	const workers = 12
	var done sync.WaitGroup
	for i := range workers {
		done.Go(func() { worker(b, reporter, "worker"+strconv.Itoa(i)) })
	}
	done.Wait()
}

// reporter writes one line for each step. A line that was written is in the
// pipe, whatever happens to the process.
type reporter struct {
	mu   sync.Mutex // protects all below
	out  *json.Encoder
	next int64
}

func (r *reporter) begin(s *loadStep) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next++
	s.Call = r.next
	r.write(s)
}

func (r *reporter) end(s *loadStep) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Answered = true
	r.write(s)
}

func (r *reporter) write(s *loadStep) {
	if err := r.out.Encode(s); err != nil {
		panic(err)
	}
}

func worker(b enhanced.Backend, r *reporter, owner string) {
	ctx := context.Background()
	for {
		resource := enhanced.ProjectResource(models.NewProject("org/app", "p"+strconv.Itoa(rand.IntN(3)), ""), "default") //nolint:gosec // not for secrets
		step := &loadStep{Op: "acquire", Resource: resource.Path, Owner: enhanced.UserOwner(owner).String()}
		r.begin(step)
		lock, granted, err := b.TryAcquireLock(ctx, &enhanced.EnhancedLockRequest{
			Resource: resource, User: models.User{Username: owner}, Timeout: loadLease,
		})
		if step.Granted = granted; granted {
			step.Lock, step.Token = lock.ID, lock.Version
		}
		step.Failed = text(err)
		r.end(step)
		if !granted {
			continue
		}
		id := lock.ID
		if rand.IntN(3) == 0 { //nolint:gosec // not for secrets
			step := &loadStep{Op: "refresh", Resource: resource.Path, Lock: id}
			r.begin(step)
			step.Failed = text(b.RefreshLock(ctx, id, loadExtension))
			r.end(step)
		}
		if rand.IntN(4) == 0 { //nolint:gosec // not for secrets
			step := &loadStep{Op: "transfer", Resource: resource.Path, Lock: id, Owner: "user:heir"}
			r.begin(step)
			step.Failed = text(b.TransferLock(ctx, id, step.Owner))
			r.end(step)
			heir, err := b.LookupLock(ctx, resource)
			if err != nil {
				panic(fmt.Sprintf("transferred lock: %v", err))
			}
			id = heir.ID
		}
		step = &loadStep{Op: "release", Resource: resource.Path, Lock: id}
		r.begin(step)
		step.Failed = text(b.ReleaseLock(ctx, id))
		r.end(step)
	}
}

func text(err error) string {
	if err == nil || errors.Is(err, context.Canceled) {
		return ""
	}
	return err.Error()
}
