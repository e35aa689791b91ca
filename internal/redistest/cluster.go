package redistest

import (
	"context"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// slots is the number of a cluster's slots.
const slots = 16384

// Cluster is a Redis cluster.
type Cluster struct {
	// Nodes are the primaries, and after them the replicas: the one at index
	// primaries + n has the primary n % primaries, until a failover.
	Nodes []*Server

	tb        testing.TB
	primaries int
}

// StartCluster starts a cluster and waits until every node serves all slots.
func StartCluster(tb testing.TB, primaries, replicasEach int, options Options) *Cluster {
	tb.Helper()
	c := &Cluster{tb: tb, primaries: primaries}
	args := options.Args
	options.cluster = true
	for range primaries * (1 + replicasEach) {
		options.Args = append([]string{
			"--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", options.deadAfter(),
			// A replica is listed among a slot's nodes once it has received anything,
			// which without writes is its primary's first ping, by default after 10s.
			"--repl-ping-replica-period", "1",
			// No replica takes over from a primary that is slow while they are starting.
			"--cluster-replica-no-failover", "yes",
		}, args...)
		c.Nodes = append(c.Nodes, Start(tb, options))
	}
	ctx, cancel := context.WithTimeout(tb.Context(), startTime)
	defer cancel()
	// Nodes tell each other who has which replica within half of that time.
	c.configure(ctx, "cluster-node-timeout", "1000")
	// A node takes no epoch once it has met another.
	for i, node := range c.Nodes {
		require.NoError(tb, node.Client().Do(ctx, "cluster", "set-config-epoch", i+1).Err())
	}
	for i, node := range c.Nodes {
		client := node.Client()
		// None meets itself: what it sent as a primary would make it one again if
		// it came back when it is a replica.
		for _, other := range c.Nodes[i+1:] {
			host, port, err := net.SplitHostPort(other.Addr)
			require.NoError(tb, err)
			require.NoError(tb, client.Do(ctx, "cluster", "meet", host, port, other.busPort()).Err())
		}
		if i < primaries {
			require.NoError(tb, client.ClusterAddSlotsRange(ctx, i*slots/primaries, (i+1)*slots/primaries-1).Err())
		}
	}
	for i, node := range c.Nodes[primaries:] {
		primary, client := c.Nodes[i%primaries].ID(), node.Client()
		eventually(ctx, tb, "replicate", func() bool { return client.ClusterReplicate(ctx, primary).Err() == nil })
	}
	c.await(ctx, replicasEach)
	// On a busy machine one may have been taken for dead, which it stays for twice
	// the time in force: then they go on with the short one. And nobody else would
	// let a replica take over now.
	clients := make([]*redis.Client, len(c.Nodes))
	for i, node := range c.Nodes {
		clients[i] = node.Client()
	}
	for c.configure(ctx, "cluster-node-timeout", options.deadAfter()); !sound(ctx, clients); {
		c.configure(ctx, "cluster-node-timeout", "1000")
		eventually(ctx, tb, "all nodes answer each other", func() bool { return sound(ctx, clients) })
		c.configure(ctx, "cluster-node-timeout", options.deadAfter())
	}
	c.configure(ctx, "cluster-replica-no-failover", "no")
	return c
}

// takenForDead is what a node says of another that it takes for dead, or suspects.
var takenForDead = regexp.MustCompile(`\bfail\b`)

// sound says whether no node of a cluster takes another for dead.
func sound(ctx context.Context, nodes []*redis.Client) bool {
	for _, node := range nodes {
		known, err := node.ClusterNodes(ctx).Result()
		if err != nil || takenForDead.MatchString(known) {
			return false
		}
	}
	return true
}

func (c *Cluster) configure(ctx context.Context, parameter, value string) {
	c.tb.Helper()
	for _, node := range c.Nodes {
		require.NoError(c.tb, node.Client().ConfigSet(ctx, parameter, value).Err())
	}
}

// ID is the name of a cluster's node.
func (s *Server) ID() string {
	s.tb.Helper()
	id, err := s.Client().Do(s.tb.Context(), "cluster", "myid").Text()
	require.NoError(s.tb, err)
	return id
}

// Primaries are the addresses of the nodes that serve slots, as a cluster's
// node knows it.
func (s *Server) Primaries(ctx context.Context) ([]string, error) {
	client := redis.NewClient(s.Options())
	defer client.Close() //nolint:errcheck // it was only asked
	ranges, err := client.Do(ctx, "cluster", "slots").Slice()
	if err != nil {
		return nil, err
	}
	var addrs []string
	for _, r := range ranges {
		// Bounds, the primary, replicas; each node is its host, port and more.
		parts, _ := r.([]any)
		if len(parts) < 3 {
			return nil, fmt.Errorf("slots %v", r)
		}
		node, _ := parts[2].([]any)
		if len(node) < 2 {
			return nil, fmt.Errorf("node %v", parts[2])
		}
		addrs = append(addrs, net.JoinHostPort(fmt.Sprint(node[0]), fmt.Sprint(node[1])))
	}
	return addrs, nil
}

func (s *Server) busPort() string {
	for i, argument := range s.command {
		if argument == "--cluster-port" {
			return s.command[i+1]
		}
	}
	return ""
}

// await waits until all nodes know all others and every slot is served.
func (c *Cluster) await(ctx context.Context, replicasEach int) {
	c.tb.Helper()
	for i, node := range c.Nodes {
		client := node.Client()
		eventually(ctx, c.tb, "cluster is formed", func() bool {
			info, err := client.ClusterInfo(ctx).Result()
			if err != nil || !strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, "cluster_known_nodes:"+strconv.Itoa(len(c.Nodes))) {
				return false
			}
			// Each range is its bounds and then its nodes.
			ranges, err := client.Do(ctx, "cluster", "slots").Slice()
			if err != nil || len(ranges) != c.primaries {
				return false
			}
			for _, r := range ranges {
				if parts, ok := r.([]any); !ok || len(parts) != 2+1+replicasEach {
					return false
				}
			}
			replication, err := client.Info(ctx, "replication").Result()
			return err == nil && (i < c.primaries || strings.Contains(replication, "master_link_status:up"))
		})
	}
}

// Addrs are the addresses of all nodes.
func (c *Cluster) Addrs() []string {
	addrs := make([]string, len(c.Nodes))
	for i, node := range c.Nodes {
		addrs[i] = node.Addr
	}
	return addrs
}

// Options are what a client needs to be let in as administrator.
func (c *Cluster) Options() *redis.ClusterOptions {
	one := c.Nodes[0].Options()
	return &redis.ClusterOptions{
		Addrs: c.Addrs(), DisableIdentity: true, ContextTimeoutEnabled: true,
		TLSConfig: one.TLSConfig, Username: one.Username, Password: one.Password,
	}
}

// Client returns an administrator's client that is closed with the test.
func (c *Cluster) Client() *redis.ClusterClient {
	c.tb.Helper()
	client := redis.NewClusterClient(c.Options())
	c.tb.Cleanup(func() { _ = client.Close() }) //nolint:errcheck // a test may have closed it
	return client
}

// PrimaryOf returns the node that at first serves a key.
func (c *Cluster) PrimaryOf(key string) *Server {
	c.tb.Helper()
	slot, err := c.Nodes[0].Client().ClusterKeySlot(c.tb.Context(), key).Result()
	require.NoError(c.tb, err)
	for i := c.primaries - 1; ; i-- {
		if int(slot) >= i*slots/c.primaries {
			return c.Nodes[i]
		}
	}
}

// MoveSlot moves the slot of a key from one node to another, as operators do:
// key by key, while clients work
// (https://redis.io/docs/latest/commands/cluster-setslot/).
func (c *Cluster) MoveSlot(key string, from, to *Server) {
	ctx := c.tb.Context()
	check := func(err error) {
		if err != nil && ctx.Err() == nil {
			c.tb.Errorf("moving a slot: %v", err)
		}
	}
	source, target := from.Client(), to.Client()
	slot, err := source.ClusterKeySlot(ctx, key).Result()
	check(err)
	check(target.Do(ctx, "cluster", "setslot", slot, "importing", from.ID()).Err())
	check(source.Do(ctx, "cluster", "setslot", slot, "migrating", to.ID()).Err())
	host, port, err := net.SplitHostPort(to.Addr)
	check(err)
	for {
		keys, err := source.ClusterGetKeysInSlot(ctx, int(slot), 1).Result()
		check(err)
		if len(keys) == 0 {
			break
		}
		check(source.Migrate(ctx, host, port, keys[0], 0, startTime).Err())
	}
	for _, node := range []*redis.Client{target, source} {
		check(node.Do(ctx, "cluster", "setslot", slot, "node", to.ID()).Err())
	}
}
