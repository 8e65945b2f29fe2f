// Types measures the cost of a further cache type for the program that has it.
//
//	go run ./bench/types
//
// It writes programs that have a few and many caches of different struct types,
// and builds them. It prints the size of the binary, and the CPU time and peak
// memory of the compiler for the package with the types. The packages that a
// program imports are compiled beforehand and not counted.
//
// The size is that of a binary without symbols (-ldflags='-s -w'), and exact:
// the same source and the same toolchain make the same binary. CPU time varies,
// so each program is compiled several times, and the least time is printed.
package main

import (
	"flag"
	"fmt"
	"os"
	"text/tabwriter"
	"time"
)

func main() {
	if status, ok := wrapped(os.Args[1:]); ok {
		os.Exit(status)
	}
	few := flag.Int("few", 1, "types of the small program")
	many := flag.Int("many", 21, "types of the large program")
	rounds := flag.Int("rounds", 3, "how often each program is compiled")
	dir := flag.String("dir", "bench", "the folder of the module that requires the libraries")
	only := flag.String("only", "", "the one library to measure; all if empty")
	flag.Parse()
	if err := run(*dir, *only, *few, *many, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "types:", err)
		os.Exit(1)
	}
}

// run prints the table.
func run(dir, only string, few, many, rounds int) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(w, "library\ttypes\tbinary, KB\tcompile, s\tmemory, MB\t")
	for _, l := range libraries {
		if only != "" && only != l.name {
			continue
		}
		var costs [2]cost
		for i, types := range []int{few, many} {
			c, err := measure(dir, l, types, rounds)
			if err != nil {
				return fmt.Errorf("%s with %d types: %w", l.name, types, err)
			}
			costs[i] = c
			_, _ = fmt.Fprintf(w, "%s\t%d\t%.1f\t%.2f\t%.1f\t\n", l.name, types, kilo(c.binary), c.cpu.Seconds(), mega(c.memory))
		}
		further := costs[1].further(costs[0], many-few)
		_, _ = fmt.Fprintf(w, "%s\tfurther\t%.1f\t%.3f\t%.2f\t\n", l.name, kilo(further.binary), further.cpu.Seconds(), mega(further.memory))
	}
	return w.Flush()
}

// further returns the cost of each of n further types.
func (c cost) further(fewer cost, n int) cost {
	return cost{
		binary: (c.binary - fewer.binary) / int64(n),
		cpu:    (c.cpu - fewer.cpu) / time.Duration(n),
		memory: (c.memory - fewer.memory) / int64(n),
	}
}

func kilo(bytes int64) float64 { return float64(bytes) / 1e3 }
func mega(bytes int64) float64 { return float64(bytes) / 1e6 }
