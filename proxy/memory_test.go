package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lanekeeper/proxy"
	"lanekeeper/queue"
)

const memoryVariable = "LANEKEEPER_MEMORY_CHILD"

// memoryChild is a node in a process of its own, whose memory is nothing but
// the node's.
type memoryChild struct {
	t       *testing.T
	address string
	in      io.Writer
	out     *bufio.Reader
}

func startMemoryChild(t *testing.T, target string) *memoryChild {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestMemoryChild$")
	cmd.Env = append(os.Environ(), memoryVariable+"="+target)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	c := &memoryChild{t: t, in: in, out: bufio.NewReader(out)}
	c.address = c.line()
	return c
}

func (c *memoryChild) line() string {
	c.t.Helper()
	line, err := c.out.ReadString('\n')
	if err != nil {
		c.t.Fatalf("the child ended: %v", err)
	}
	return strings.TrimSpace(line)
}

// ask has the child do something, and returns the number it reports.
func (c *memoryChild) ask(command string, args ...any) int {
	c.t.Helper()
	fmt.Fprintln(c.in, append([]any{command}, args...)...)
	n, err := strconv.Atoi(c.line())
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}

// TestMemoryChild is the child; by itself it is nothing.
func TestMemoryChild(t *testing.T) {
	target := os.Getenv(memoryVariable)
	if target == "" {
		return
	}
	config := benchConfig(target)
	config.MaxConnections, config.Routes[0].Lane.MaxDepth, config.Routes[0].Lane.MaxBytes = 1<<16, 1<<16, 1<<30
	config.Routes[0].Lane.QueueTimeout = 10 * time.Minute
	lanes := queue.New(queue.Config{MaxQueued: 1 << 20, MaxQueuedBytes: 1 << 30, MaxLanes: 1 << 20, Tags: 1})
	p, err := proxy.New(config, lanes, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	listener := listenTCP(t)
	go p.Serve(listener)
	fmt.Println(listener.Addr())
	for commands := bufio.NewScanner(os.Stdin); commands.Scan(); {
		command, argument, _ := strings.Cut(commands.Text(), " ")
		n, _ := strconv.Atoi(argument)
		switch command {
		case "memory":
			fmt.Println(inUse())
		case "waiting":
			eventually(t, argument+" wait", func() bool { return lanes.Totals()[0].Waiting == n })
			fmt.Println(n)
		case "keys":
			passKeys(t, lanes, n)
			fmt.Println(len(lanes.Totals()))
		}
	}
	os.Exit(0)
}

// inUse is the heap and the stacks in use.
func inUse() uint64 {
	for range 3 { // empties pools
		debug.FreeOSMemory()
	}
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapInuse + stats.StackInuse
}

// passKeys lets n keys have their turn, with many lanes open at once.
func passKeys(t *testing.T, lanes *queue.Lanes, n int) {
	window := make([]queue.Ticket, 10_000)
	for i := range n {
		ticket := &window[i%len(window)]
		if i >= len(window) {
			ticket.Done()
		}
		if err := lanes.Admit(ticket, &queue.Request{Key: fmt.Appendf(nil, "order:%d", i)}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range min(n, len(window)) {
		window[i].Done()
	}
}

// raceDetector reports whether this binary has it, which costs memory.
func raceDetector() bool {
	info, _ := debug.ReadBuildInfo()
	for _, setting := range info.Settings {
		if setting.Key == "-race" {
			return setting.Value == "true"
		}
	}
	return false
}

// What a waiting request costs the node, its connection included. Mutants: a read
// buffer is kept per connection (ReduceMemoryUsage: false); the request is
// copied into the ticket; a goroutine per waiting request.
func TestAParkedRequestTakesLittleMemory(t *testing.T) {
	count := 10_000
	if raceDetector() {
		count = 2_000 // its figures mean little, and it is slow
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < uint64(count)+1000 {
		count = 2_000
		t.Logf("no file descriptors for more than %d connections (limit %d)", count, limit.Cur)
	}
	s, arrived := newGate(t)
	address := s.listenOn()
	child := startMemoryChild(t, "http://"+address)

	request := fmt.Sprintf("POST /orders/7 HTTP/1.1\r\nHost: shop.example\r\nContent-Type: application/json\r\nUser-Agent: test\r\nContent-Length: 1024\r\n\r\n%s", strings.Repeat("b", 1024))
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", child.address)
		if err != nil {
			t.Fatal(err)
		}
		conn.(*net.TCPConn).SetLinger(0) // no port is blocked afterwards
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	defer dial().Close()
	running := <-arrived // the others wait behind it
	before := child.ask("memory")
	conns := make([]net.Conn, count)
	for i := range conns {
		conns[i] = dial()
	}
	child.ask("waiting", count)
	parked := child.ask("memory")
	each := (parked - before) / count
	t.Logf("%d parked requests of 1 KiB take %d bytes each (race detector: %v)", count, each, raceDetector())
	most := 12 << 10
	if raceDetector() {
		most *= 2
	}
	if each > most {
		t.Errorf("a parked request takes %d bytes, want at most %d", each, most)
	}
	for _, conn := range conns {
		conn.Close()
	}
	child.ask("waiting", 0)
	after := child.ask("memory")
	// fasthttp keeps the goroutines for ten seconds, in case they are needed.
	t.Logf("before %d KiB, with them %d KiB, right after they left %d KiB", before>>10, parked>>10, after>>10)
	close(running.done)
}

// Mutants: a lane outlives its last ticket; its key stays in some map or metric.
func TestAnIdleKeyTakesNoMemory(t *testing.T) {
	keys, overHTTP := 1_000_000, 10_000
	if raceDetector() {
		keys, overHTTP = 100_000, 2_000
	}
	s := newScript(t, func(x *exchange) { x.ok("") })
	child := startMemoryChild(t, "http://"+s.listenOn())
	check := func(what string, pass func(n int), n int) {
		t.Helper()
		pass(n) // Go's maps grow, to a bound, while keys come and go
		before := child.ask("memory")
		pass(n)
		after := child.ask("memory")
		t.Logf("%d keys %s: %d KiB before, %d KiB after", n, what, before>>10, after>>10)
		if after > before+before/5 {
			t.Errorf("%d keys %s: %d KiB before, %d KiB after", n, what, before>>10, after>>10)
		}
	}
	check("through the lanes", func(n int) { child.ask("keys", n) }, keys)
	conn, err := net.Dial("tcp", child.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	key := 0
	check("over HTTP", func(n int) {
		done := make(chan error, 1)
		go func() { // pipelined
			reader := bufio.NewReader(conn)
			for range n {
				if m, err := readMessage(reader, "POST"); err != nil || m.status() != 200 {
					done <- fmt.Errorf("%+v, %w", m, err)
					return
				}
			}
			done <- nil
		}()
		w := bufio.NewWriter(conn)
		for range n {
			key++
			fmt.Fprintf(w, "POST /orders/%d HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", key)
		}
		w.Flush()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}, overHTTP)
}
