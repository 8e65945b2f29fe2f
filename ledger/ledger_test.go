package ledger

import (
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Tests that need a database are in a module of their own: internal/dbtest.

func TestNew_RejectsInvalidOptions(t *testing.T) {
	t.Parallel()
	_, err := New(nil, Options{Dialect: SQLite})
	require.EqualError(t, err, "cachex: new ledger: db is nil")
	_, err = New(new(sql.DB), Options{})
	require.EqualError(t, err, "cachex: new ledger: Options.Dialect is 0, must be PostgreSQL or SQLite")
	for _, table := range []string{"1a", "a b", "a;DROP TABLE b", "a..b", ".a", `"a"`, "ä"} {
		_, err = New(new(sql.DB), Options{Dialect: SQLite, Table: table})
		require.ErrorContains(t, err, "Options.Table is ")
	}
	l, err := New(new(sql.DB), Options{Dialect: SQLite, Table: "shop.Ledger_2"})
	require.NoError(t, err)
	require.Contains(t, l.Schema(), "CREATE TABLE IF NOT EXISTS shop.Ledger_2 (")
}

func TestOnce_RejectsABatchWithoutANamespace(t *testing.T) {
	t.Parallel()
	l, err := New(new(sql.DB), Options{Dialect: SQLite})
	require.NoError(t, err)
	good := Batch{Namespace: "views", Bucket: 3, N: 1, Token: "t", Incarnation: "i", Deltas: map[string]int64{"secret": 5}}
	for want, change := range map[string]func(*Batch){
		"Batch.Namespace is empty":  func(b *Batch) { b.Namespace = "" },
		"Batch.Namespace has more":  func(b *Batch) { b.Namespace = strings.Repeat("x", 256) },
		"Batch.Bucket is -1":        func(b *Batch) { b.Bucket = -1 },
		"Batch.N is 0":              func(b *Batch) { b.N = 0 },
		"Batch.Token or Batch.Inca": func(b *Batch) { b.Token = "" },
	} {
		b := good
		change(&b)
		err := l.Once(t.Context(), b, func(*sql.Tx) error { panic("it was applied") })
		require.ErrorContains(t, err, want)
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		require.Equal(t, "batch 1 of views:3", fmt.Sprintf(format, good), "what is in it does not show")
		require.NotContains(t, fmt.Sprintf(format, Row{N: 1, Deltas: good.Deltas}), "secret")
	}
	require.Equal(t, []string{"a", "b", "c"}, Batch{Values: map[string][]byte{"c": nil, "a": nil, "b": nil}}.IDs())
}

func TestErrors_NameIDsAndCauses(t *testing.T) {
	t.Parallel()
	err := &RefusedError{IDs: []string{"a\n", "b"}, Err: io.ErrClosedPipe}
	require.EqualError(t, err, `2 ids refused, "a\n" among them: io: read/write on closed pipe`)
	require.ErrorIs(t, err, io.ErrClosedPipe)
	require.EqualError(t, &RefusedError{}, "0 ids refused")
	conflict := &ConflictError{Batch: Batch{Namespace: "views", Bucket: 3, N: 7}, Row: Row{N: 9}}
	require.EqualError(t, conflict, "batch 7 of views:3 does not follow batch 9, the last one in the ledger")
}

func TestRow_RoundTripsAnyIDAndDelta(t *testing.T) {
	t.Parallel()
	deltas := map[string]int64{"": 1, "ä%/\x00\xff\"": math.MinInt64, "b": math.MaxInt64, "c d": 1<<53 + 1}
	text, err := encode(Batch{Deltas: deltas, Unread: []string{"\xfe"}}, []string{"\xff", "x"})
	require.NoError(t, err)
	require.NotContains(t, text, "\x00")
	var got Row
	require.NoError(t, got.decode(text))
	require.Equal(t, Row{Deltas: deltas, Refused: []string{"\xff", "x"}, Unread: []string{"\xfe"}}, got)
	for _, bad := range []string{"", "{", `{"deltas":{"%":1}}`, `{"refused":["%"]}`, `{"unread":["%"]}`, `{"deltas":{"a":1.5}}`} {
		require.Error(t, new(Row).decode(bad), bad)
	}
}

type stateError string

func (e stateError) Error() string    { return string(e) }
func (e stateError) SQLState() string { return string(e) }

type codeError int

func (e codeError) Error() string { return fmt.Sprint(int(e)) }
func (e codeError) Code() int     { return int(e) }

func TestPermanent_OnlyErrorsOfARow(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]bool{
		stateError("23514"): true, stateError("22003"): true, stateError("40P01"): false, stateError("57014"): false,
		stateError("2"): false, codeError(19): false, io.EOF: false,
	} {
		require.Equal(t, want, defaultPermanent(PostgreSQL)(fmt.Errorf("wrapped: %w", err)), err)
	}
	for err, want := range map[error]bool{
		codeError(19): true, codeError(19 | 5<<8): true, codeError(20): true, codeError(18): true, codeError(5): false,
		codeError(13): false, stateError("23514"): false, errors.New("x"): false,
	} {
		require.Equal(t, want, defaultPermanent(SQLite)(fmt.Errorf("wrapped: %w", err)), err)
	}
}

func TestBatchRefused_CollectsAllAndReportsOtherErrors(t *testing.T) {
	t.Parallel()
	b := Batch{Deltas: map[string]int64{"a": 1, "b": 2, "c": 3}}
	refuse := func(ids ...string) error { return fmt.Errorf("row: %w", &RefusedError{IDs: ids, Err: io.EOF}) }
	for name, tc := range map[string]struct {
		err  error
		want []string
	}{
		"nothing":          {nil, nil},
		"one":              {refuse("b"), []string{"b"}},
		"several":          {errors.Join(refuse("c"), refuse("a", "c")), []string{"a", "c"}},
		"a failure beside": {errors.Join(refuse("c"), io.ErrUnexpectedEOF), nil},
		"only a failure":   {io.ErrUnexpectedEOF, nil},
		"no id":            {refuse(), nil},
		"another id":       {refuse("a", "7"), nil},
	} {
		got, ok := b.Refused(tc.err)
		require.Equal(t, tc.want != nil, ok, name)
		if ok {
			require.Equal(t, tc.want, got, name)
		}
	}
}
