package backends

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// maxBatched bounds the decisions of one call of the common script, which takes
// about 20 µs for each.
const maxBatched = 64

// redisRepository is what steps need to know of a repository.
type redisRepository struct {
	name, tag string
	keys      []string // in the order of the scripts' KEYS
	publish   string
	channel   string
	// changes counts those that were made here by the common script.
	changes atomic.Uint64
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
		b.repositories.all[name] = r
	}
	return r
}

// decision is a request or a release for the script common.lua.
type decision struct {
	repository *redisRepository
	stock      []string // stock's keys of the resource, if it has any here
	// args are the script's values behind the numbers of keys.
	kind string
	args [decisionArgs]string
	form []byte // stock's form, of a request

	// What the script has answered.
	micros string
	parts  [3]string
	err    error
}

// The kinds of a decision, and how many values one has.
const (
	requestDecision = "a"
	releaseDecision = "r"
	decisionArgs    = 7
)

// batched are the decisions of one call of the script.
type batched struct {
	decisions []*decision
	cmd       *redis.StringSliceCmd
}

// join puts a decision to the others: of its repository on a cluster, where each
// may be elsewhere.
func (d *decision) join(batches []*batched, cluster bool) []*batched {
	for _, b := range batches {
		if len(b.decisions) < maxBatched && (!cluster || b.decisions[0].repository == d.repository) {
			b.decisions = append(b.decisions, d)
			return batches
		}
	}
	return append(batches, &batched{decisions: []*decision{d}})
}

// evaluation is the command that runs the script. Strings go by their addresses:
// to put them into an interface would copy each header.
func (b *batched) evaluation(command, text string) *redis.StringSliceCmd {
	repositories := make([]*redisRepository, 0, len(b.decisions))
	keys, size, forms := 0, 0, 0
	for _, d := range b.decisions {
		if !slices.Contains(repositories, d.repository) {
			repositories = append(repositories, d.repository)
			keys += len(d.repository.keys)
		}
		for i := range d.args {
			size += len(d.args[i]) + packedHead
		}
		if d.form != nil {
			forms++
		}
	}
	stock := keys + 1
	for _, d := range b.decisions {
		keys += len(d.stock)
	}
	list := make([]any, 0, 7+keys+forms)
	list = append(list, command, text, keys)
	for _, r := range repositories {
		for i := range r.keys {
			list = append(list, &r.keys[i])
		}
	}
	next, packed := stock, make([]byte, 0, size+len(b.decisions)*3*packedHead)
	for _, d := range b.decisions {
		packed = packText(packed, d.kind)
		packed = packNumber(packed, 1+len(d.repository.keys)*slices.Index(repositories, d.repository))
		if len(d.stock) == 0 {
			packed = packNumber(packed, 0)
		} else {
			packed = packNumber(packed, next)
		}
		for i := range d.stock {
			list = append(list, &d.stock[i])
		}
		next += len(d.stock)
		for i := range d.args {
			packed = packText(packed, d.args[i])
		}
	}
	first := b.decisions[0].repository
	list = append(list, &first.publish, &first.channel, stock, packed)
	for _, d := range b.decisions {
		if d.form != nil {
			list = append(list, d.form)
		}
	}
	return redis.NewStringSliceCmd(context.Background(), list...)
}

// packedHead is how many bytes come before a value in MessagePack, at most.
const packedHead = 5

// packText appends a text in MessagePack
// (https://github.com/msgpack/msgpack/blob/master/spec.md#str-format-family).
func packText(to []byte, text string) []byte {
	switch n := len(text); {
	case n < 32:
		to = append(to, 0xa0|byte(n))
	case n <= math.MaxUint16:
		to = binary.BigEndian.AppendUint16(append(to, 0xda), uint16(n)) //nolint:gosec // it was compared
	default:
		to = binary.BigEndian.AppendUint32(append(to, 0xdb), uint32(n)) //nolint:gosec // Redis takes no longer ones
	}
	return append(to, text...)
}

// packNumber appends the number of a key.
func packNumber(to []byte, n int) []byte {
	return binary.BigEndian.AppendUint16(append(to, 0xcd), uint16(n)) //nolint:gosec // few keys fit into a call
}

// tell gives each decision its part of the answer.
func (b *batched) tell() {
	parts, err := b.cmd.Result()
	if err == nil && len(parts) != 1+3*len(b.decisions) {
		err = fmt.Errorf("script common answered %d parts for %d decisions", len(parts), len(b.decisions))
	}
	for i, d := range b.decisions {
		if d.err = err; err == nil {
			d.micros, d.parts = parts[0], [3]string(parts[1+3*i:])
		}
	}
}

// errElse is the answer of the common script to what is not common.
var errElse = errors.New("not a common case")

// decide has the common script decide, and d has its answer. It answers errElse
// where the general one has to.
func (b *RedisBackend) decide(ctx context.Context, d *decision) error {
	config := b.config.Load()
	if config.RedisMinReplicasAck > 0 || config.LogMaxRecords < commonRecords {
		return errElse
	}
	if err := ctx.Err(); err != nil {
		return &unsentError{err}
	}
	if !b.begin() {
		return enhanced.ErrClosed
	}
	defer b.calls.Done()
	node, err := b.nodeOf(ctx, d.repository.keys[0])
	if err != nil {
		return errElse
	}
	attempt, bound := b.bound(ctx, b.scripts.common.name)
	if err := b.pipeline(node).do(attempt, &sending{decision: d}); err != nil {
		b.relocate(ctx) // the server may have failed
		return bound.end(err)
	}
	d.err = bound.end(d.err)
	switch {
	case isNetwork(d.err):
		// The general script would meet the same, and be an attempt that nobody counts.
		b.relocate(ctx)
		return d.err
	case d.err != nil && !mayHaveTakenEffect(d.err):
		return errElse
	case d.err != nil:
		return d.err
	case d.parts[0] == "else":
		return errElse
	case d.parts[0] != "held" && d.repository.changes.Add(1)%tidyEvery == 0:
		b.tidy(d.repository)
	}
	return nil
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

const (
	// tidyEvery is after how many changes each process tidies up.
	tidyEvery = 64
	// tidyPage is how many records are removed at a time: those, what other
	// processes have not come to, and what came meanwhile.
	tidyPage = 256
)
