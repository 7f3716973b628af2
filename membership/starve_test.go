package membership

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"lanekeeper/ring"
)

// alarmTime is how long each case of BenchmarkFalseAlarms runs.
var alarmTime = flag.Duration("alarm-time", 90*time.Second, "length of each case of BenchmarkFalseAlarms")

// defaultLAN is what memberlist recommends for local networks, to compare with.
const defaultLAN Profile = "memberlist-lan"

func init() {
	profiles[defaultLAN] = memberlist.DefaultLANConfig
	dialTimeout[defaultLAN] = 2 * time.Second
}

// hardships are the cases of BenchmarkFalseAlarms.
var hardships = []hardship{
	{name: "idle"},
	{name: "burners=2", burners: 2},
	{name: "burners=2,nice=19", burners: 2, nice: 19},
	{name: "busy=2", busy: 2},
	{name: "busy=8", busy: 8},
	{name: "busy=8,burners=2,nice=19", busy: 8, burners: 2, nice: 19},
	{name: "stopped=1s", stopped: time.Second},
	{name: "stopped=2s", stopped: 2 * time.Second},
	{name: "stopped=3s", stopped: 3 * time.Second},
	{name: "stopped=5s", stopped: 5 * time.Second},
}

type hardship struct {
	name    string
	burners int           // busy processes per CPU
	busy    int           // busy goroutines in each node, per CPU
	nice    int           // of the nodes; the burners' is 0
	stopped time.Duration // every 15 s one node stands still for so long (SIGSTOP)
}

// BenchmarkFalseAlarms starves five nodes, each a process of its own on real
// loopback sockets, and counts how often a node that lives is declared dead. It
// needs a machine for itself, and minutes:
//
//	go test ./membership -run '^$' -bench FalseAlarms -benchtime 1x -timeout 1h
//
// deaths/min are the deaths that all nodes together saw, up to four for one
// node; suspicions/min the probes that failed; refuted/min the suspicions that
// their subject heard of in time.
func BenchmarkFalseAlarms(b *testing.B) {
	for _, profile := range []Profile{LAN, Local, defaultLAN} {
		for _, h := range hardships {
			b.Run(fmt.Sprintf("%s/%s", profile, h.name), func(b *testing.B) {
				for b.Loop() {
					alarms(b, profile, h)
				}
			})
		}
	}
}

// childVariable makes the test binary a node or a burner.
const childVariable = "LANEKEEPER_MEMBERSHIP_CHILD"

// child is what one is told.
type child struct {
	Burn    int // goroutines, beside being a node if there is a Name
	Name    string
	Listen  string
	Seeds   []string
	Profile Profile
	Nice    int
}

// toll is what a node has counted.
type toll struct {
	Deaths, Suspicions, Refuted, Views int
}

func alarms(b *testing.B, profile Profile, h hardship) {
	var seeds []string
	for range 5 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		seeds = append(seeds, l.Addr().String())
		l.Close()
	}
	var nodes []*process
	for i, address := range seeds {
		nodes = append(nodes, spawn(b, child{Name: fmt.Sprint("node-", i), Listen: address, Seeds: seeds, Profile: profile, Nice: h.nice, Burn: h.busy * runtime.NumCPU()}))
	}
	for _, n := range nodes {
		if line, err := n.out.ReadString('\n'); err != nil || line != "ready\n" {
			b.Fatalf("a node says %q, %v", line, err)
		}
	}
	var busy []*process
	for range h.burners * runtime.NumCPU() {
		busy = append(busy, spawn(b, child{Burn: 1}))
	}
	before := make([]toll, len(nodes))
	for i, n := range nodes {
		before[i] = n.toll(b)
	}
	began := time.Now()
	end := time.After(*alarmTime)
	for i, over := 0, false; !over; i++ {
		pause := time.After(15 * time.Second)
		if h.stopped > 0 {
			n := nodes[i%len(nodes)].cmd.Process
			n.Signal(syscall.SIGSTOP)
			<-time.After(h.stopped)
			n.Signal(syscall.SIGCONT)
		}
		select {
		case <-pause:
		case <-end:
			over = true
		}
	}
	var sum toll
	for i, n := range nodes {
		now := n.toll(b)
		sum.Deaths += now.Deaths - before[i].Deaths
		sum.Suspicions += now.Suspicions - before[i].Suspicions
		sum.Refuted += now.Refuted - before[i].Refuted
		sum.Views += now.Views - before[i].Views
	}
	minutes := time.Since(began).Minutes()
	for _, p := range append(busy, nodes...) {
		p.end()
	}
	b.ReportMetric(float64(sum.Deaths)/minutes, "deaths/min")
	b.ReportMetric(float64(sum.Suspicions)/minutes, "suspicions/min")
	b.ReportMetric(float64(sum.Refuted)/minutes, "refuted/min")
	b.ReportMetric(float64(sum.Views)/minutes, "views/min")
	b.ReportMetric(0, "ns/op")
}

// process is a child that runs.
type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func spawn(b *testing.B, c child) *process {
	b.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	p := &process{cmd, in, bufio.NewReader(out)}
	b.Cleanup(p.end)
	return p
}

// toll asks a node for its figures.
func (p *process) toll(b *testing.B) (t toll) {
	fmt.Fprintln(p.in)
	line, err := p.out.ReadString('\n')
	if err == nil {
		err = json.Unmarshal([]byte(line), &t)
	}
	if err != nil {
		b.Fatalf("a node says %q: %v", line, err)
	}
	return t
}

// end closes the child's input, which ends it.
func (p *process) end() {
	p.in.Close()
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

// runChild is the child's main.
func runChild(text string) {
	var c child
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		panic(err)
	}
	burn := func() {
		for range c.Burn {
			go func() { // ends with the process
				for n := uint64(1); n != 0; n = n*6364136223846793005 + 1442695040888963407 {
				}
			}()
		}
	}
	if c.Name == "" {
		burn()
		io.Copy(io.Discard, os.Stdin)
		return
	}
	if err := syscall.Setpriority(syscall.PRIO_PROCESS, 0, c.Nice); err != nil {
		panic(err)
	}
	counts := &counter{}
	config := Default()
	config.Self = ring.Member{Name: c.Name, Incarnation: uint64(time.Now().UnixNano())}
	config.Layout = testLayout()
	config.Listen, config.Seeds, config.Profile = c.Listen, c.Seeds, c.Profile
	config.Log = slog.New(counts)
	m, err := Start(config)
	if err != nil {
		panic(err)
	}
	for v := m.View(); len(v.Members) < len(c.Seeds); v = m.View() {
		<-v.Changed()
	}
	fmt.Println("ready")
	burn()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		counts.mu.Lock()
		answer, _ := json.Marshal(counts.toll)
		counts.mu.Unlock()
		fmt.Println(string(answer))
	}
	m.Stop(context.Background())
}

// counter is a slog.Handler that counts.
type counter struct {
	mu   sync.Mutex // guards toll
	toll toll
}

func (c *counter) Enabled(context.Context, slog.Level) bool { return true }
func (c *counter) WithAttrs([]slog.Attr) slog.Handler       { return c }
func (c *counter) WithGroup(string) slog.Handler            { return c }

func (c *counter) Handle(_ context.Context, r slog.Record) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case r.Message == "member died":
		c.toll.Deaths++
	case strings.HasPrefix(r.Message, "memberlist: Suspect "):
		c.toll.Suspicions++
	case strings.HasPrefix(r.Message, "another member got no answer"):
		c.toll.Refuted++
	case r.Message == "view changed":
		c.toll.Views++
	}
	return nil
}
