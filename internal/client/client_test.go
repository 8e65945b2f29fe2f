package client

import (
	"context"
	"runtime"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/guard"
)

// wrapped hides all methods except those of a UniversalClient, as tracing
// wrappers do.
type wrapped struct{ redis.UniversalClient }

// tagged is comparable or not, depending on the value of tags.
type tagged struct {
	redis.UniversalClient
	tags any
}

// named embeds a pointer, and so has all its methods.
type named struct{ *redis.ClusterClient }

// rude panics when TopologyOf asks for its kind.
type rude struct{ redis.UniversalClient }

func (rude) Watch(context.Context, func(*redis.Tx) error, ...string) error { panic("rude") }

// nowhere has no listener: a client that sent a command would get an error.
const nowhere = "127.0.0.1:1"

func TestTopologyOf_RecognisesWrappersByWhatTheyDo(t *testing.T) {
	t.Parallel()
	one := redis.NewClient(&redis.Options{Addr: nowhere})
	cluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{nowhere}})
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": nowhere}})
	defer func() {
		require.NoError(t, one.Close())
		require.NoError(t, cluster.Close())
		require.NoError(t, ring.Close())
	}()
	for want, rdb := range map[Topology]redis.UniversalClient{OneServer: one, Cluster: cluster, Ring: ring} {
		for _, rdb := range []redis.UniversalClient{
			rdb, wrapped{rdb}, &wrapped{rdb}, wrapped{wrapped{rdb}}, tagged{rdb, []string{"a"}},
		} {
			require.Equal(t, want, TopologyOf(rdb), "%T of %T", rdb, want)
		}
	}
	require.Equal(t, Cluster, TopologyOf(named{cluster}))
	require.Equal(t, Cluster, TopologyOf(rude{one}), "of which nothing can be known")
	require.Equal(t, Cluster, TopologyOf(wrapped{}), "a fake that panics in every call")
	auto, err := cluster.AutoPipeline()
	require.NoError(t, err)
	defer func() { require.NoError(t, auto.Close()) }()
	require.Equal(t, Cluster, TopologyOf(auto))
}

func TestEachMaster_MakesAnErrorOfAVisitThatDoesNotReturn(t *testing.T) {
	t.Parallel()
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": nowhere}})
	defer func() { require.NoError(t, ring.Close()) }()
	topology, each, err := EachMaster(ring)
	require.NoError(t, err)
	require.Equal(t, Ring, topology)
	err = each(t.Context(), func(context.Context, *redis.Client) error { panic("boom") })
	require.EqualError(t, err, "client panicked with a string")
	err = each(t.Context(), func(context.Context, *redis.Client) error { runtime.Goexit(); return nil })
	require.ErrorIs(t, err, guard.ErrGoexit)

	_, _, err = EachMaster(wrapped{ring})
	require.ErrorIs(t, err, ErrHidden)
	require.EqualError(t, err, ErrHidden.Error())

	one := redis.NewClient(&redis.Options{Addr: nowhere})
	defer func() { require.NoError(t, one.Close()) }()
	topology, each, err = EachMaster(wrapped{one})
	require.NoError(t, err)
	require.Equal(t, OneServer, topology)
	require.Nil(t, each)
}

func TestSame_ComparesWhatCannotBeCompared(t *testing.T) {
	t.Parallel()
	one := redis.NewClient(&redis.Options{Addr: nowhere})
	defer func() { require.NoError(t, one.Close()) }()
	require.True(t, Same(one, one))
	require.True(t, Same(tagged{one, "a"}, tagged{one, "a"}))
	require.False(t, Same(tagged{one, "a"}, tagged{one, "b"}))
	require.False(t, Same(tagged{one, []string{"a"}}, tagged{one, []string{"a"}}))
	require.False(t, Same(one, tagged{one, []string{"a"}}))

	var none *redis.Client
	require.True(t, Nil(nil))
	require.True(t, Nil(none))
	require.False(t, Nil(one))
}
