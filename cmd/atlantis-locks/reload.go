package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"reflect"
	"strings"
	"sync"
	"syscall"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
	"github.com/runatlantis/atlantis/server/logging"
)

// reloader has a running server use its options as they are now.
type reloader struct {
	source  *configSource
	manager *enhanced.EnhancedLockManager
	logger  logging.SimpleLogging

	mu      sync.Mutex // protects running, and has one reload after the other
	running *configuration
}

// reload reads the options again. Those that can change at run time do so in one
// step; the others are named, and keep their values. If anything is wrong, nothing
// changes. What it does is in the log.
func (r *reloader) reload(context.Context) (api.Reload, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	done, err := r.replace()
	if err != nil {
		r.logger.Err("configuration is not reloaded, and the one before counts: %s", err)
		return api.Reload{}, enhanced.NewInvalidError("configuration is not reloaded: %v", err)
	}
	for _, change := range done.NeedsRestart {
		r.logger.Warn("%s: %q becomes %q only by a restart", change.Key, change.From, change.To)
	}
	r.logger.Info("configuration is reloaded: %s", describeChanges(done.Changed))
	return done, nil
}

func (r *reloader) replace() (api.Reload, error) {
	next, err := r.source.load()
	if err != nil {
		return api.Reload{}, err
	}
	done := api.Reload{Changed: []api.OptionChange{}, NeedsRestart: []api.OptionChange{}}
	set := r.source.set
	for _, o := range set.All() {
		before, after := set.Value(o, &r.running.Values), set.Value(o, &next.Values)
		if reflect.DeepEqual(before, after) {
			continue
		}
		change := api.OptionChange{Key: o.Key, From: o.Show(before), To: o.Show(after)}
		if !o.Restart {
			done.Changed = append(done.Changed, change)
			continue
		}
		done.NeedsRestart = append(done.NeedsRestart, change)
		set.Copy(o, &next.Values, &r.running.Values)
	}
	// What is refused here needed an option that keeps its value.
	if err := r.manager.UpdateConfiguration(next.locking()); err != nil {
		return api.Reload{}, err
	}
	r.logger.SetLevel(logLevel(next.Values.Server.LogLevel))
	r.running = next
	return done, nil
}

func describeChanges(changes []api.OptionChange) string {
	if len(changes) == 0 {
		return "nothing has changed"
	}
	texts := make([]string, len(changes))
	for i, c := range changes {
		texts[i] = fmt.Sprintf("%s was %q and is %q", c.Key, c.From, c.To)
	}
	return strings.Join(texts, ", ")
}

// hangups returns SIGHUPs until ignore is called. Without a file there is nothing
// to read again, and the signal ends the program, as when its terminal is closed.
func (c *configSource) hangups() (signals <-chan os.Signal, ignore func()) {
	if c.path == "" {
		return nil, func() {}
	}
	notified := make(chan os.Signal, 1)
	signal.Notify(notified, syscall.SIGHUP)
	return notified, func() { signal.Stop(notified) }
}

// follow reloads at each signal, until end is called, which waits.
func (r *reloader) follow(signals <-chan os.Signal) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var following sync.WaitGroup
	following.Go(func() {
		for {
			select {
			case <-signals:
				_, _ = r.reload(ctx) // it is in the log
			case <-ctx.Done():
				return
			}
		}
	})
	return func() { cancel(); following.Wait() }
}
