package backends_test

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// patientReplicas has a client's WAIT go on for 10 seconds, which a read of it may
// take anyway, instead of the one second of production, unless it is off. What is not
// about replicas that do not confirm does not fail because those of a busy machine
// are late; what is confirmed is still what they have.
func patientReplicas(off *atomic.Bool) redis.Hook {
	return hook(func(ctx context.Context, cmd redis.Cmder, next redis.ProcessHook) error {
		if args := cmd.Args(); cmd.Name() == "wait" && !off.Load() {
			args[2] = (10 * time.Second).Milliseconds()
		}
		return next(ctx, cmd)
	})
}

// serverPatience is how long a client waits for a server that a busy machine does
// not let run.
const serverPatience = time.Minute
