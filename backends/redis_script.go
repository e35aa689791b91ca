package backends

import (
	"context"
	"crypto/sha1" //nolint:gosec // Redis names scripts by it
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

//go:embed scripts/*.lua
var scriptFiles embed.FS

// script is one decision.
type script struct {
	name, text, hash string
	// acked are the answers that count only when replicas have them, if
	// RedisMinReplicasAck says so.
	acked []string
}

// scripts are all of them, read once for each backend.
type scripts struct {
	acquire, release, releasePull, refresh, transfer, settle, adopt, sweep, repair, read, status, check, snapshot script
}

func loadScripts() scripts {
	file := func(name string) string {
		text, err := scriptFiles.ReadFile("scripts/" + name + ".lua")
		if err != nil {
			panic(err) // it is part of the program
		}
		return string(text)
	}
	prelude := file("prelude")
	named := func(name, text string) script {
		sum := sha1.Sum([]byte(text)) //nolint:gosec // Redis names scripts by it
		return script{name: name, text: text, hash: hex.EncodeToString(sum[:])}
	}
	step := func(name string, acked ...string) script {
		s := named(name, prelude+file(name))
		s.acked = acked
		return s
	}
	alone := func(name string) script { return named(name, file(name)) }
	return scripts{
		acquire: step("acquire", "granted", "own"), release: step("release", "released", "gone"),
		releasePull: step("release_pull", "released"), refresh: step("refresh", "refreshed"),
		transfer: step("transfer", "transferred"), settle: step("settle"),
		adopt: step("adopt"), sweep: step("sweep"), repair: step("repair"), read: alone("read"), status: alone("status"), check: alone("check"),
		snapshot: alone("snapshot"),
	}
}

// once is a command that go-redis sends only once: a step whose reply was lost
// may have been done, and doing it again is not the same for all of them.
// Redirections are followed all the same, since a server that redirects has
// done nothing.
type once struct{ *redis.Cmd }

func (once) NoRetry() bool { return true }

// transientTime is how long a refusal for the moment is taken for one.
const transientTime = 10 * time.Second

// run runs a script on the server that has its keys. A server that does not
// know the script gets its text: caches of scripts are lost at restarts,
// failovers and by SCRIPT FLUSH (https://redis.io/docs/latest/develop/programmability/eval-intro/#script-cache).
func (b *RedisBackend) run(ctx context.Context, s script, keys []string, args ...any) ([]any, error) {
	reply, err := b.send(ctx, s, keys, args)
	for pause, start := time.Millisecond, time.Now(); isTransient(err) && time.Since(start) < transientTime; pause = min(2*pause, 100*time.Millisecond) {
		// The server has refused before doing anything.
		b.relocate(ctx)
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, err
		case <-timer.C:
		}
		reply, err = b.send(ctx, s, keys, args)
	}
	if err != nil {
		if isNetwork(err) {
			b.relocate(ctx)
		}
		return nil, err
	}
	list, ok := reply.([]any)
	if !ok {
		return nil, fmt.Errorf("script %s answered %T", s.name, reply)
	}
	return list, nil
}

// send runs a script once, by its hash or by its text.
func (b *RedisBackend) send(ctx context.Context, s script, keys []string, args []any) (any, error) {
	if replicas := b.config.Load().RedisMinReplicasAck; replicas > 0 && s.acked != nil {
		return b.sendAcked(ctx, replicas, s, keys, args)
	}
	return atKey(ctx, b, keys[0], func(node redis.UniversalClient) (any, error) { return evaluate(ctx, node, s, keys, args) })
}

// atKey runs fn on the server that has a key. A cluster's own client is only
// for slots that have moved: before its first command it asks any three nodes
// what commands there are, and waits for each that is frozen.
func atKey[T any](ctx context.Context, b *RedisBackend, key string, fn func(node redis.UniversalClient) (T, error)) (T, error) {
	if !b.isCluster() {
		return fn(b.client)
	}
	node, err := b.nodeOf(ctx, key)
	if err != nil {
		var none T
		return none, err
	}
	value, err := fn(node)
	if hasErrorPrefix(err, "MOVED") || hasErrorPrefix(err, "ASK") {
		return fn(b.client)
	}
	return value, err
}

// processor is a client, or one connection of it.
type processor interface {
	Process(ctx context.Context, cmd redis.Cmder) error
}

func evaluate(ctx context.Context, client processor, s script, keys []string, args []any) (any, error) {
	reply, err := evaluateAs(ctx, client, "evalsha", s.hash, keys, args)
	if hasErrorPrefix(err, "NOSCRIPT") {
		return evaluateAs(ctx, client, "eval", s.text, keys, args)
	}
	return reply, err
}

func evaluateAs(ctx context.Context, client processor, command, text string, keys []string, args []any) (any, error) {
	list := make([]any, 0, 3+len(keys)+len(args))
	list = append(list, command, text, len(keys))
	for _, key := range keys {
		list = append(list, key)
	}
	cmd := once{redis.NewCmd(ctx, append(list, args...)...)}
	if err := client.Process(ctx, cmd); err != nil {
		return nil, err
	}
	return cmd.Result()
}

// relocate makes a cluster's client ask where the slots are: it does so by
// itself when a node redirects it, but not when a node does not answer.
func (b *RedisBackend) relocate(ctx context.Context) {
	if cluster, ok := b.client.(*redis.ClusterClient); ok {
		cluster.ReloadState(ctx)
	}
}

// isNetwork reports whether no server has answered.
func isNetwork(err error) bool {
	var reply redis.Error
	return err != nil && !errors.As(err, &reply)
}

// isTransient reports whether a server has refused for the moment, and has
// done nothing.
func isTransient(err error) bool {
	for _, prefix := range []string{"TRYAGAIN", "LOADING", "CLUSTERDOWN", "MASTERDOWN", "READONLY", "MOVED", "ASK"} {
		if hasErrorPrefix(err, prefix) {
			return true
		}
	}
	return false
}

// hasErrorPrefix recognizes a server's error by its code, however it is wrapped.
func hasErrorPrefix(err error, code string) bool {
	var reply redis.Error
	return errors.As(err, &reply) && strings.HasPrefix(strings.TrimPrefix(reply.Error(), "ERR "), code)
}

// call runs fn, which talks to the server, and returns when it does or when ctx
// ends, whatever the client library does underneath. When changes is set, an
// error after which fn may have taken effect says so.
func call[T any](ctx context.Context, b *RedisBackend, operation string, changes bool, fn func(context.Context) (T, error)) (T, error) {
	var none T
	type outcome struct {
		value T
		err   error
	}
	if err := ctx.Err(); err != nil {
		return none, contextError(operation, err)
	}
	if !b.begin() {
		return none, enhanced.NewBackendError(operation, enhanced.ErrClosed)
	}
	done := make(chan outcome, 1)
	go func() {
		defer b.calls.Done()
		value, err := fn(ctx)
		done <- outcome{value, err}
	}()
	select {
	case o := <-done:
		if o.err != nil {
			return none, failure(ctx, operation, changes, o.err)
		}
		return o.value, nil
	case <-ctx.Done():
		b.relocate(ctx) // the server may have failed
		err := ctx.Err()
		if changes {
			err = errors.Join(enhanced.ErrOutcomeUnknown, err)
		}
		return none, contextError(operation, err)
	}
}

// failure is what a caller is told about an error of the client library.
func failure(ctx context.Context, operation string, changes bool, err error) error {
	var lockErr *enhanced.LockError
	if errors.As(err, &lockErr) {
		return err
	}
	if changes && mayHaveTakenEffect(err) {
		err = errors.Join(enhanced.ErrOutcomeUnknown, err)
	}
	if ctx.Err() != nil {
		return contextError(operation, errors.Join(ctx.Err(), err))
	}
	return enhanced.NewBackendError(operation, err)
}

func mayHaveTakenEffect(err error) bool {
	var reply redis.Error
	if errors.As(err, &reply) {
		return false // scripts write only after all that can fail
	}
	var network *net.OpError
	if errors.As(err, &network) && network.Op == "dial" {
		return false
	}
	return !errors.Is(err, redis.ErrPoolTimeout) && !errors.Is(err, redis.ErrClosed)
}
