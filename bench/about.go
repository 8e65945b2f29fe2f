package main

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// about returns the facts about a run that a reader must know.
func about(o options, began time.Time) [][2]string {
	all := [][2]string{
		{"command", "`go run ./bench " + strings.Join(os.Args[1:], " ") + "`"},
		{"date", fmt.Sprintf("%s, %v", began.UTC().Format("2 January 2006"), time.Since(began).Round(time.Second))},
		{"measured", fmt.Sprintf("%d rounds, %v of each variant in each", o.Rounds, o.Length)},
		{"machine", fmt.Sprintf("%s, %d cores, %s/%s; the servers run on it too, over the loopback interface",
			processor(), runtime.NumCPU(), runtime.GOOS, runtime.GOARCH)},
		{"Go", fmt.Sprintf("%s, GOMAXPROCS=%d", runtime.Version(), runtime.GOMAXPROCS(0))},
		{"Redis", server()},
	}
	peers := []string{
		"github.com/redis/go-redis/v9", "github.com/vmihailenco/msgpack/v5", "github.com/go-redis/cache/v9",
		"github.com/redis/rueidis", "github.com/redis/rueidis/rueidisaside", "github.com/go-redsync/redsync/v4",
		"github.com/viccon/sturdyc", "github.com/maypok86/otter/v2",
	}
	var versions []string
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if slices.Contains(peers, m.Path) {
				versions = append(versions, strings.TrimPrefix(m.Path, "github.com/")+" "+m.Version)
			}
		}
	}
	return append(all, [2]string{"modules", strings.Join(versions, ", ")})
}

var modelName = regexp.MustCompile(`(?m)^model name\s*:\s*(.+)$`)

// processor returns the name of the processor, or "" if it is unknown.
func processor() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	if m := modelName.FindSubmatch(info); m != nil {
		return string(m[1])
	}
	return "a processor of unknown name"
}

func server() string {
	out, _ := exec.Command("redis-server", "--version").Output()
	if fields := strings.Fields(string(out)); len(fields) > 2 {
		return strings.TrimPrefix(fields[2], "v=") + ", without persistence"
	}
	return "of unknown version"
}
