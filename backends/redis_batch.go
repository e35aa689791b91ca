package backends

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// maxBatched bounds the decisions of one call of the common script, which takes
// well under a tenth of a millisecond for each.
const maxBatched = 64

// repository is what steps need to know of a repository.
type redisRepository struct {
	name, tag string
	keys      []string // in the order of the scripts' KEYS
	publish   string
	channel   string
	calls     string // what the channels of waiting processes begin with
	// tidying is set while the log is tidied up.
	tidying atomic.Bool
}

// redisRepositories remembers repositories, since it takes a while to make their
// keys.
type redisRepositories struct {
	mu  sync.Mutex // protects all
	all map[string]*redisRepository
}

// maxRepositories bounds what is remembered.
const maxRepositories = 4096

// repository returns a repository by its name.
func (b *RedisBackend) repository(name string) *redisRepository {
	b.repositories.mu.Lock()
	defer b.repositories.mu.Unlock()
	r := b.repositories.all[name]
	if r == nil {
		if len(b.repositories.all) >= maxRepositories || b.repositories.all == nil {
			b.repositories.all = make(map[string]*redisRepository)
		}
		tag := enhanced.RepositoryTag(name)
		r = &redisRepository{name: name, tag: tag, keys: b.keys.repository(tag)}
		r.publish, r.channel = b.keys.wake(tag, b.sharded.Load())
		r.calls = b.keys.calls("")
		b.repositories.all[name] = r
	}
	return r
}

// decision is a request or a release for the script common.lua.
type decision struct {
	repository *redisRepository
	limit      string   // LogMaxRecords
	args       []string // see the script
	stock      []string // stock's keys, none on a cluster

	// What the script has answered.
	micros string
	parts  [3]string
	tidy   bool
	err    error
}

// Positions in a decision's args.
const (
	argKind     = 0
	argResource = 1
	argRequest  = 6 // of a request
)

func (d *decision) request() string {
	if d.args[argKind] == "a" {
		return d.args[argRequest]
	}
	return ""
}

// batched are the decisions of one call of the script.
type batched struct {
	decisions []*decision
	cmd       *redis.Cmd
}

// join puts a decision to the others of its repository. A resource, and a
// request, comes once in a call.
func (d *decision) join(batches []*batched) []*batched {
	for _, b := range batches {
		if b.takes(d) {
			b.decisions = append(b.decisions, d)
			return batches
		}
	}
	return append(batches, &batched{decisions: []*decision{d}})
}

func (b *batched) takes(d *decision) bool {
	first := b.decisions[0]
	if first.repository != d.repository || first.limit != d.limit || len(b.decisions) >= maxBatched {
		return false
	}
	for _, other := range b.decisions {
		if other.args[argResource] == d.args[argResource] || d.request() != "" && other.request() == d.request() {
			return false
		}
	}
	return true
}

// evaluation is the command that runs the script. Strings go by their addresses:
// to put them into an interface would copy each header.
func (b *batched) evaluation(command, text string) *redis.Cmd {
	first := b.decisions[0]
	size := 7
	keys := len(first.repository.keys)
	for _, d := range b.decisions {
		size += len(d.args) + len(d.stock)
		keys += len(d.stock)
	}
	list := make([]any, 0, size+len(first.repository.keys))
	list = append(list, command, text, keys)
	for i := range first.repository.keys {
		list = append(list, &first.repository.keys[i])
	}
	for _, d := range b.decisions {
		for i := range d.stock {
			list = append(list, &d.stock[i])
		}
	}
	list = append(list, &first.repository.publish, &first.repository.channel, &first.limit, &first.repository.calls)
	for _, d := range b.decisions {
		for i := range d.args {
			list = append(list, &d.args[i])
		}
	}
	return redis.NewCmd(context.Background(), list...)
}

// tell gives each decision its part of the answer.
func (b *batched) tell() {
	parts, err := b.answer()
	for i, d := range b.decisions {
		if d.err = err; err == nil {
			d.micros, d.tidy = parts[0], i == 0 && parts[1] == "1"
			d.parts = [3]string(parts[2+3*i:])
		}
	}
}

func (b *batched) answer() ([]string, error) {
	reply, err := b.cmd.Result()
	if err != nil {
		return nil, err
	}
	parts, err := texts("common", reply)
	if err == nil && len(parts) != 2+3*len(b.decisions) {
		err = fmt.Errorf("script common answered %d parts for %d decisions", len(parts), len(b.decisions))
	}
	return parts, err
}

// errElse is the answer of the common script to what is not common.
var errElse = errors.New("not a common case")

// decide has the common script decide. It answers errElse where the general one
// has to.
func (b *RedisBackend) decide(ctx context.Context, d decision) (decision, error) {
	config := b.config.Load()
	if config.RedisMinReplicasAck > 0 || config.LogMaxRecords < commonRecords {
		return d, errElse
	}
	if err := ctx.Err(); err != nil {
		return d, &unsentError{err}
	}
	if !b.begin() {
		return d, enhanced.ErrClosed
	}
	defer b.calls.Done()
	node, err := b.nodeOf(ctx, d.repository.keys[0])
	if err != nil {
		return d, errElse
	}
	d.limit = strconv.Itoa(config.LogMaxRecords)
	s := &sending{decision: d}
	attempt, bound := b.bound(ctx, b.scripts.common.name)
	if err := b.pipeline(node).do(attempt, s); err != nil {
		b.relocate(ctx) // the server may have failed
		return d, bound.end(err)
	}
	s.err = bound.end(s.err)
	switch {
	case isNetwork(s.err):
		// The general script would meet the same, and be an attempt that nobody counts.
		b.relocate(ctx)
		return s.decision, s.err
	case s.err != nil && !mayHaveTakenEffect(s.err), s.err == nil && s.parts[0] == "else":
		return s.decision, errElse
	}
	if s.tidy {
		b.tidy(d.repository)
	}
	return s.decision, s.err
}

// commonRecords is how many records a log has to have room for: a shorter one is
// kept exactly, by the general scripts.
const commonRecords = 1000

// tidy trims the log and the memory of a repository, in the background.
func (b *RedisBackend) tidy(r *redisRepository) {
	if !r.tidying.CompareAndSwap(false, true) {
		return
	}
	b.calls.Go(func() {
		defer r.tidying.Store(false)
		if _, err := b.step(b.ending, "tidy up "+r.name, b.scripts.sweep, r.tag, r.name, nil, tidyPage); err != nil && b.ending.Err() == nil {
			b.logger.Warn("tidying up the log of %s: %v", r.name, err)
		}
	})
}

// tidyPage is how many records are removed at a time, of the 64 that a log may
// have grown since, and of those that came meanwhile.
const tidyPage = 256
