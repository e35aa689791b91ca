package backends

import (
	"context"
	"crypto/sha1" //nolint:gosec // Redis names scripts by it
	"embed"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

//go:embed scripts/*.lua
var scriptFiles embed.FS

// script is one decision, or one reading.
type script struct {
	name, text, hash string
	// changes is set when the script writes.
	changes bool
	// acked are the answers that count only when replicas have what they say, if
	// RedisMinReplicasAck says so, and for each whether it is about something
	// that an earlier step has written.
	acked map[string]bool
}

// scripts are all of them, read once for each backend.
type scripts struct {
	acquire, release, releasePull, refresh, transfer, settle, adopt, sweep, repair, raise script
	leave, cancel, move, attend, endRun                                                   script
	read, locate, list, line, owned, recorded, log, due, snapshot, reserved               script
	status, touch, listen, check                                                          script
	// endDeadlock ends a deadlock, and waited reads what it is found in.
	endDeadlock, waited script
	// sets decides the requests of a set, look looks after one that waits, and
	// leaveSet takes it out of the queue.
	sets, look, leaveSet script
	// common decides common cases of acquire and release, for several callers.
	common script
}

func loadScripts() scripts {
	file := func(name string) string {
		text, err := scriptFiles.ReadFile("scripts/" + name + ".lua")
		if err != nil {
			panic(err) // it is part of the program
		}
		return string(text)
	}
	prelude := file("prelude") + file("locks") + file("queue") + file("turns") + file("runs") + file("whole")
	named := func(name, text string, changes bool, acked map[string]bool) script {
		sum := sha1.Sum([]byte(text)) //nolint:gosec // Redis names scripts by it
		return script{name, text, hex.EncodeToString(sum[:]), changes, acked}
	}
	step := func(name string, acked map[string]bool) script { return named(name, prelude+file(name), true, acked) }
	reading := func(name string) script { return named(name, file(name), false, nil) }
	const now, earlier = false, true
	return scripts{
		acquire:     named("acquire", prelude+file("waits")+file("acquire"), true, map[string]bool{"granted": now, "claimed": now, "again": earlier, "own": earlier}),
		endDeadlock: named("end_deadlock", prelude+file("waits")+file("end_deadlock"), true, map[string]bool{"ended": now}), waited: reading("waited"),
		release:     step("release", map[string]bool{"released": now, "ended": now, "gone": earlier}),
		releasePull: step("release_pull", map[string]bool{"released": earlier, "closed": now, "marked": now}),
		refresh:     step("refresh", map[string]bool{"refreshed": now}),
		transfer:    step("transfer", map[string]bool{"transferred": now, "own": earlier}),
		settle:      step("settle", nil), adopt: step("adopt", nil), sweep: step("sweep", nil), repair: step("repair", nil),
		sets:     named("sets", prelude+file("waits")+file("sets"), true, map[string]bool{"granted": now, "again": earlier, "replaced": earlier}),
		look:     step("look", map[string]bool{"has": earlier}),
		leaveSet: step("leave_set", map[string]bool{"left": now, "has": earlier}),
		raise:    step("raise", map[string]bool{"raised": earlier}),
		leave:    step("leave", map[string]bool{"left": now, "has": earlier}),
		cancel:   step("cancel", map[string]bool{"cancelled": now, "more": now}),
		move:     step("move", map[string]bool{"moved": now}),
		attend:   step("attend", map[string]bool{"attended": earlier}),
		endRun:   step("end_run", map[string]bool{"ended": now}),
		read:     reading("read"), locate: reading("locate"), list: reading("list"), line: reading("line"), owned: reading("owned"), recorded: reading("recorded"), log: reading("log"),
		due: reading("due"), snapshot: reading("snapshot"), listen: reading("listen"), check: reading("check"), reserved: reading("reserved"),
		status: named("status", file("status"), true, map[string]bool{"replaced": now}),
		touch:  named("touch", file("touch"), true, nil),
		common: named("common", file("common"), true, nil),
	}
}

// once is a command that go-redis sends only once: a step whose reply was lost
// may have been done, and doing it again is not the same for all of them.
// Redirections are followed all the same, since a server that redirects has
// done nothing.
type once struct{ *redis.Cmd }

func (once) NoRetry() bool { return true }

// onceTexts is once for a script that answers texts only.
type onceTexts struct{ *redis.StringSliceCmd }

func (onceTexts) NoRetry() bool { return true }

// transientTime is how long a refusal for the moment is taken for one.
const transientTime = 10 * time.Second

// run runs a script on the server that has its keys and returns its answer. It
// returns when ctx ends, with ErrOutcomeUnknown when the script may have
// changed something.
func (b *RedisBackend) run(ctx context.Context, operation string, s script, keys []string, args ...any) ([]string, error) {
	if err := b.ready(ctx, operation); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, contextError(operation, err)
	}
	if !b.begin() {
		return nil, enhanced.NewBackendError(operation, enhanced.ErrClosed)
	}
	defer b.calls.Done()
	reply, err := b.sendBounded(ctx, s, keys, args)
	for pause, start := time.Millisecond, time.Now(); isTransient(err) && time.Since(start) < transientTime; pause = min(2*pause, 100*time.Millisecond) {
		// The server has refused before doing anything.
		b.relocate(ctx)
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, failure(ctx, operation, s.changes, err)
		case <-timer.C:
		}
		reply, err = b.sendBounded(ctx, s, keys, args)
	}
	if err != nil {
		if isNetwork(err) {
			b.relocate(ctx) // the server may have failed
		}
		return nil, failure(ctx, operation, s.changes, err)
	}
	answer, err := texts(s.name, reply)
	if err != nil {
		return nil, enhanced.NewBackendError(operation, err)
	}
	return answer, nil
}

// texts are the parts of a script's answer.
func texts(name string, reply any) ([]string, error) {
	list, ok := reply.([]any)
	if !ok || len(list) == 0 {
		return nil, fmt.Errorf("script %s answered %T", name, reply)
	}
	answer := make([]string, len(list))
	for i, part := range list {
		if answer[i], ok = part.(string); !ok {
			return nil, fmt.Errorf("script %s answered %T as part %d", name, part, i)
		}
	}
	return answer, nil
}

// sendBounded is send with the script's adaptive time-out, if there is one.
func (b *RedisBackend) sendBounded(ctx context.Context, s script, keys []string, args []any) (any, error) {
	ctx, bound := b.bound(ctx, s.name)
	reply, err := b.send(ctx, s, keys, args)
	return reply, bound.end(err)
}

// send runs a script once.
func (b *RedisBackend) send(ctx context.Context, s script, keys []string, args []any) (any, error) {
	if replicas := b.config.Load().RedisMinReplicasAck; replicas > 0 && s.acked != nil {
		return apart(ctx, b, func() (any, error) { return b.sendAcked(context.WithoutCancel(ctx), replicas, s, keys, args) })
	}
	node, err := b.nodeOf(ctx, keys[0])
	if err != nil {
		return nil, err
	}
	reply, err := b.pipelined(ctx, node, evaluation(ctx, "evalsha", s.hash, keys, args))
	if hasErrorPrefix(err, "NOSCRIPT") {
		reply, err = b.pipelined(ctx, node, evaluation(ctx, "eval", s.text, keys, args))
	}
	if b.isCluster() && (hasErrorPrefix(err, "MOVED") || hasErrorPrefix(err, "ASK")) {
		// The cluster's own client follows. It is not asked first: it looks up in
		// a table what kind of command each is, and asks any three nodes for that
		// table, frozen ones too.
		return apart(ctx, b, func() (any, error) { return evaluate(context.WithoutCancel(ctx), b.client, s, keys, args) })
	}
	return reply, err
}

// pipelined sends a command with those of others.
func (b *RedisBackend) pipelined(ctx context.Context, node *redis.Client, cmd *redis.Cmd) (any, error) {
	if err := b.pipeline(node).do(ctx, &sending{cmd: cmd}); err != nil {
		return nil, err
	}
	return cmd.Result()
}

// apart runs fn and returns when it does or when ctx ends. It is only called
// while the caller itself is counted.
func apart[T any](ctx context.Context, b *RedisBackend, fn func() (T, error)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome, 1)
	b.calls.Go(func() {
		value, err := fn()
		done <- outcome{value, err}
	})
	select {
	case o := <-done:
		return o.value, o.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// processor is a client, or one connection of it.
type processor interface {
	Process(ctx context.Context, cmd redis.Cmder) error
}

// evaluate runs a script by its hash. A server that does not know it gets its
// text: caches of scripts are lost at restarts, failovers and by SCRIPT FLUSH
// (https://redis.io/docs/latest/develop/programmability/eval-intro/#script-cache).
func evaluate(ctx context.Context, client processor, s script, keys []string, args []any) (any, error) {
	cmd := evaluation(ctx, "evalsha", s.hash, keys, args)
	err := client.Process(ctx, once{cmd})
	if hasErrorPrefix(err, "NOSCRIPT") {
		cmd = evaluation(ctx, "eval", s.text, keys, args)
		err = client.Process(ctx, once{cmd})
	}
	if err != nil {
		return nil, err
	}
	return cmd.Result()
}

// evaluation is the command that runs a script by its hash or its text.
func evaluation(ctx context.Context, command, text string, keys []string, args []any) *redis.Cmd {
	list := make([]any, 0, 3+len(keys)+len(args))
	list = append(list, command, text, len(keys))
	for _, key := range keys {
		list = append(list, key)
	}
	return redis.NewCmd(ctx, append(list, args...)...)
}

// relocate makes a cluster's client ask where the slots are: it does so by
// itself when a node redirects it, but not when a node does not answer.
func (b *RedisBackend) relocate(ctx context.Context) {
	if cluster, ok := b.client.(*redis.ClusterClient); ok {
		cluster.ReloadState(ctx)
	}
}

// nodeOf returns the client of the server that has a key.
func (b *RedisBackend) nodeOf(ctx context.Context, key string) (*redis.Client, error) {
	switch client := b.client.(type) {
	case *redis.ClusterClient:
		return client.MasterForKey(ctx, key)
	case *redis.Client:
		return client, nil
	}
	return nil, fmt.Errorf("unexpected client %T", b.client)
}

// call runs fn, which talks to the server without a script, and returns when it
// does or when ctx ends, whatever the client library does underneath. When
// changes is set, an error after which fn may have taken effect says so.
func call[T any](ctx context.Context, b *RedisBackend, operation string, changes bool, fn func(context.Context) (T, error)) (T, error) {
	var none T
	if err := ctx.Err(); err != nil {
		return none, contextError(operation, err)
	}
	if !b.begin() {
		return none, enhanced.NewBackendError(operation, enhanced.ErrClosed)
	}
	defer b.calls.Done()
	value, err := apart(ctx, b, func() (T, error) { return fn(ctx) })
	if err != nil {
		if isNetwork(err) {
			b.relocate(ctx)
		}
		return none, failure(ctx, operation, changes, err)
	}
	return value, nil
}
