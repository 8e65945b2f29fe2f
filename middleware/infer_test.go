package middleware

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"testing"

	"github.com/stretchr/testify/require"
)

// sketch declares the types of this package and of the rejected alternatives.
const sketch = `package sketch

type Func[K comparable, V any] = func(int, K) (V, error)
type Middleware[K comparable, V any] = func(Func[K, V]) Func[K, V]

func Chain[K comparable, V any](f Func[K, V], mws ...Middleware[K, V]) Func[K, V] { return f }
func Cached[K comparable, V any](interface{ Wrap(Func[K, V]) Func[K, V] }) Middleware[K, V] { return nil }
func Once[V any, K comparable](interface{ Do(K) }) Middleware[K, V] { return nil }
func Timeout[K comparable, V any](d int) Middleware[K, V] { return nil }

type Typed[K comparable, V any] struct{}
func For[K comparable, V any](Func[K, V]) Typed[K, V] { return Typed[K, V]{} }
func (Typed[K, V]) Timeout(d int) Middleware[K, V] { return nil }

func Plain[K comparable, V any](f Func[K, V]) Func[K, V] { return f }
func With[K comparable, V, O any](o O, mw func(O) Middleware[K, V]) Middleware[K, V] { return mw(o) }
func Direct[K comparable, V any](d int, f Func[K, V]) Func[K, V] { return f }

type User struct{}
type users struct{}
func (users) Wrap(f Func[int64, User]) Func[int64, User] { return f }
type mails struct{}
func (mails) Do(int64) {}
func userByID(int, int64) (User, error) { return User{}, nil }
func _() {
	wrap := For(userByID)
	_ = wrap
	_ = `

// The package comment says which type arguments must be written. If a later Go
// infers more, this test fails, and Typed may go.
func TestFor_TypeArgumentsThatGoInfers(t *testing.T) {
	t.Parallel()
	for call, infers := range map[string]bool{
		"Chain(userByID, Cached(users{}))":                                                     true,
		"Chain(userByID, users{}.Wrap)":                                                        true,
		"Chain(userByID, wrap.Timeout(1), Cached(users{}))":                                    true,
		"Chain(userByID, Typed[int64, User]{}.Timeout(1))":                                     true,
		"Chain(userByID, Timeout[int64, User](1))":                                             true,
		"Chain(userByID, Timeout(1))":                                                          false,
		"[]Middleware[int64, User]{Timeout(1)}":                                                false,
		"Chain(userByID, Once[User](mails{}))":                                                 true,
		"Chain(userByID, Once(mails{}))":                                                       false,
		"Chain(userByID, Plain)":                                                               true, // and it takes no argument
		"Chain(userByID, With(1, Timeout))":                                                    false,
		"Direct(1, Cached(users{})(Direct(2, userByID)))":                                      true,
		"Chain(userByID, func(f Func[int64, User]) Func[int64, User] { return Direct(1, f) })": true,
	} {
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, "sketch.go", sketch+call+"\n}\n", 0)
		require.NoError(t, err, call)
		_, err = new(types.Config).Check("sketch", fset, []*ast.File{file}, nil)
		require.Equal(t, infers, err == nil, "%s: %v", call, err)
		if !infers {
			require.ErrorContains(t, err, "cannot infer", call)
		}
	}
	_, err := parser.ParseFile(token.NewFileSet(), "", "package p; func (T) Wrap[K any](K) {}", 0)
	require.ErrorContains(t, err, "must have no type parameters")
}

func TestFor_TypesAreWrittenAtMostOnce(t *testing.T) {
	t.Parallel()
	var notes []string
	var typed Typed[int, int]
	f := Chain(double, typed.Limit(1), For(double).Retry(RetryOptions{}), Cached(passing{}), noting("own", &notes))
	v, err := f(t.Context(), 4)
	require.NoError(t, err)
	require.Equal(t, 8, v)
	require.Equal(t, []string{"own in", "own out"}, notes)
}
