package backends

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// hasErrorPrefix recognizes a server's error by its code, however it is wrapped.
func hasErrorPrefix(err error, code string) bool {
	if err == nil {
		return false
	}
	var reply redis.Error
	return errors.As(err, &reply) && strings.HasPrefix(strings.TrimPrefix(reply.Error(), "ERR "), code)
}

// isNetwork reports whether no server has answered.
func isNetwork(err error) bool {
	if err == nil {
		return false // before reply is allocated
	}
	var reply redis.Error
	return !errors.As(err, &reply)
}

// isTransient reports whether a server has refused for the moment, and has
// done nothing.
func isTransient(err error) bool {
	return slices.ContainsFunc([]string{"TRYAGAIN", "LOADING", "CLUSTERDOWN", "MASTERDOWN", "READONLY", "MOVED", "ASK"},
		func(code string) bool { return hasErrorPrefix(err, code) })
}

// mayHaveTakenEffect reports whether a server may have changed something, or
// may still do so, although there was an error. A script can fail after a
// write: of the server's answers only those count as refusals that come before.
func mayHaveTakenEffect(err error) bool {
	var reply redis.Error
	if errors.As(err, &reply) {
		return !isTransient(err) && !slices.ContainsFunc([]string{
			"OOM", "WRONGTYPE", "CORRUPT", "NOSCRIPT", "NOAUTH", "WRONGPASS", "NOREPLICAS", "MISCONF", "BUSY", "max number of clients",
		}, func(code string) bool { return hasErrorPrefix(err, code) })
	}
	var never *unsentError
	var network *net.OpError
	switch {
	case errors.As(err, &never), errors.Is(err, redis.ErrPoolTimeout), errors.Is(err, redis.ErrClosed):
		return false
	case errors.As(err, &network):
		return network.Op != "dial"
	}
	return true
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
	if end := ended(ctx); end != nil {
		if !errors.Is(err, end) {
			err = errors.Join(end, err)
		}
		return contextError(operation, err)
	}
	return enhanced.NewBackendError(operation, err)
}

// ended is why a context has ended, nil if it has not. A client that goes by deadlines
// can be told of one before the context is.
func ended(ctx context.Context) error {
	if at, timed := ctx.Deadline(); timed && !time.Now().Before(at) {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}

func isNotFound(err error) bool { return errors.Is(err, enhanced.ErrLockNotFound) }
func isCorrupt(err error) bool  { return errors.Is(err, enhanced.ErrCorruptRecord) }
