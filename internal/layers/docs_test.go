package layers

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	code    = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	linked  = regexp.MustCompile(`\[([^]]*)\]\([^)]*\)`)
	unlike  = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// page returns the text of a Markdown file without its blocks of code.
func page(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	return code.ReplaceAllString(strings.ReplaceAll(string(text), "\r\n", "\n"), "")
}

// anchors returns the anchors that GitHub gives to the headings of text.
func anchors(text string) map[string]bool {
	all := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		plain := unlike.ReplaceAllString(strings.ToLower(linked.ReplaceAllString(m[1], "$1")), "")
		all[strings.ReplaceAll(strings.TrimSpace(plain), " ", "-")] = true
	}
	return all
}

func pages(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		some, err := filepath.Glob(filepath.Join("..", "..", filepath.FromSlash(pattern)))
		require.NoError(t, err)
		require.NotEmpty(t, some)
		all = append(all, some...)
	}
	return all
}

func TestDocs_LinksResolve(t *testing.T) {
	t.Parallel()
	for _, file := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(page(t, file), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			name, anchor, _ := strings.Cut(m[1], "#")
			target := file
			if name != "" {
				target = filepath.Join(filepath.Dir(file), filepath.FromSlash(name))
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %s: no such file", file, m[1])
			} else if anchor != "" && !anchors(page(t, target))[anchor] {
				t.Errorf("%s: %s: no such heading", file, m[1])
			}
		}
	}
}

func TestDocs_IndexHasEachPageOnce(t *testing.T) {
	t.Parallel()
	index := page(t, filepath.Join("..", "..", "docs", "index.md"))
	for _, file := range pages(t) {
		name := filepath.Base(file)
		if filepath.Base(filepath.Dir(file)) != "docs" || name == "index.md" {
			continue
		}
		if n := strings.Count(index, "]("+name+")"); n != 1 {
			t.Errorf("docs/index.md has %s %d times, want once", name, n)
		}
	}
}

// The glossary and the page on the architecture say where things are.
func TestDocs_PackagesExist(t *testing.T) {
	t.Parallel()
	internal := regexp.MustCompile("`(internal/[a-z]+)`")
	for _, file := range pages(t) {
		for _, m := range internal.FindAllStringSubmatch(page(t, file), -1) {
			if _, err := os.Stat(filepath.Join("..", "..", filepath.FromSlash(m[1]))); err != nil {
				t.Errorf("%s: no package %s", file, m[1])
			}
		}
	}
}
