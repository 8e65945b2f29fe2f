// Package report shows measurements as text, as Markdown, and as plots.
package report

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Section is one table.
type Section struct {
	Title    string
	Note     string // sentences before the table
	Head     []string
	Rows     [][]string
	Verdicts []Verdict
	Plots    []Plot
}

// Verdict is the result of a target.
type Verdict struct {
	Work    string // and its subject: "hit, 64 goroutines: calls a second"
	Versus  string
	Want    string
	Got     string
	Reached bool
	Profile string // of the measured variant, if it missed the target: lines of text
}

// Report is the result of a whole run.
type Report struct {
	About    [][2]string // the machine, versions and so on
	Sections []Section
}

// Text writes a section for a terminal.
func (s *Section) Text(out io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", s.Title)
	for _, row := range append([][]string{s.Head}, s.Rows...) {
		fmt.Fprintf(&b, "  %s\n", strings.Join(row, "\t"))
	}
	for _, v := range s.Verdicts {
		fmt.Fprintf(&b, "  %s, to %s: %s, wanted %s: %s\n", v.Work, v.Versus, v.Got, v.Want, v.word())
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if _, err := io.WriteString(w, b.String()+"\n"); err != nil {
		return err
	}
	return w.Flush()
}

func (v *Verdict) word() string {
	if v.Reached {
		return "reached"
	}
	return "NOT REACHED"
}

// Markdown returns the page of a report.
func (r *Report) Markdown() string {
	var b strings.Builder
	b.WriteString("# Results\n\nWritten by `go run ./bench`; [docs/speed.md](../docs/speed.md) says how to read it.\n\n")
	table(&b, []string{"", ""}, pairs(r.About))
	var verdicts [][]string
	var missed []Verdict
	for _, s := range r.Sections {
		for _, v := range s.Verdicts {
			word := "yes"
			if !v.Reached {
				word, missed = "**no**", append(missed, v)
			}
			verdicts = append(verdicts, []string{v.Work, v.Versus, v.Want, v.Got, word})
		}
	}
	if len(verdicts) > 0 {
		b.WriteString("\n## Targets\n\n")
		table(&b, []string{"work", "versus", "wanted", "measured", "reached"}, verdicts)
	}
	for _, s := range r.Sections {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n", s.Title, s.Note)
		for _, p := range s.Plots {
			fmt.Fprintf(&b, "![%s](%s)\n\n", p.Title, p.path())
		}
		table(&b, s.Head, s.Rows)
	}
	if len(missed) > 0 {
		b.WriteString("\n## Missed targets\n")
	}
	for _, v := range missed {
		fmt.Fprintf(&b, "\n### %s\n\nVersus %s: wanted %s, measured %s.\n", v.Work, v.Versus, v.Want, v.Got)
		if v.Profile != "" {
			fmt.Fprintf(&b, "\nThe client's CPU time meanwhile:\n\n```\n%s\n```\n", strings.TrimSpace(v.Profile))
		}
	}
	return b.String()
}

func pairs(of [][2]string) (rows [][]string) {
	for _, p := range of {
		rows = append(rows, p[:])
	}
	return rows
}

func table(b *strings.Builder, head []string, rows [][]string) {
	line := func(cells []string) { fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | ")) }
	line(head)
	b.WriteString(strings.Repeat("|---", len(head)) + "|\n")
	for _, row := range rows {
		line(row)
	}
}
