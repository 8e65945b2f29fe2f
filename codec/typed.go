package codec

import "sync"

// typed is a codec of values of type V. The compiler generates it for every
// type of values, in the package of the user. So all code that does not need
// the type is in an anyCodec.
type typed[V any] struct {
	as    anyCodec
	spare sync.Pool // zero *V: variables with which Append need not allocate
}

// anyCodec is a codec of variables of one type, which it gets as pointers in an
// any. It is compiled once for all types. It recovers panics of methods of the
// type.
type anyCodec interface {
	// encode appends the variable that p points to. After an error it returns
	// dst.
	encode(dst []byte, p any) ([]byte, error)

	// decodeInto sets the variable, which is zero. After an error the variable
	// may hold anything.
	decodeInto(src []byte, p any) error

	// check implements Check, and deterministic implements Deterministic.
	check() error
	deterministic() error
}

// Check checks the codec.
func (c *typed[V]) Check() error { return c.as.check() }

// Deterministic returns nil if equal values have equal bytes.
func (c *typed[V]) Deterministic() error { return c.as.deterministic() }

// Append appends the bytes of v.
func (c *typed[V]) Append(dst []byte, v V) ([]byte, error) {
	p, ok := c.spare.Get().(*V)
	if !ok {
		p = new(V)
	}
	*p = v
	out, err := c.as.encode(dst, p)
	*p = *new(V) // otherwise the pool would keep what v refers to
	c.spare.Put(p)
	return out, err
}

// Decode sets *v to the value that src holds.
func (c *typed[V]) Decode(src []byte, v *V) error {
	*v = *new(V)
	err := c.as.decodeInto(src, v)
	if err != nil {
		*v = *new(V)
	}
	return err
}

// sure is embedded in an anyCodec that always works.
type sure struct{}

func (sure) check() error         { return nil }
func (sure) deterministic() error { return nil }

// invalid is an anyCodec that cannot work. err says why.
type invalid struct{ err *failure }

func (c invalid) check() error         { return c.err }
func (c invalid) deterministic() error { return nil }

func (c invalid) encode(dst []byte, _ any) ([]byte, error) {
	return dst, &failure{c.err.msg, []error{ErrEncode, ErrConfig}}
}

func (c invalid) decodeInto([]byte, any) error {
	return &failure{c.err.msg, []error{ErrFormat, ErrConfig}}
}

// refused returns a codec that always fails with err.
func refused[V any](err *failure) Codec[V] { return &typed[V]{as: invalid{err}} }
