package defaults_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/defaults"
)

// The test binaries of other packages set InTests.
func TestDefaults_AreThoseOfTheDocs(t *testing.T) {
	t.Parallel()
	require.Equal(t, 3*time.Second, defaults.LeaseTTL())
	require.Equal(t, 5*time.Second, defaults.BatchLeaseTTL())
}
