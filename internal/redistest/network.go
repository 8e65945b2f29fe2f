package redistest

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Network has two sides with servers on each, and a line between them that can
// be cut. The test always reaches both sides. Each side, and the test itself,
// is a network namespace. The test's namespace forwards between the sides.
//
// Its methods may fail the test, so they must run in the test's own goroutine.
type Network struct {
	t     testing.TB
	sides [2]*side
}

// side is a network namespace with one address.
type side struct {
	host string
	pid  int // of a process in it
}

// networkEnv tells a test that it runs in its own network namespace.
const networkEnv = "CACHEX_TEST_NETWORK"

// InNetwork runs f as the body of the test, in a separate process: this test
// binary again, with only this test, in a network namespace. If the system
// allows no namespaces, the test is skipped. Ports belong to the namespace, so
// f must start all servers itself.
func InNetwork(t *testing.T, f func(t *testing.T, n *Network)) {
	t.Helper()
	if os.Getenv(networkEnv) != "" {
		f(t, newNetwork(t))
		return
	}
	Binary(t, "redis-server")
	unshare, err := canPartition()
	if err != nil {
		t.Skipf("this system allows no network namespaces: %v", err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatalf("redistest: %v", err)
	}
	var pattern []string
	for name := range strings.SplitSeq(t.Name(), "/") {
		pattern = append(pattern, "^"+regexp.QuoteMeta(name)+"$")
	}
	cmd := exec.Command(unshare[0], append(unshare[1:], self, "-test.v", "-test.run", strings.Join(pattern, "/"), "-test.timeout", networkPatience.String())...)
	cmd.Env = append(os.Environ(), networkEnv+"=1")
	p := Spawn(t, cmd)
	timeout := time.NewTimer(networkPatience)
	defer timeout.Stop()
	select {
	case <-p.exited:
	case <-timeout.C:
		t.Fatalf("redistest: the test has not ended after %v", networkPatience)
	}
	if p.err != nil {
		t.Fatalf("redistest: the test has failed in its network: %v", p.err)
	}
	if out := p.Output(); !strings.Contains(out, "--- PASS: "+t.Name()) {
		t.Skipf("the test was skipped in its network:\n%s", out)
	}
}

// networkPatience bounds a test in a network, which waits several times.
var networkPatience = 8 * Patience

// canPartition returns the command that runs another one in a network
// namespace.
func canPartition() ([]string, error) {
	for _, tool := range []string{"unshare", "nsenter", "ip"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, err
		}
	}
	command := []string{"unshare", "--net"}
	if os.Geteuid() != 0 {
		command = append(command, "--map-root-user")
	}
	// The system may allow a namespace and still refuse the commands of a test
	// in it.
	const all = "ip link add name side type veth peer name eth0 && echo 1 >/proc/sys/net/ipv4/ip_forward && unshare --net true"
	out, err := exec.Command(command[0], append(command[1:], "sh", "-c", all)...).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
	}
	return command, nil
}

func newNetwork(t testing.TB) *Network {
	t.Helper()
	n := &Network{t: t}
	n.run("ip", "link", "set", "lo", "up")
	for i := range n.sides {
		holder := Spawn(t, exec.Command("unshare", "--net", "sh", "-c", "echo ready; exec sleep 1000"))
		holder.WaitLine("ready")
		s := &side{host: fmt.Sprintf("10.77.%d.2", i+1), pid: holder.Pid()}
		router, line := fmt.Sprintf("10.77.%d.1", i+1), fmt.Sprint("side", i)
		n.run("ip", "link", "add", "name", line, "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(s.pid))
		n.run("ip", "addr", "add", router+"/24", "dev", line)
		n.run("ip", "link", "set", line, "up")
		for _, args := range [][]string{
			{"ip", "link", "set", "lo", "up"},
			{"ip", "addr", "add", s.host + "/24", "dev", "eth0"},
			{"ip", "link", "set", "eth0", "up"},
			{"ip", "route", "add", "default", "via", router},
		} {
			args = s.enter(args)
			n.run(args[0], args[1:]...)
		}
		n.sides[i] = s
	}
	n.Mend()
	return n
}

// Cut drops all packets between the sides, in both directions and without an
// error.
func (n *Network) Cut() { n.forward("0") }

// Mend ends Cut.
func (n *Network) Mend() { n.forward("1") }

func (n *Network) forward(value string) {
	n.t.Helper()
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte(value), 0o600); err != nil {
		n.t.Fatalf("redistest: %v", err)
	}
}

func (n *Network) run(name string, args ...string) {
	n.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		n.t.Fatalf("redistest: %s %v: %v: %s", name, args, err, out)
	}
}

// enter returns the command that runs args on the side. A nil side is the
// test's namespace.
func (s *side) enter(args []string) []string {
	if s == nil {
		return args
	}
	return append([]string{"nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", s.pid), "--"}, args...)
}

// address returns the address that a server on the side binds to.
func (s *side) address() string {
	if s == nil {
		return "127.0.0.1"
	}
	return s.host
}
