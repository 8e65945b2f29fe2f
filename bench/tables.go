package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/cachex-go/cachex/bench/measure"
	"github.com/cachex-go/cachex/bench/report"
)

// table measures a work and returns its table.
func table(w *measure.Work, o options) (report.Section, error) {
	rows, err := w.Run(o.Options)
	if err != nil {
		return report.Section{}, err
	}
	s := report.Section{
		Title: w.Name, Note: w.Note,
		Head: []string{"goroutines", "variant", "speed", "least to greatest", "calls/s", "p99", "p99, ratio", "allocs", "bytes", "wanted"},
	}
	for _, r := range rows {
		s.Rows = append(s.Rows, cells(r))
		profiled := false
		for _, v := range r.Verdicts {
			verdict := judge(v)
			// Only the first such variant is profiled.
			if !v.Reached && !profiled && o.profile > 0 {
				if verdict.Profile, err = profile(w, r, o.profile); err != nil {
					return s, err
				}
				profiled = true
			}
			s.Verdicts = append(s.Verdicts, verdict)
		}
	}
	if w.Name == "hit" {
		s.Plots = hitPlots(w, rows)
	}
	return s, nil
}

func cells(r measure.Row) []string {
	name, speed, spread := r.Variant, "1", ""
	if r.Control {
		name += ", again"
	}
	if !r.Base {
		speed, spread = times(r.Speed.Median), fmt.Sprintf("%s to %s", times(r.Speed.Least), times(r.Speed.Greatest))
	}
	p99, slow := "", ""
	if r.P99 > 0 {
		p99, slow = short(r.P99), times(r.Slow.Median)
	}
	wanted := ""
	for _, v := range r.Verdicts {
		if wanted != "" {
			wanted += "; "
		}
		wanted += want(v)
		if v.Versus != "" {
			wanted += " " + v.Versus
		}
		wanted += map[bool]string{true: ": yes", false: ": **no**"}[v.Reached]
	}
	return []string{
		strconv.Itoa(r.Goroutines), name, speed, spread, grouped(r.Rate), p99, slow,
		strconv.FormatFloat(r.Allocs, 'f', 1, 64), grouped(r.Bytes), wanted,
	}
}

func want(v measure.Verdict) string {
	switch v.What {
	case measure.P99:
		return "p99 ≤ " + times(v.Bound)
	case measure.Allocs:
		return fmt.Sprintf("≤ %g allocs", v.Bound)
	default:
		return "≥ " + times(v.Bound)
	}
}

// judge converts a verdict for the report.
func judge(v measure.Verdict) report.Verdict {
	r := report.Verdict{
		Work:    fmt.Sprintf("%s, %d goroutines: %s", v.Work, v.Goroutines, v.Variant),
		Versus:  v.Base,
		Want:    want(v),
		Got:     fmt.Sprintf("%s (%s to %s)", times(v.Got.Median), times(v.Got.Least), times(v.Got.Greatest)),
		Reached: v.Reached,
	}
	if v.Goroutines == 1 {
		r.Work = fmt.Sprintf("%s, 1 goroutine: %s", v.Work, v.Variant)
	}
	if v.What == measure.Allocs {
		r.Got = strconv.FormatFloat(v.Got.Median, 'f', 1, 64)
	}
	return r
}

// profile measures r once more and returns the CPU profile as text, the most
// expensive functions first.
func profile(w *measure.Work, r measure.Row, length time.Duration) (string, error) {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	var b bytes.Buffer
	if err := w.Profile(&b, r.Variant, r.Goroutines, length); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "cpu.pprof")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		return "", err
	}
	out, err := exec.Command("go", "tool", "pprof", "-top", "-nodecount=16", path).Output()
	if err != nil {
		return "", fmt.Errorf("go tool pprof: %w", err)
	}
	// The first lines describe the file.
	lines := bytes.SplitAfter(out, []byte("\n"))
	from := slices.IndexFunc(lines, func(line []byte) bool { return bytes.Contains(line, []byte("flat%")) })
	return string(bytes.Join(lines[max(0, from):], nil)), nil
}

// hitPlots plots the throughput and the p99 of hits by goroutines.
func hitPlots(w *measure.Work, rows []measure.Row) []report.Plot {
	rate := report.Plot{Name: "hit", Title: "A hit: thousand calls a second", X: "goroutines"}
	p99 := report.Plot{Name: "p99", Title: "A hit: p99, ms", X: "goroutines"}
	for _, v := range append(slices.Clone(w.Variants), w.Base) {
		fast, slow := report.Line{Name: v.Name}, report.Line{Name: v.Name}
		for _, r := range rows {
			if r.Variant == v.Name && !r.Control {
				fast.Values = append(fast.Values, r.Rate/1000)
				slow.Values = append(slow.Values, float64(r.P99)/float64(time.Millisecond))
			}
		}
		rate.Lines, p99.Lines = append(rate.Lines, fast), append(p99.Lines, slow)
	}
	for _, g := range w.Goroutines {
		rate.Ticks = append(rate.Ticks, strconv.Itoa(g))
	}
	p99.Ticks = rate.Ticks
	return []report.Plot{rate, p99}
}

func stampedeTable(crowds []*crowd) report.Section {
	s := report.Section{
		Title: "stampede",
		Note: fmt.Sprintf("%d callers on each of %d clients ask for a missing value that takes %v to load. The table shows how much "+
			"longer than the load they wait, as the median of the rounds and as the greatest of them. It also shows "+
			"the commands that Redis carries out, including commands in scripts. With redsync, the load reads again "+
			"once it has the lock, and callers of a process share it by singleflight.", callers, clients, slow),
		Head: []string{"variant", "loads, most", "wait, p50", "wait, p99", "greatest", "commands, median", "most", "wanted"},
	}
	bars := report.Plot{Name: "stampede", Title: "400 callers miss: p99 of the wait beyond the load, ms"}
	for _, c := range crowds {
		p50, _ := c.wait(.5)
		p99, worst := c.wait(.99)
		commands := middle(c.commands)
		wanted := ""
		if c.name == ours {
			wanted = "1 load, ≤ 45 commands, p99 ≤ 4 ms"
			of := func(what, want, got string, reached bool) {
				s.Verdicts = append(s.Verdicts, report.Verdict{Work: "stampede: " + what, Versus: "-", Want: want, Got: got, Reached: reached})
			}
			of("loads", "1", strconv.FormatInt(c.most, 10), c.most == 1)
			of("commands", "≤ 45", strconv.FormatInt(commands, 10), commands <= 45)
			of("p99 of the wait", "≤ 4 ms", short(p99), p99 <= 4*time.Millisecond)
		}
		s.Rows = append(s.Rows, []string{
			c.name, strconv.FormatInt(c.most, 10), short(p50), short(p99), short(worst), strconv.FormatInt(commands, 10),
			strconv.FormatInt(slices.Max(c.commands), 10), wanted,
		})
		bars.Bars = append(bars.Bars, report.Bar{
			Name: c.name, Value: float64(p99) / float64(time.Millisecond),
			Label: fmt.Sprintf("%s, loads: %d, commands: %d", short(p99), c.most, commands),
		})
	}
	s.Plots = []report.Plot{bars}
	return s
}

// times formats a ratio with two significant digits.
func times(x float64) string {
	switch {
	case x >= 100:
		return grouped(x) + "×"
	case x >= 10:
		return strconv.FormatFloat(x, 'f', 1, 64) + "×"
	case x >= 0.1:
		return strconv.FormatFloat(x, 'f', 2, 64) + "×"
	default:
		return strconv.FormatFloat(x, 'g', 2, 64) + "×"
	}
}

func short(d time.Duration) string {
	switch {
	case d >= 10*time.Millisecond:
		return strconv.FormatFloat(float64(d)/float64(time.Millisecond), 'f', 1, 64) + " ms"
	case d >= time.Millisecond:
		return strconv.FormatFloat(float64(d)/float64(time.Millisecond), 'f', 2, 64) + " ms"
	default:
		return strconv.FormatInt(d.Microseconds(), 10) + " µs"
	}
}

// grouped formats a whole number with a comma between thousands.
func grouped(x float64) string {
	s := strconv.FormatFloat(x, 'f', 0, 64)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
