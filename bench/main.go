// Bench measures cachex against the code that a user would otherwise write or
// pick.
//
//	go run ./bench                                all of it, in about twelve minutes, into RESULTS.md
//	go run ./bench -only '^hit$' -rounds 3        some of it, to the terminal alone
//	go test ./bench -run '^$' -bench 'Works/^hit$/^hit$/64/cachex$' -cpuprofile cpu.pprof
//
// Ratios compare figures of one run, since the machine is never the same twice.
// In each round every variant runs once, in a random order, between two runs of
// its baseline. The tables show the median of the rounds' ratios, with the
// least and the greatest. The row "again" measures the baseline against itself.
// It shows how much of the other differences is noise.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/cachex-go/cachex/bench/measure"
	"github.com/cachex-go/cachex/bench/report"
)

// options says how much is measured.
type options struct {
	measure.Options
	only      *regexp.Regexp // selects works by name
	stampedes int            // rounds of the stampede
	entries   int64          // entries stored to measure memory
	most      int64          // keys of one work
	profile   time.Duration  // length of the profile of a variant that missed its target; 0: no profile
}

// keys returns n, or the most keys that o permits if that is less.
func (o options) keys(n int64) int64 { return min(n, o.most) }

// group is a set of works that share servers.
type group struct {
	name  string
	works func(testing.TB, options) []measure.Work
	run   func(testing.TB, options) []report.Section // used if works is nil
}

var groups = []group{
	{name: "hit", works: hits},
	{name: "hit on Cluster", works: cluster},
	{name: "GetMany 100", works: hundreds},
	{name: "mixed batch of 100", works: pages},
	{name: "stampede", run: stampede},
	{name: "stale-while-revalidate", works: stale},
	{name: "Set", works: writes},
	{name: "Inc", works: counts},
	{name: "memory", run: memory},
	{name: "codecs", works: codecs},
	{name: "in the process", works: inProcess},
}

// sections measures the works of g that o selects.
func (g *group) sections(t testing.TB, o options) (all []report.Section, err error) {
	if g.works == nil {
		if o.only.MatchString(g.name) {
			all = g.run(t, o)
		}
		return all, nil
	}
	for _, w := range g.works(t, o) {
		if !o.only.MatchString(w.Name) {
			continue
		}
		s, err := table(&w, o)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

func main() {
	o := options{most: many, entries: 60_000, profile: 2 * time.Second}
	only := flag.String("only", "", "a regexp of the works to measure; nothing is written then")
	flag.IntVar(&o.Rounds, "rounds", 9, "rounds of each work")
	flag.DurationVar(&o.Length, "length", 200*time.Millisecond, "of one variant in one round")
	out := flag.String("out", "bench", "the folder that RESULTS.md and plots are written to")
	flag.Parse()
	if err := run(o, *only, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(o options, only, out string) (err error) {
	if o.only, err = regexp.Compile(only); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(out, "RESULTS.md")); only == "" && err != nil {
		return fmt.Errorf("-out is not the folder with RESULTS.md: %w", err)
	}
	o.stampedes = o.Rounds
	began := time.Now()
	r := report.Report{}
	for _, g := range groups {
		err := within(func(t testing.TB) error {
			sections, err := g.sections(t, o)
			for i := range sections {
				err = errors.Join(err, sections[i].Text(os.Stdout))
			}
			r.Sections = append(r.Sections, sections...)
			return err
		})
		if err != nil {
			return err
		}
	}
	if len(r.Sections) == 0 {
		return fmt.Errorf("-only %q is none of the works", only)
	}
	if only != "" {
		return nil
	}
	r.About = about(o, began)
	for _, s := range r.Sections {
		for _, p := range s.Plots {
			if err := p.Save(out); err != nil {
				return err
			}
		}
	}
	return os.WriteFile(filepath.Join(out, "RESULTS.md"), []byte(r.Markdown()), 0o644)
}
