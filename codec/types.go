package codec

import (
	"bytes"
	"encoding"
	"reflect"
	"slices"
	"time"

	"github.com/vmihailenco/msgpack/v5"
)

// A shape is what this package knows of a Go type: how MessagePack lays it out,
// so that bytes can be compared with it before anything is decoded, and whether
// a value of it can nest without end. Shapes are made once per codec, and form
// a graph with cycles if the types do.
type shape struct {
	kind   shapeKind
	size   int64             // bytes a value takes where it stands
	bits   int               // of integers
	elem   *shape            // of pointers, slices, arrays and maps
	key    *shape            // of maps
	fields []field           // of structs, in the order of the array form
	byName map[string]*shape // of structs: fields, their aliases, embedded structs
	nests  bool              // a value can hold others of its type, or an any
	open   bool              // while it is being made
}

type field struct {
	name  string
	index []int
	shape *shape
}

type shapeKind uint8

const (
	shapeLeaf   shapeKind = iota // nothing to look at: strings, bytes, bools, times
	shapeOpaque                  // encodes itself
	shapeAny                     // interface{}
	shapeInt
	shapeUint
	shapePointer
	shapeSlice
	shapeArray
	shapeMap
	shapeStruct
)

// shapes makes the shapes of a type and of all that is in it.
type shapes struct {
	// generated: the layout is that of methods made by tinylib/msgp, which is
	// not ours to know, nor its faults to find. Only nesting is looked at.
	generated bool

	known     map[reflect.Type]*shape
	embedding []reflect.Type // structs of which an embedded struct is being laid out
}

// newShape returns the shape of t and all shapes that are in it, or why there
// can be none. What holds something that nests, nests too: that is known when all
// shapes are, and is spread from each to its holders until nothing changes.
func newShape(t reflect.Type, generated bool) (*shape, map[reflect.Type]*shape, *failure) {
	b := shapes{generated: generated, known: map[reflect.Type]*shape{}}
	s, err := b.of(t, t.String())
	for changed := err == nil; changed; {
		changed = false
		for _, s := range b.known {
			if !s.nests && s.holdsNesting() {
				s.nests, changed = true, true
			}
		}
	}
	return s, b.known, err
}

func (s *shape) holdsNesting() bool {
	return s.elem != nil && s.elem.nests || s.key != nil && s.key.nests ||
		slices.ContainsFunc(s.fields, func(f field) bool { return f.shape.nests })
}

// of returns the shape of t, which stands at path in the type of the codec.
func (b *shapes) of(t reflect.Type, path string) (*shape, *failure) {
	s, ok := b.known[t]
	if ok {
		s.nests = s.nests || s.open // met inside itself: the type is recursive
		return s, nil
	}
	s = &shape{size: int64(t.Size()), open: true}
	b.known[t] = s
	embedding := b.embedding
	b.embedding = nil // a field of a struct may well embed that struct
	err := b.fill(s, t, path)
	s.open, b.embedding = false, embedding
	return s, err
}

// fill makes s the shape of t. The order is that in which msgpack decides: what
// is registered, as it registers time.Time itself, then methods, then the kind.
func (b *shapes) fill(s *shape, t reflect.Type, path string) (err *failure) {
	if t == timeType {
		return nil // an extension, of which msgpack checks the length
	}
	if !b.generated && t.Kind() != reflect.Interface {
		if own, err := encodesItself(t, path); own || err != nil {
			s.kind = shapeOpaque
			return err
		}
	}
	switch t.Kind() {
	case reflect.Bool, reflect.String:
	case reflect.Float32, reflect.Float64:
		s.kind, s.bits = shapeInt, 64 // an integer in place of a float is read as an int64
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		s.kind, s.bits = shapeInt, t.Bits()
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		s.kind, s.bits = shapeUint, t.Bits()
	case reflect.Interface:
		// Of an interface with methods msgpack encodes what is in it, but does
		// not know what to decode into.
		if t.NumMethod() > 0 && !b.generated {
			return unsupported(path, t)
		}
		s.kind, s.nests = shapeAny, true
	case reflect.Pointer:
		if pointsToItself(t) {
			return unsupported(path, t)
		}
		s.kind = shapePointer
		s.elem, err = b.of(t.Elem(), path)
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			return nil // bytes, whatever methods the element has
		}
		s.kind = shapeSlice
		if t.Kind() == reflect.Array {
			s.kind = shapeArray
		}
		s.elem, err = b.of(t.Elem(), path+"[]")
	case reflect.Map:
		s.kind = shapeMap
		if s.key, err = b.of(t.Key(), path+" key"); err == nil {
			s.elem, err = b.of(t.Elem(), path+"[]")
		}
	case reflect.Struct:
		s.kind = shapeStruct
		if b.generated {
			return b.generatedFields(s, t, path)
		}
		// A struct of which nothing is stored would come back empty, which is
		// what happens to a sync.Mutex, and to a type of another package that
		// has methods for JSON only.
		if err = b.layOut(s, t, path); err == nil && len(s.fields) == 0 && t.NumField() > 0 {
			if !registered(t) {
				return misconfigured("%s: %s has no exported field to store", path, t)
			}
			s.kind = shapeOpaque
		}
	default: // chan, func, complex, uintptr, unsafe.Pointer
		if !b.generated && !registered(t) {
			return unsupported(path, t)
		}
		s.kind = shapeOpaque
	}
	return err
}

// generatedFields gives s the fields that generated methods may encode, which
// are all that are exported: more than there are is no harm, since they are
// only followed in search of cycles.
func (b *shapes) generatedFields(s *shape, t reflect.Type, path string) *failure {
	for f := range t.Fields() {
		if f.Tag.Get("msg") == "-" || !f.IsExported() && !f.Anonymous {
			continue
		}
		fs, err := b.of(f.Type, path+"."+f.Name)
		if err != nil {
			return err
		}
		s.fields = append(s.fields, field{f.Name, f.Index, fs})
	}
	return nil
}

// unsupported is the error of a part of a type: "main.User.Done: chan int cannot
// be encoded". In paths, [] is any element.
func unsupported(path string, t reflect.Type) *failure {
	if path == t.String() {
		return misconfigured("%s cannot be encoded", t)
	}
	return misconfigured("%s: %s cannot be encoded", path, t)
}

// pointsToItself tells whether t is like "type P *P", on which msgpack looks
// for an encoder until the stack is full. It goes by a slow and a fast pointer.
func pointsToItself(t reflect.Type) bool {
	for slow, steps := t, 0; t.Kind() == reflect.Pointer; steps++ {
		if t = t.Elem(); t == slow {
			return true
		}
		if steps%2 == 1 {
			slow = slow.Elem()
		}
	}
	return false
}

var (
	timeType            = reflect.TypeFor[time.Time]()
	textUnmarshalerType = reflect.TypeFor[encoding.TextUnmarshaler]()

	// ownEncoders and ownDecoders are the methods by which a type encodes and
	// decodes itself with msgpack, in the order in which it looks for them.
	ownEncoders = []reflect.Type{
		reflect.TypeFor[msgpack.CustomEncoder](), reflect.TypeFor[msgpack.Marshaler](),
		reflect.TypeFor[encoding.BinaryMarshaler](), reflect.TypeFor[encoding.TextMarshaler](),
	}
	ownDecoders = []reflect.Type{
		reflect.TypeFor[msgpack.CustomDecoder](), reflect.TypeFor[msgpack.Unmarshaler](),
		reflect.TypeFor[encoding.BinaryUnmarshaler](), textUnmarshalerType,
	}
)

// encodesItself tells whether msgpack leaves t to methods of t. It is an error
// if they do not fit together, as when only MarshalText is there, for logs.
func encodesItself(t reflect.Type, path string) (bool, *failure) {
	const binary = 2 // from here on the methods' bytes are wrapped as a string
	find := func(methods []reflect.Type) int {
		n := slices.IndexFunc(methods, func(m reflect.Type) bool { return hasMethods(t, m) })
		if n < 0 {
			return len(methods)
		}
		return n
	}
	// A type with EncodeMsgpack alone may well write what it is decoded from
	// without methods. Text and binary come wrapped as a string, which only a
	// type that is a string takes.
	enc, dec := find(ownEncoders), find(ownDecoders)
	isString := t.Kind() == reflect.String || t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8
	if enc >= binary && dec >= binary && enc != dec && !isString {
		has, hasNot := ownEncoders, ownDecoders
		if enc > dec {
			has, hasNot = ownDecoders, ownEncoders
		}
		n := min(enc, dec)
		return false, misconfigured("%s: %s is an %s and not an %s", path, t, has[n], hasNot[n])
	}
	return enc < len(ownEncoders) || dec < len(ownDecoders), nil
}

// hasMethods tells whether a variable of type t has the methods of iface.
func hasMethods(t, iface reflect.Type) bool {
	return t.Implements(iface) || t.Kind() != reflect.Pointer && reflect.PointerTo(t).Implements(iface)
}

// registered tells whether t, which msgpack does not encode by itself, was
// registered with it. It does not say so, so we let it encode a zero value.
func registered(t reflect.Type) (ok bool) {
	defer func() { _ = recover() }()
	var buf bytes.Buffer
	err := msgpack.NewEncoder(&buf).EncodeValue(reflect.New(t).Elem())
	const emptyMap, emptyArray = 0x80, 0x90 // a struct that has no fields to show
	return err == nil && buf.Len() > 0 && buf.Bytes()[0] != emptyMap && buf.Bytes()[0] != emptyArray
}
