package codec

// Deterministic returns an [ErrConfig] if c may make different bytes of equal
// values, as [Encrypt] does, and nil otherwise. It goes through wrappers.
//
// Collections that compare members by their bytes call it, and refuse such a
// codec: a member would never be found again. A codec of another package takes
// part by having a method Deterministic() error; without it, it is taken to be
// deterministic.
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

// Deterministic passes the question on to the codec inside.
func (k keyless[V]) Deterministic() error { return Deterministic(k.Codec) }

// Deterministic passes the question on to the codec inside.
func (c *compressed[V]) Deterministic() error { return Deterministic[V](c.inner) }

// Deterministic passes the question on to the codec inside.
func (c *versioned[V]) Deterministic() error { return Deterministic[V](c.inner) }

// Deterministic passes the question on to the codec inside.
func (c *mapped[V, S]) Deterministic() error { return Deterministic[S](c.inner) }

// Deterministic returns an error: nonces are random.
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
