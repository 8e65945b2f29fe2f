package errs

// Find walks the tree of err. It returns the errors of type E that it meets,
// without looking below them. beside is true if the tree has another error next
// to them: one on a branch without an E.
func Find[E error](err error) (found []E, beside bool) {
	if err == nil {
		return nil, false
	}
	if e, ok := err.(E); ok {
		return []E{e}, false
	}
	if as, ok := err.(interface{ As(any) bool }); ok {
		var e E
		if as.As(&e) {
			return []E{e}, false
		}
	}
	var children []error
	switch w := err.(type) {
	case interface{ Unwrap() error }:
		children = []error{w.Unwrap()}
	case interface{ Unwrap() []error }:
		children = w.Unwrap()
	}
	leaf := true
	for _, child := range children {
		if child == nil {
			continue
		}
		leaf = false
		some, other := Find[E](child)
		found, beside = append(found, some...), beside || other
	}
	return found, beside || leaf
}
