package entry_test

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/entry"
)

var update = flag.Bool("update", false, "write the golden files anew: an entry of an older release may then be refused")

// goldenKey is the key of all golden entries.
const goldenKey = "users:42"

// goldenUser is struct{ ID int64; Name string }{42, "Ada"} in MessagePack.
const goldenUser = "\x82\xa2ID*\xa4Name\xa3Ada"

// golden lists the entries of one user in the order in which a cache stores
// them.
var golden = []struct {
	name    string
	header  entry.Header
	payload string
}{
	{"lease", entry.Header{
		State: entry.Lease, Token: entry.Token{0x5f, 0x0d, 0x9a, 0x41, 0xc3, 0x2e, 0x88, 0x17},
		Born: 1767225600000, Cost: 18 * time.Millisecond,
	}, ""},
	{"fresh", entry.Header{
		State: entry.Value, Soft: 1767225660018, Token: entry.Token{0x5f, 0x0d, 0x9a, 0x41, 0xc3, 0x2e, 0x88, 0x17},
		Born: 1767225600000, Cost: 17 * time.Millisecond,
	}, goldenUser},
	{"stale", entry.Header{
		State: entry.Value, Flags: entry.Stale, Soft: 1767225630000,
		Token: entry.Token{0x5f, 0x0d, 0x9a, 0x41, 0xc3, 0x2e, 0x88, 0x17},
		Born:  1767225600000, Cost: 17 * time.Millisecond,
	}, goldenUser},
	{"leased", entry.Header{
		State: entry.Value, Flags: entry.Expired | entry.Awaited | entry.Stale, Soft: 1767225630000,
		Token: entry.Token{0xe2, 0x70, 0x16, 0xb4, 0x0a, 0xff, 0x53, 0x9c},
		Till:  1767225664500, Born: 1767225600000, Cost: 17 * time.Millisecond,
	}, goldenUser},
	{"paused", entry.Header{
		State: entry.Value, Fails: 3, Soft: 1767225660018,
		Till: 1767225668000, Born: 1767225600000, Cost: 17 * time.Millisecond,
	}, goldenUser},
	{"absent", entry.Header{
		State: entry.Absent, Soft: 1767225665000, Token: entry.Token{0x31, 0x9c, 0x04, 0xd8, 0x77, 0x6b, 0xe0, 0x2a},
		Born: 1767225664000, Cost: 16 * time.Millisecond,
	}, ""},
	{"forever", entry.Header{
		State: entry.Value, Soft: entry.Forever, Token: entry.Token{0x01, 0, 0, 0, 0, 0, 0, 0xff}, Born: 1767225600000,
	}, goldenUser},
	{"empty", entry.Header{
		State: entry.Value, Soft: 1767225660000, Token: entry.Token{0xff, 0xfe, 0xfd, 0xfc, 0xfb, 0xfa, 0xf9, 0xf8},
		Born: 1767225600000, Cost: (1<<32 - 1) * time.Millisecond,
	}, ""},
}

func goldenFile(name string) string { return filepath.Join("testdata", name+".bin") }

func TestGolden_EntriesRoundTripByteForByte(t *testing.T) {
	t.Parallel()
	for _, g := range golden {
		if *update {
			require.NoError(t, os.WriteFile(goldenFile(g.name), compose(goldenKey, g.header, g.payload), 0o644))
		}
		b, err := os.ReadFile(goldenFile(g.name))
		require.NoError(t, err)
		h, payload, ok := entry.Parse(goldenKey, b)
		require.True(t, ok, g.name)
		want := g.header
		if want.State != entry.Lease {
			want.Sum = crc32c(goldenKey + g.payload)
		}
		require.Equal(t, want, h, g.name)
		require.Equal(t, g.payload, string(payload), g.name)
		require.Equal(t, hex.Dump(b), hex.Dump(append(h.Append(nil), payload...)), g.name)
	}
}

func TestGolden_FilesAreTheTestedOnes(t *testing.T) {
	t.Parallel()
	files, err := os.ReadDir("testdata")
	require.NoError(t, err)
	var names []string
	for _, f := range files {
		if !f.IsDir() { // the fuzzer writes a directory
			names = append(names, f.Name())
		}
	}
	var want []string
	for _, g := range golden {
		want = append(want, g.name+".bin")
	}
	require.ElementsMatch(t, want, names)
}

// fenced returns the text of the first fence of that language in docs/entry.md.
func fenced(t *testing.T, language string) string {
	t.Helper()
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "entry.md"))
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(doc), "\n```"+language+"\n")
	require.True(t, found, "docs/entry.md has no block of %s", language)
	block, _, found := strings.Cut(rest, "\n```\n")
	require.True(t, found)
	return block + "\n"
}

func TestGolden_DumpInTheDocumentationMatches(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(goldenFile("fresh"))
	require.NoError(t, err)
	require.Equal(t, hex.Dump(b), fenced(t, "hexdump"))
}

func TestGolden_PythonInTheDocumentationReadsThem(t *testing.T) {
	t.Parallel()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not on PATH: install it to run this test")
	}
	// The program of the documentation, then a call of its function for each
	// file, with each byte changed in turn.
	const check = `
import sys
for name in sys.argv[2:]:
    raw = open(name, "rb").read()
    print(name, parse(sys.argv[1], raw))
    for i in range(len(raw)):
        bad = raw[:i] + bytes([raw[i] ^ 0x10]) + raw[i + 1:]
        assert parse(sys.argv[1], bad) is None, (name, i)
    for n in range(len(raw)):
        assert parse(sys.argv[1], raw[:n]) is None, (name, n)
`
	args := []string{"-c", fenced(t, "python") + check, goldenKey}
	var want strings.Builder
	for _, g := range golden {
		args = append(args, goldenFile(g.name))
		want.WriteString(goldenFile(g.name) + " " + inPython(g.header, g.payload) + "\n")
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), python, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	require.Equal(t, want.String(), string(out))
}

// inPython is the result of parse of the documentation, as Python prints it.
func inPython(h entry.Header, payload string) string {
	if h.State != entry.Value {
		return "None"
	}
	if h.Flags&entry.Stale != 0 {
		h.Soft = 0
	}
	return fmt.Sprintf("(%d, b'%s')", h.Soft, strings.Trim(strconv.Quote(payload), `"`))
}
