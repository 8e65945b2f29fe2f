package middleware

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

var errShut = errors.New("the gate is closed")

// gate lets a key pass once, until its call fails.
type gate struct{ passed map[int]bool }

func (g *gate) Do(ctx context.Context, key int, f func(context.Context) error) (err error) {
	if g.passed[key] {
		return errShut
	}
	g.passed[key] = true
	returned := false
	defer func() { g.passed[key] = returned && err == nil }()
	err = f(ctx)
	returned = true
	return err
}

func TestOnce_OpenGateReturnsTheValue(t *testing.T) {
	t.Parallel()
	s := fails(errBroken)
	f := Chain(s.get, Once[int](&gate{map[int]bool{}}))
	v, err := f(t.Context(), 21)
	require.Equal(t, errBroken, err)
	require.Zero(t, v)
	v, err = f(t.Context(), 21)
	require.NoError(t, err, "the gate was told of the error")
	require.Equal(t, 42, v)
	v, err = f(t.Context(), 21)
	require.Equal(t, errShut, err, "as it is")
	require.Zero(t, v)
	v, err = f(t.Context(), 22)
	require.NoError(t, err)
	require.Equal(t, 44, v)
	require.Equal(t, 3, s.calls)
}

func TestOnce_GateLearnsOfAPanic(t *testing.T) {
	t.Parallel()
	s := &source{do: func(_ context.Context, call, key int) (int, error) {
		if call == 1 {
			panic("no mail")
		}
		return key, nil
	}}
	f := Chain(s.get, of.Once(&gate{map[int]bool{}}))
	require.PanicsWithValue(t, "no mail", func() { _, _ = f(t.Context(), 1) })
	v, err := f(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, 1, v)
}

// lazy is a Gate that breaks its contract.
type lazy struct{}

func (lazy) Do(context.Context, int, func(context.Context) error) error { return nil }

func TestOnce_SilentGateIsAnError(t *testing.T) {
	t.Parallel()
	_, err := Chain(double, of.Once(lazy{}))(t.Context(), 42)
	require.EqualError(t, err, "cachex: once 42: the gate returned nil without calling the function")
}

// late is a Gate that fails after the call, like one whose Redis is down.
type late struct{}

func (late) Do(ctx context.Context, _ int, f func(context.Context) error) error {
	return errors.Join(f(ctx), errShut)
}

func TestOnce_ReturnsAnErrorOfTheGateAfterTheCall(t *testing.T) {
	t.Parallel()
	v, err := Chain(double, of.Once(late{}))(t.Context(), 21)
	require.ErrorIs(t, err, errShut)
	require.Equal(t, 42, v, "along with what there is")
	_, err = Chain(broken, of.Once(late{}))(t.Context(), 21)
	require.ErrorIs(t, err, errShut)
	require.ErrorIs(t, err, errBroken)
}
