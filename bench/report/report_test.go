package report

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var some = Report{
	About: [][2]string{{"machine", "a toaster"}},
	Sections: []Section{
		{
			Title: "hit", Note: "Reading.", Head: []string{"variant", "speed"}, Rows: [][]string{{"by hand", "1"}, {"ours", "4.00×"}},
			Verdicts: []Verdict{{Work: "hit: ours", Versus: "by hand", Want: "≥ 4×", Got: "4.00×", Reached: true}},
			Plots:    []Plot{{Name: "hit", Title: "A hit"}},
		},
		{
			Title: "Set", Note: "Writing.", Head: []string{"variant"}, Rows: [][]string{{"ours"}},
			Verdicts: []Verdict{{Work: "Set: ours", Versus: "by hand", Want: "≥ 2×", Got: "1.00×", Profile: "write 40%\n"}},
		},
	},
}

func TestThePageHasTargetsTablesPlotsAndWhyTheyWereMissed(t *testing.T) {
	t.Parallel()
	page := some.Markdown()
	at := 0
	for _, want := range []string{
		"| machine | a toaster |\n",
		"## Targets\n",
		"| hit: ours | by hand | ≥ 4× | 4.00× | yes |\n",
		"| Set: ours | by hand | ≥ 2× | 1.00× | **no** |\n",
		"## hit\n\nReading.\n\n![A hit](plots/hit.svg)\n\n| variant | speed |\n|---|---|\n| by hand | 1 |\n| ours | 4.00× |\n",
		"## Set\n",
		"## Missed targets\n\n### Set: ours\n",
		"```\nwrite 40%\n```\n",
	} {
		i := strings.Index(page[at:], want)
		require.GreaterOrEqual(t, i, 0, "%q is not on the page after %q", want, page[:at])
		at += i + len(want)
	}
	require.Empty(t, page[at:])
}

func TestATableOfATerminalIsAligned(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	require.NoError(t, some.Sections[0].Text(&b))
	require.Equal(t, "hit\n  variant  speed\n  by hand  1\n  ours     4.00×\n  hit: ours, to by hand: 4.00×, wanted ≥ 4×: reached\n\n", b.String())
	b.Reset()
	require.NoError(t, some.Sections[1].Text(&b))
	require.Contains(t, b.String(), "NOT REACHED")
}

func TestPlotsAreSVGWithTheirNames(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, p := range []Plot{
		{Name: "lines", Title: "Lines", X: "goroutines", Ticks: []string{"1", "8", "64"}, Lines: []Line{
			{Name: "ours", Values: []float64{2, 5, 9}}, {Name: "theirs", Values: []float64{1, 1, 1}},
		}},
		{Name: "bars", Title: "Bars", Bars: []Bar{{Name: "ours", Value: 3, Label: "3 ms"}, {Name: "theirs", Value: 9, Label: "9 ms"}}},
	} {
		require.NoError(t, p.Save(dir))
		svg, err := os.ReadFile(filepath.Join(dir, "plots", p.Name+".svg"))
		require.NoError(t, err)
		for _, want := range []string{"<svg", p.Title, ">ours", ">theirs"} {
			require.Contains(t, string(svg), want)
		}
		for _, bar := range p.Bars {
			require.Contains(t, string(svg), ">"+bar.Label+"<")
		}
	}
}
