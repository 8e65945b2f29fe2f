package errs_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/errs"
)

type numbered struct {
	n   int
	err error
}

func (e *numbered) Error() string { return fmt.Sprint("number ", e.n) }
func (e *numbered) Unwrap() error { return e.err }

type disguised struct{ error }

func (d disguised) As(target any) bool {
	p, ok := target.(**numbered)
	if ok {
		*p = &numbered{n: 7}
	}
	return ok
}

func TestFind_CollectsEveryErrorOfATypeAndTellsWhatIsBeside(t *testing.T) {
	t.Parallel()
	other := errors.New("other")
	one, two := &numbered{n: 1}, &numbered{n: 2, err: other}
	for name, tc := range map[string]struct {
		err    error
		want   []int
		beside bool
	}{
		"nil":        {nil, nil, false},
		"other":      {other, nil, true},
		"bare":       {one, []int{1}, false},
		"its cause":  {two, []int{2}, false},
		"wrapped":    {fmt.Errorf("a: %w", fmt.Errorf("b: %w", two)), []int{2}, false},
		"joined":     {errors.Join(one, fmt.Errorf("a: %w", two)), []int{1, 2}, false},
		"beside":     {fmt.Errorf("a: %w", errors.Join(one, other, two)), []int{1, 2}, true},
		"two verbs":  {fmt.Errorf("%w: %w", other, one), []int{1}, true},
		"by As":      {fmt.Errorf("a: %w", disguised{other}), []int{7}, false},
		"wraps none": {&numbered{n: 3}, []int{3}, false},
	} {
		found, beside := errs.Find[*numbered](tc.err)
		var got []int
		for _, e := range found {
			got = append(got, e.n)
		}
		require.Equal(t, tc.want, got, name)
		require.Equal(t, tc.beside, beside, name)
	}
}
