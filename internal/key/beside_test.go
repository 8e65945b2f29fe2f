package key

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBesideIsInTheSameSlot(t *testing.T) {
	t.Parallel()
	for k, want := range map[string]string{
		"jobs:top":   "{jobs:top}",
		"{7}:top":    "{7}:top",
		"a{7}b":      "a{7}b",
		"{}:top":     "",
		"a{b":        "{a{b}",
		"a}b":        "",
		"a}b{c}":     "a}b{c}",
		"":           "",
		"{a}b{c}":    "{a}b{c}",
		"a{}b{c}":    "",
		"jobs:%7B:x": "{jobs:%7B:x}",
	} {
		got, err := Beside(k)
		require.Equal(t, want, got, "%q", k)
		require.Equal(t, want == "", err != nil, "%q", k)
	}
}
