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
type script struct{ name, text, hash string }

// scripts are all of them, read once for each backend.
type scripts struct {
	acquire, release, releasePull, refresh, transfer, settle, adopt, sweep, read, status script
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
		return script{name, text, hex.EncodeToString(sum[:])}
	}
	step := func(name string) script { return named(name, prelude+file(name)) }
	alone := func(name string) script { return named(name, file(name)) }
	return scripts{
		acquire: step("acquire"), release: step("release"), releasePull: step("release_pull"),
		refresh: step("refresh"), transfer: step("transfer"), settle: step("settle"),
		adopt: step("adopt"), sweep: step("sweep"), read: alone("read"), status: alone("status"),
	}
}

// once is a command that go-redis sends only once: a step whose reply was lost
// may have been done, and doing it again is not the same for all of them.
// Redirections are followed all the same, since a server that redirects has
// done nothing.
type once struct{ *redis.Cmd }

func (once) NoRetry() bool { return true }

// run runs a script on the server that has its keys. A server that does not
// know the script gets its text: caches of scripts are lost at restarts,
// failovers and by SCRIPT FLUSH (https://redis.io/docs/latest/develop/programmability/eval-intro/#script-cache).
func (b *RedisBackend) run(ctx context.Context, s script, keys []string, args ...any) ([]any, error) {
	reply, err := b.evaluate(ctx, "evalsha", s.hash, keys, args)
	for pause := time.Millisecond; isTransient(err); pause = min(2*pause, 100*time.Millisecond) {
		// The server has refused before doing anything.
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, err
		case <-timer.C:
		}
		reply, err = b.evaluate(ctx, "evalsha", s.hash, keys, args)
	}
	if hasErrorPrefix(err, "NOSCRIPT") {
		reply, err = b.evaluate(ctx, "eval", s.text, keys, args)
	}
	if err != nil {
		return nil, err
	}
	list, ok := reply.([]any)
	if !ok {
		return nil, fmt.Errorf("script %s answered %T", s.name, reply)
	}
	return list, nil
}

func (b *RedisBackend) evaluate(ctx context.Context, command, text string, keys []string, args []any) (any, error) {
	list := make([]any, 0, 3+len(keys)+len(args))
	list = append(list, command, text, len(keys))
	for _, key := range keys {
		list = append(list, key)
	}
	cmd := once{redis.NewCmd(ctx, append(list, args...)...)}
	if err := b.client.Process(ctx, cmd); err != nil {
		return nil, err
	}
	return cmd.Result()
}

// isTransient reports whether a server has refused for the moment, and has
// done nothing.
func isTransient(err error) bool {
	for _, prefix := range []string{"TRYAGAIN", "LOADING", "CLUSTERDOWN", "MASTERDOWN"} {
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
