package codec

// Map returns a codec for V. It converts a V to an S with to and stores the S
// with c. On reading it converts the decoded S with from. Both types are
// inferred:
//
//	codec.Map(codec.Int[int64](),
//		func(t time.Time) (int64, error) { return t.UnixMilli(), nil },
//		func(ms int64) (time.Time, error) { return time.UnixMilli(ms), nil })
//
// Use it also to leave out parts that must not be stored, or to refuse outdated
// values. An error of from is an [ErrFormat], which a cache treats as a miss.
// An error of to is an [ErrEncode]. The returned error wraps the function's
// error and prints its text, so keep values out of it.
//
// Many goroutines call both functions at the same time.
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

// Check checks the inner codec.
func (c *mapped[V, S]) Check() error { return Check(c.inner) }

// Append is AppendKeyed with an empty key.
func (c *mapped[V, S]) Append(dst []byte, v V) ([]byte, error) { return c.AppendKeyed(dst, "", v) }

// Decode is DecodeKeyed with an empty key.
func (c *mapped[V, S]) Decode(src []byte, v *V) error { return c.DecodeKeyed(src, "", v) }

// AppendKeyed converts v with to and appends the result. A panic of to is an
// [ErrEncode].
func (c *mapped[V, S]) AppendKeyed(dst []byte, key string, v V) (out []byte, err error) {
	defer catchAppend("a function of Map", dst, &out, &err)
	s, err := c.to(v)
	if err != nil {
		return dst, cannotEncode("Map: "+err.Error(), err)
	}
	return c.inner.AppendKeyed(dst, key, s)
}

// DecodeKeyed decodes an S and converts it with from. A panic of from is an
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
