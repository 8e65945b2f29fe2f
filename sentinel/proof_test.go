package sentinel

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestProve_NeedsAMajorityForTheHighestEpoch(t *testing.T) {
	t.Parallel()
	now := time.Now()
	a := func(epoch int64, addr string, ago time.Duration) answer {
		return answer{epoch: epoch, addr: addr, others: 2, asked: now.Add(-ago)}
	}
	for _, row := range []struct {
		name    string
		answers []answer
		addr    string
		age     time.Duration
		err     string
	}{
		{"all agree", []answer{a(1, "old", 1), a(1, "old", 2), a(1, "old", 3)}, "old", 2, ""},
		{"one is silent", []answer{a(1, "old", 5), {}, a(1, "old", 3)}, "old", 5, ""},
		{"one is behind", []answer{a(1, "old", 0), a(2, "new", 7), a(2, "new", 3)}, "new", 7, ""},
		{"one is ahead", []answer{a(1, "old", 0), a(2, "new", 7), a(1, "old", 3)}, "", 0, `of 3 Sentinels, 3 answer and 1 name "new"`},
		{"two are silent", []answer{a(1, "old", 0), {}, {}}, "", 0, `of 3 Sentinels, 1 answer and 1 name "old"`},
		{"two answered long ago", []answer{a(1, "old", 0), a(2, "new", MaxLag+1), a(2, "new", MaxLag+1)}, "", 0, `of 3 Sentinels, 1 answer and 1 name "old"`},
		{"one epoch, two masters", []answer{a(1, "old", 0), a(1, "new", 0)}, "", 0, `of 3 Sentinels, 2 answer and 1 name "old"`},
		{"one of three is listed", []answer{a(1, "old", 0)}, "", 0, `of 3 Sentinels, 1 answer and 1 name "old"`},
		{"there is one", []answer{{addr: "old", asked: now}}, "old", 0, ""},
		{"nothing is known", []answer{{}, {}, {}}, "", 0, `of 3 Sentinels, 0 answer and 0 name ""`},
	} {
		p := prove(row.answers, now)
		if row.err != "" {
			require.ErrorIs(t, p.err, ErrMaster, row.name)
			require.EqualError(t, p.err, ErrMaster.Error()+": "+row.err, row.name)
			require.False(t, p.valid("old", now), row.name)
			continue
		}
		require.NoError(t, p.err, row.name)
		require.Equal(t, row.addr, p.addr, row.name)
		require.Equal(t, row.age, now.Sub(p.asked), row.name)
		require.True(t, p.valid(row.addr, p.asked.Add(MaxLag)), row.name)
		require.False(t, p.valid(row.addr, p.asked.Add(MaxLag+1)), row.name)
		require.False(t, p.valid("another", now), row.name)
	}
}

func TestProof_EndsThoughTheMachineSlept(t *testing.T) {
	t.Parallel()
	p := &proof{addr: "a", asked: time.Now().Add(-MaxLag / 2)}
	require.True(t, p.valid("a", time.Now()))
	// The clock says another hour, like the wall clock after a sleep.
	require.False(t, p.valid("a", time.Now().Round(0).Add(time.Hour)))
}

// Options of the same name must mean the same in both types, and none may be
// lost.
func TestClientOptions_TakesEveryOption(t *testing.T) {
	t.Parallel()
	o := &redis.FailoverOptions{}
	v := reflect.ValueOf(o).Elem()
	for i := range v.NumField() {
		switch f := v.Field(i); f.Kind() {
		case reflect.Int, reflect.Int64:
			f.SetInt(int64(i + 1))
		case reflect.String:
			f.SetString(fmt.Sprint(i))
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Pointer:
			f.Set(reflect.New(f.Type().Elem()))
		case reflect.Func:
			f.Set(reflect.MakeFunc(f.Type(), nil))
		}
	}
	c := reflect.ValueOf(clientOptions(o)).Elem()
	var own []string // of Sentinel alone
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		f := c.FieldByName(name)
		switch {
		case !f.IsValid():
			own = append(own, name)
		case f.Kind() == reflect.Func:
			require.Equal(t, v.Field(i).Pointer(), f.Pointer(), name)
		default:
			require.Equal(t, v.Field(i).Interface(), f.Interface(), name)
		}
	}
	require.Equal(t, []string{
		"MasterName", "SentinelAddrs", "SentinelUsername", "SentinelPassword", "RouteByLatency", "RouteByLatencyTolerance",
		"RouteRandomly", "ReplicaOnly", "UseDisconnectedReplicas",
	}, own)
}
