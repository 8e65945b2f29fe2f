package measure

import (
	"fmt"
	"io"
	"runtime/pprof"
	"slices"
	"time"
)

// Profile writes a CPU profile, in pprof's format, of g goroutines that call
// the named variant for length.
func (w *Work) Profile(out io.Writer, variant string, g int, length time.Duration) error {
	i := slices.IndexFunc(w.Variants, func(v Variant) bool { return v.Name == variant })
	if i < 0 {
		return fmt.Errorf("%s: there is no variant %q", w.Name, variant)
	}
	if err := pprof.StartCPUProfile(out); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	_, err := w.loop(w.Variants[i], g, length)
	return err
}
