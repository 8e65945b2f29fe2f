package codec

// Deterministic returns nil, or an [ErrConfig] if c may encode equal values
// differently, as [Encrypt] does. It looks through wrappers.
//
// Collections compare members by their bytes. They call Deterministic and
// refuse such a codec, because a member would never be found again. A codec of
// another package takes part if it has a method Deterministic() error. Without
// that method it counts as deterministic.
func Deterministic[V any](c Codec[V]) error {
	if c, ok := c.(interface{ Deterministic() error }); ok {
		return c.Deterministic()
	}
	return nil
}

var (
	errNonces = misconfigured("Encrypt makes different bytes of one value each time")
	errMapsOf = "%s has a map, which its generated methods write in no order"
)

// Deterministic asks the inner codec.
func (k keyless[V]) Deterministic() error { return Deterministic(k.Codec) }

// Deterministic asks the inner codec.
func (c *compressed[V]) Deterministic() error { return Deterministic[V](c.inner) }

// Deterministic asks the inner codec.
func (c *versioned[V]) Deterministic() error { return Deterministic[V](c.inner) }

// Deterministic asks the inner codec.
func (c *mapped[V, S]) Deterministic() error { return Deterministic[S](c.inner) }

// Deterministic returns an error, since nonces are random.
func (c *encrypted[V]) Deterministic() error { return errNonces }

// hasMap reports whether s or a part of it is a map.
func (s *shape) hasMap(seen map[*shape]bool) bool {
	if seen[s] {
		return false
	}
	seen[s] = true
	if s.kind == shapeMap || s.kind == shapeAny {
		return true
	}
	for part := range s.parts() {
		if part.hasMap(seen) {
			return true
		}
	}
	return false
}
