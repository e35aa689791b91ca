package backends

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// maxBatched bounds the decisions of one call of the common script, which takes
// well under a tenth of a millisecond for each.
const maxBatched = 32

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

// decision is a request, a renewal or a release for the script common.lua.
type decision struct {
	repository *redisRepository
	args       []string // see the script
	stock      []string // stock's keys, where there are any

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
	argRequest  = 2 // of a request
)

// Kinds of decisions; a request has its lease there.
const (
	kindRelease = "r"
	kindRefresh = "f"
)

func (d *decision) request() string {
	if d.args[argKind] == kindRelease || d.args[argKind] == kindRefresh {
		return ""
	}
	return d.args[argRequest]
}

// batched are the decisions of one call of the script.
type batched struct {
	groups []*group
	count  int
	cmd    *redis.StringSliceCmd

	// What most calls of few callers have, so that it is not made one by one.
	first    group
	oneGroup [1]*group
}

// group are those of one repository.
type group struct {
	repository *redisRepository
	decisions  []*decision
	one        [1]*decision
}

// join puts a decision to others that the same call decides: those of its own
// repository, and where there is one server those of others.
func (d *decision) join(batches []*batched, apart bool) []*batched {
	for _, b := range batches {
		if (!apart || b.groups[0].repository == d.repository) && b.takes(d) {
			b.add(d)
			return batches
		}
	}
	b := &batched{}
	b.groups = append(b.oneGroup[:0], &b.first)
	b.first.repository, b.first.decisions = d.repository, b.first.one[:0]
	b.add(d)
	return append(batches, b)
}

func (b *batched) add(d *decision) {
	b.count++
	for _, g := range b.groups {
		if g.repository == d.repository {
			g.decisions = append(g.decisions, d)
			return
		}
	}
	b.groups = append(b.groups, &group{repository: d.repository, decisions: []*decision{d}})
}

// takes reports whether a decision can go with these. A resource, a request, and a
// key of stock's, which can belong to two resources, comes once in a call.
func (b *batched) takes(d *decision) bool {
	first := b.groups[0].decisions[0]
	if b.count >= maxBatched || len(first.stock) != len(d.stock) {
		return false
	}
	for _, g := range b.groups {
		for _, other := range g.decisions {
			for _, key := range d.stock {
				if slices.Contains(other.stock, key) {
					return false
				}
			}
			if g.repository == d.repository &&
				(other.args[argResource] == d.args[argResource] || d.request() != "" && other.request() == d.request()) {
				return false
			}
		}
	}
	return true
}

// evaluation is the command that runs the script. Strings go by their addresses:
// to put them into an interface would copy each header.
func (b *batched) evaluation(command, text string) *redis.StringSliceCmd {
	keys, size := 0, 7
	for _, g := range b.groups {
		keys += len(g.repository.keys)
		size++
		for _, d := range g.decisions {
			keys += len(d.stock)
			size += len(d.args)
		}
	}
	list := make([]any, 0, size+keys)
	list = append(list, command, text, keys)
	for _, g := range b.groups {
		for i := range g.repository.keys {
			list = append(list, &g.repository.keys[i])
		}
	}
	for _, g := range b.groups {
		for _, d := range g.decisions {
			for i := range d.stock {
				list = append(list, &d.stock[i])
			}
		}
	}
	first := b.groups[0]
	list = append(list, &first.repository.publish, &first.repository.channel, &first.repository.calls, len(b.groups))
	for _, g := range b.groups {
		list = append(list, len(g.decisions))
		for _, d := range g.decisions {
			for i := range d.args {
				list = append(list, &d.args[i])
			}
		}
	}
	return redis.NewStringSliceCmd(context.Background(), list...)
}

// tell gives each decision its part of the answer.
func (b *batched) tell() {
	parts, err := b.answer()
	at := 2
	for i, g := range b.groups {
		tidy := err == nil && parts[1] != "" && slices.Contains(strings.Fields(parts[1]), strconv.Itoa(i+1))
		for _, d := range g.decisions {
			if d.err = err; err != nil {
				continue
			}
			d.micros, d.parts = parts[0], [3]string(parts[at:])
			at += 3
			if d.parts[0] != "e" {
				d.tidy, tidy = tidy, false
			}
		}
	}
}

func (b *batched) answer() ([]string, error) {
	parts, err := b.cmd.Result()
	if err == nil && len(parts) != 2+3*b.count {
		err = fmt.Errorf("script common answered %d parts for %d decisions", len(parts), b.count)
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
	case s.err != nil && !mayHaveTakenEffect(s.err), s.err == nil && s.parts[0] == "e":
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
		if _, err := b.step(b.ending, "tidy up "+r.name, b.scripts.sweep, r.tag, r.name, nil, tidyPage, ""); err != nil && b.ending.Err() == nil {
			b.logger.Warn("tidying up the log of %s: %v", r.name, err)
		}
	})
}

// tidyPage is how many records are removed at a time, of the 64 that a log may
// have grown since, and of those that came meanwhile.
const tidyPage = 256
