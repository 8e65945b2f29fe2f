package codec

// Map returns a codec for V that stores what to makes of it, an S, by c, and
// gives from what c decodes. Both types are inferred:
//
//	codec.Map(codec.Int[int64](),
//		func(t time.Time) (int64, error) { return t.UnixMilli(), nil },
//		func(ms int64) (time.Time, error) { return time.UnixMilli(ms), nil })
//
// It is also the place to leave out what must not be stored, or to refuse what
// is outdated: an error of from is an [ErrFormat], which a cache takes for a
// miss. An error of to is an [ErrEncode]. The errors are in the chain of what is
// returned and their text is printed, so keep values out of it.
//
// Both functions are called at the same time by many goroutines.
func Map[V, S any](c Codec[S], to func(V) (S, error), from func(S) (V, error)) Codec[V] {
	if to == nil || from == nil {
		return refused[V](misconfigured("Map: to and from are required"))
	}
	return &mapped[V, S]{sealerOf(c), Bind(c), to, from}
}

type mapped[V, S any] struct {
	sealer
	inner Keyed[S]
	to    func(V) (S, error)
	from  func(S) (V, error)
}

// Check checks the codec inside.
func (c *mapped[V, S]) Check() error { return Check(c.inner) }

// Append is AppendKeyed without a key.
func (c *mapped[V, S]) Append(dst []byte, v V) ([]byte, error) { return c.AppendKeyed(dst, "", v) }

// Decode is DecodeKeyed without a key.
func (c *mapped[V, S]) Decode(src []byte, v *V) error { return c.DecodeKeyed(src, "", v) }

// AppendKeyed appends what to makes of v. A panic of to is an [ErrEncode].
func (c *mapped[V, S]) AppendKeyed(dst []byte, key string, v V) (out []byte, err error) {
	defer catchAppend("a function of Map", dst, &out, &err)
	s, err := c.to(v)
	if err != nil {
		return dst, cannotEncode("Map: "+err.Error(), err)
	}
	return c.inner.AppendKeyed(dst, key, s)
}

// DecodeKeyed gives what from makes of what was stored. A panic of from is an
// [ErrFormat].
func (c *mapped[V, S]) DecodeKeyed(src []byte, key string, v *V) (err error) {
	defer catchDecode("a function of Map", v, &err)
	var s S
	if err := c.inner.DecodeKeyed(src, key, &s); err != nil {
		return err
	}
	if *v, err = c.from(s); err != nil {
		return badFormat("Map: "+err.Error(), err)
	}
	return nil
}
