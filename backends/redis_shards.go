package backends

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

// shards listens to the repositories' own channels on a cluster
// (https://redis.io/docs/latest/develop/pubsub/#sharded-pubsub): a message
// goes to one node instead of to all. There is one connection for each node. A
// nil one listens to nothing.
type shards struct {
	cluster *redis.ClusterClient
	keys    redisKeys
	woken   chan struct{} // holds one signal
	// started are the goroutines, which end with ctx.
	started sync.WaitGroup
	ctx     context.Context
	end     context.CancelFunc
	keeping atomic.Bool

	mu     sync.Mutex // protects all below
	nodes  map[*redis.Client]*redis.PubSub
	where  map[string]*redis.Client // by tag
	fresh  map[string]struct{}      // state keys of logs that grew
	closed bool
}

func newShards(cluster *redis.ClusterClient, keys redisKeys) *shards {
	ctx, end := context.WithCancel(context.Background())
	return &shards{
		cluster: cluster, keys: keys, woken: make(chan struct{}, 1), ctx: ctx, end: end,
		nodes: make(map[*redis.Client]*redis.PubSub), where: make(map[string]*redis.Client), fresh: make(map[string]struct{}),
	}
}

// signal is ready when a log grew.
func (s *shards) signal() <-chan struct{} {
	if s == nil {
		return nil
	}
	return s.woken
}

// grown returns the state keys of the logs that grew since the last call.
func (s *shards) grown() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []string
	for key := range s.fresh {
		keys = append(keys, key)
	}
	clear(s.fresh)
	return keys
}

// keep sees to it that the channels of repositories are listened to, each on the
// node that has it now. It does not wait, since a node may be frozen. What fails
// is tried again the next time; until then polling remains.
func (s *shards) keep(heads map[string]feedLog) {
	if s == nil || !s.keeping.CompareAndSwap(false, true) {
		return
	}
	s.started.Go(func() {
		defer s.keeping.Store(false)
		for tag := range heads {
			node, err := s.cluster.MasterForKey(s.ctx, s.keys.sharded(tag))
			if err != nil || s.ctx.Err() != nil {
				return
			}
			s.listen(node, tag)
		}
	})
}

func (s *shards) listen(node *redis.Client, tag string) {
	pubsub := s.pubsub(node, tag)
	if pubsub == nil {
		return
	}
	// One by one: a command has channels of one slot.
	if pubsub.SSubscribe(s.ctx, s.keys.sharded(tag)) == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.where[tag] = node
	}
}

// pubsub returns the connection to a node, nil when the channel is listened to
// there.
func (s *shards) pubsub(node *redis.Client, tag string) *redis.PubSub {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.where[tag] == node {
		return nil
	}
	if s.nodes[node] == nil {
		pubsub := node.SSubscribe(s.ctx)
		s.nodes[node] = pubsub
		s.started.Go(func() { s.read(node, pubsub) })
	}
	return s.nodes[node]
}

// read notes messages until the connection breaks. The client library would
// connect again with one command for all channels, which a cluster refuses: so
// each is asked for anew, see keep.
func (s *shards) read(node *redis.Client, pubsub *redis.PubSub) {
	for {
		message, err := pubsub.Receive(s.ctx)
		switch m := message.(type) {
		case *redis.Message:
			s.note(m.Payload)
		case *redis.Subscription:
			if m.Kind == "sunsubscribe" {
				s.leave(node, m.Channel)
			}
		}
		if err != nil {
			s.drop(node, pubsub)
			return
		}
	}
}

func (s *shards) note(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fresh[key] = struct{}{}
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

// leave forgets a channel whose slot has left a node.
func (s *shards) leave(node *redis.Client, channel string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if tag, _, ok := s.keys.split(channel); ok && s.where[tag] == node {
		delete(s.where, tag)
	}
}

// drop forgets a connection.
func (s *shards) drop(node *redis.Client, pubsub *redis.PubSub) {
	_ = pubsub.Close() //nolint:errcheck // it is broken
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nodes[node] == pubsub {
		delete(s.nodes, node)
	}
	for tag, at := range s.where {
		if at == node {
			delete(s.where, tag)
		}
	}
}

// close ends all connections and waits for their readers.
func (s *shards) close() {
	if s == nil {
		return
	}
	s.mu.Lock()
	s.closed = true
	var all []error
	for _, pubsub := range s.nodes {
		all = append(all, pubsub.Close())
	}
	s.mu.Unlock()
	s.end()
	_ = errors.Join(all...) //nolint:errcheck // they are closed
	s.started.Wait()
}
