package codec

import (
	"iter"
	"reflect"
)

// shape describes a Go type. It holds the layout of the type in MessagePack, so
// that bytes can be compared with it before they are decoded. It also says
// whether a value can nest without end. Shapes are made once per codec. They
// form a graph, which has cycles if the types do.
type shape struct {
	kind   shapeKind
	size   int64             // bytes of the value itself
	bits   int               // of integers
	elem   *shape            // of pointers, slices, arrays and maps
	key    *shape            // of maps
	fields []field           // of structs, in the order of the array form
	byName map[string]*field // of structs: fields, their aliases, embedded structs
	array  bool              // of structs: stored as an array
	nests  bool              // a value can hold a value of its own type, or an any
	times  bool              // a value can hold a time.Time, perhaps only in an any
	open   bool              // while it is being made
}

type field struct {
	name  string
	index []int
	shape *shape
	omit  bool  // omitempty
	cost  int64 // bytes of the embedded structs behind pointers on the way
}

type shapeKind uint8

const (
	shapeLeaf   shapeKind = iota // nothing to inspect: strings, bytes, bools
	shapeTime                    // time.Time
	shapeOpaque                  // has its own encoding methods
	shapeAny                     // interface{}
	shapeInt
	shapeUint
	shapePointer
	shapeSlice
	shapeArray
	shapeMap
	shapeStruct
)

// shapes makes the shapes of a type and of all its parts.
type shapes struct {
	// generated means that tinylib/msgp generated the encoding methods. Their
	// layout is unknown here, and their faults are not checked. Only nesting is
	// checked.
	generated bool

	known     map[reflect.Type]*shape
	embedding []reflect.Type // structs around the embedded struct that is being laid out
}

// newShape returns the shape of t and all shapes in it, or an error that says
// why t cannot be encoded. A shape nests if a part nests, and has times if a
// part has. Both properties spread from parts to their holders until nothing
// changes.
func newShape(t reflect.Type, generated bool) (*shape, map[reflect.Type]*shape, *failure) {
	b := shapes{generated: generated, known: map[reflect.Type]*shape{}}
	s, err := b.of(t, t.String())
	for changed := err == nil; changed; {
		changed = false
		for _, s := range b.known {
			for part := range s.parts() {
				if part.nests && !s.nests || part.times && !s.times {
					s.nests, s.times, changed = s.nests || part.nests, s.times || part.times, true
				}
			}
		}
	}
	return s, b.known, err
}

// parts yields the shapes of the parts of s.
func (s *shape) parts() iter.Seq[*shape] {
	return func(yield func(*shape) bool) {
		for _, part := range []*shape{s.elem, s.key} {
			if part != nil && !yield(part) {
				return
			}
		}
		for _, f := range s.fields {
			if !yield(f.shape) {
				return
			}
		}
	}
}

// of returns the shape of t. path is the place of t in the type of the codec.
func (b *shapes) of(t reflect.Type, path string) (*shape, *failure) {
	s, ok := b.known[t]
	if ok {
		s.nests = s.nests || s.open // met within itself: the type is recursive
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

// fill makes s the shape of t. It decides in msgpack's order: registered types,
// which include time.Time, then methods, then the kind.
func (b *shapes) fill(s *shape, t reflect.Type, path string) (err *failure) {
	if t == timeType {
		s.kind, s.times = shapeTime, true // an extension, whose length msgpack checks
		return nil
	}
	// A *time.Time has methods too, but msgpack looks for registered types
	// first.
	if !b.generated && t.Kind() != reflect.Interface && t != timePointerType {
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
		// msgpack encodes the value in an interface with methods, but does not
		// know the type to decode it into.
		if t.NumMethod() > 0 && !b.generated {
			return unsupported(path, t)
		}
		s.kind, s.nests, s.times = shapeAny, true, true
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
		if s.key, err = b.of(t.Key(), path+" key"); err == nil && !b.generated {
			err = b.checkMapKey(t.Key(), path+" key")
		}
		if err == nil {
			s.elem, err = b.of(t.Elem(), path+"[]")
		}
	case reflect.Struct:
		s.kind = shapeStruct
		if b.generated {
			return b.generatedFields(s, t, path)
		}
		// A struct of which no field is stored would come back empty. Examples
		// are a sync.Mutex, and a type of another package that has only JSON
		// methods.
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

// generatedFields gives s the fields that generated methods may encode: all
// exported ones. Extra fields are harmless, since they are only followed in
// search of cycles.
func (b *shapes) generatedFields(s *shape, t reflect.Type, path string) *failure {
	for f := range t.Fields() {
		if f.Tag.Get("msg") == "-" || !f.IsExported() && !f.Anonymous {
			continue
		}
		fs, err := b.of(f.Type, path+"."+f.Name)
		if err != nil {
			return err
		}
		s.fields = append(s.fields, field{name: f.Name, index: f.Index, shape: fs})
	}
	return nil
}

// checkMapKey refuses a key type whose keys come back as other keys: pointers,
// and structs of which a part is not stored.
func (b *shapes) checkMapKey(t reflect.Type, path string) *failure {
	if s := b.known[t]; t == timeType || s != nil && s.kind == shapeOpaque && t.Kind() != reflect.Pointer {
		return nil
	}
	switch t.Kind() {
	case reflect.Pointer:
		return misconfigured("%s: a pointer as a map key comes back as another pointer", path)
	case reflect.Array:
		return b.checkMapKey(t.Elem(), path+"[]")
	case reflect.Struct:
		for f := range t.Fields() {
			if f.Tag.Get("msgpack") == "-" || !f.IsExported() && !f.Anonymous {
				return misconfigured("%s.%s: a map key would come back without this field, which is not stored", path, f.Name)
			}
			if err := b.checkMapKey(f.Type, path+"."+f.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// unsupported is the error for a part of a type that cannot be encoded:
// "main.User.Done: chan int cannot be encoded". In paths, [] is any element.
func unsupported(path string, t reflect.Type) *failure {
	if path == t.String() {
		return misconfigured("%s cannot be encoded", t)
	}
	return misconfigured("%s: %s cannot be encoded", path, t)
}

// pointsToItself reports whether t is like "type P *P". msgpack looks for an
// encoder of such a type until the stack overflows. The function follows a slow
// and a fast pointer.
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
