package deadlock_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/deadlock"
	"github.com/stretchr/testify/require"
)

// pairGraph has two owners that wait for each other.
func pairGraph() *deadlock.Graph {
	g := deadlock.NewGraph()
	g.Hold("a", "x")
	g.Hold("b", "y")
	g.Wait(deadlock.Waiter{Owner: "a", Resource: "y", Request: "1", Priority: 1, Since: time.Unix(1, 0)})
	g.Wait(deadlock.Waiter{Owner: "b", Resource: "x", Request: "2", Priority: 1, Since: time.Unix(2, 0)})
	return g
}

func TestDetectorLooksAfterEachInterval(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var graph atomic.Pointer[deadlock.Graph]
		graph.Store(deadlock.NewGraph())
		var looks atomic.Int32
		victims := make(chan string, 10)
		detector, err := deadlock.NewDetector(deadlock.Options{
			Interval: time.Minute,
			Snapshot: func(context.Context) (*deadlock.Graph, error) {
				looks.Add(1)
				return graph.Load(), nil
			},
			Act: func(_ context.Context, one deadlock.Deadlock) error {
				victims <- one.Victim.Owner
				graph.Store(deadlock.NewGraph())
				return nil
			},
		})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			detector.Run(ctx)
			close(ended)
		}()

		<-time.After(time.Minute - 1)
		synctest.Wait()
		require.Zero(t, looks.Load())
		<-time.After(1)
		synctest.Wait()
		require.EqualValues(t, 1, looks.Load())
		require.Empty(t, victims)

		graph.Store(pairGraph())
		<-time.After(2 * time.Minute)
		synctest.Wait()
		require.EqualValues(t, 3, looks.Load())
		require.Equal(t, "b", <-victims)
		require.Empty(t, victims)

		cancel()
		<-ended
		<-time.After(time.Hour)
		require.EqualValues(t, 3, looks.Load())
	})
}

func TestDetectorGoesOnAfterErrors(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var failures []error
		down, refuses := errors.New("down"), errors.New("refuses")
		looks := 0
		detector, err := deadlock.NewDetector(deadlock.Options{
			Snapshot: func(context.Context) (*deadlock.Graph, error) {
				if looks++; looks == 1 {
					return nil, down
				}
				return pairGraph(), nil
			},
			Act:    func(context.Context, deadlock.Deadlock) error { return refuses },
			Failed: func(err error) { failures = append(failures, err) },
		})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 2*deadlock.DefaultInterval+1)
		defer cancel()
		detector.Run(ctx)
		require.Len(t, failures, 2)
		require.ErrorIs(t, failures[0], down)
		require.ErrorIs(t, failures[1], refuses)
	})
}

func TestCheckStopsActingWhenItsContextEnds(t *testing.T) {
	t.Parallel()
	g := pairGraph()
	g.Hold("c", "v")
	g.Hold("d", "w")
	g.Wait(deadlock.Waiter{Owner: "c", Resource: "w", Request: "3"})
	g.Wait(deadlock.Waiter{Owner: "d", Resource: "v", Request: "4"})
	ctx, cancel := context.WithCancel(t.Context())
	acts := 0
	detector, err := deadlock.NewDetector(deadlock.Options{
		Snapshot: func(context.Context) (*deadlock.Graph, error) { return g, nil },
		Act: func(context.Context, deadlock.Deadlock) error {
			acts++
			cancel()
			return nil
		},
	})
	require.NoError(t, err)
	_, err = detector.Check(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 1, acts)
}

func TestInvalidOptions(t *testing.T) {
	t.Parallel()
	_, err := deadlock.NewDetector(deadlock.Options{})
	require.ErrorIs(t, err, deadlock.ErrInvalid)
	require.ErrorContains(t, err, "Snapshot")
	_, err = deadlock.NewDetector(deadlock.Options{
		Interval: -time.Second,
		Snapshot: func(context.Context) (*deadlock.Graph, error) { return deadlock.NewGraph(), nil },
	})
	require.ErrorIs(t, err, deadlock.ErrInvalid)
	require.ErrorContains(t, err, "-1s")
	_, err = deadlock.NewResolver("eldest", 0)
	require.ErrorIs(t, err, deadlock.ErrInvalid)
	require.ErrorContains(t, err, `"eldest"`)
}

func TestRandomPolicyFollowsItsSeed(t *testing.T) {
	t.Parallel()
	g := pairGraph()
	cycle := g.Cycles()[0]
	choices := func(seed uint64) (owners string) {
		resolver, err := deadlock.NewResolver(deadlock.PolicyRandom, seed)
		require.NoError(t, err)
		for range 64 {
			victim, found := resolver.Choose(g, cycle)
			require.True(t, found)
			owners += victim.Owner
		}
		return owners
	}
	require.Equal(t, choices(1), choices(1))
	require.NotEqual(t, choices(1), choices(2))
	require.Contains(t, choices(1), "a")
	require.Contains(t, choices(1), "b")
}

func TestChooseOfNothing(t *testing.T) {
	t.Parallel()
	resolver, err := deadlock.NewResolver("", 0)
	require.NoError(t, err)
	require.Equal(t, deadlock.PolicyLowestPriority, resolver.Policy())
	_, found := resolver.Choose(deadlock.NewGraph(), nil)
	require.False(t, found)
}

func TestRenderedNamesStayOneLabel(t *testing.T) {
	t.Parallel()
	cycle := deadlock.Cycle{
		{Waiter: deadlock.Waiter{Owner: `a"\`, Resource: "x\ny"}, For: "b;"},
		{Waiter: deadlock.Waiter{Owner: "b;", Resource: "<z>|"}, For: `a"\`, Soft: true},
	}
	require.Equal(t, `digraph deadlock {
  "a\"\\" -> "b;" [label="x y"]
  "b;" -> "a\"\\" [label="<z>|", style=dashed]
}
`, cycle.DOT())
	require.Equal(t, `flowchart LR
  o0["a#34;#92;"]
  o1["b#59;"]
  o0 -->|"x#10;y"| o1
  o1 -.->|"#60;z#62;#124;"| o0
`, cycle.Mermaid())
}

func TestReorderOfACycleThatIsNotThere(t *testing.T) {
	t.Parallel()
	g := pairGraph()
	cycle := g.Cycles()[0]
	require.Nil(t, deadlock.NewGraph().Reorder(cycle))
	require.Nil(t, g.Reorder(nil))
	later := deadlock.NewGraph()
	later.Hold("a", "x")
	later.Hold("b", "y")
	later.Wait(cycle[0].Waiter)
	require.Nil(t, later.Reorder(cycle))
}
