package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"lanekeeper/loadtest"
)

// registers are the service of the named simulation: a register for each key. A write
// answers with what it replaces; it reads when it begins and writes when it ends, so
// that whoever runs two at once loses one. And it lets go wrong what can go wrong
// between a service and who calls it.
type registers struct {
	clock  *loadtest.Clock
	config loadtest.WitnessConfig

	mu     sync.Mutex // guards the rest
	random *rand.Rand
	values map[string]string
	runs   []*arrival // in the order of their starts
}

// arrival is a request that came.
type arrival struct {
	key, operation, attempt, process string
	read                             bool
	start, end                       int64
	fate                             fate
	value                            string // read, or replaced
	answer                           string // the body
}

// fate is what becomes of a run.
type fate uint8

const (
	answered fate = iota
	refused       // 503, and nothing done
	broken        // the connection ends before anything is done
	silent        // done, and the connection ends without an answer
	garbled       // done, and the answer is no HTTP
)

func (f fate) String() string {
	return [...]string{"answered", "refused", "broken", "silent", "garbled"}[f]
}

func newRegisters(config loadtest.WitnessConfig, clock *loadtest.Clock) *registers {
	return &registers{
		clock: clock, config: config, random: rand.New(rand.NewPCG(config.Seed, 0x726567)), values: make(map[string]string),
	}
}

func (r *registers) begin(request *http.Request, process string) (*arrival, time.Duration) {
	now := &arrival{
		key: strings.TrimPrefix(request.URL.Path, "/orders/"), operation: request.Header.Get("Sim-Operation"), attempt: request.Header.Get("Sim-Attempt"),
		process: process, read: request.Method == http.MethodGet,
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delay := r.config.Delay + time.Duration(r.random.Int64N(int64(r.config.Jitter)))
	if r.random.Float64() < r.config.SlowShare {
		delay += r.config.SlowDelay
	}
	if n := r.random.IntN(100); !now.read && n < 7 {
		now.fate = [...]fate{refused, refused, refused, broken, broken, silent, garbled}[n]
	}
	if now.fate == refused {
		delay = time.Millisecond // a refusal that comes too late is one that nobody has heard
	}
	now.start, now.value = r.clock.Now(), r.values[now.key]
	r.runs = append(r.runs, now)
	now.answer = fmt.Sprintf(`{"run":%d,"operation":%q,"value":%q}`, len(r.runs), now.operation, now.value)
	return now, delay
}

func (r *registers) finish(now *arrival) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now.end = r.clock.Now()
	if !now.read && now.fate != refused && now.fate != broken {
		r.values[now.key] = now.operation
	}
}

// counter is where one process reaches the registers.
type counter struct {
	registers *registers
	process   string

	wg       sync.WaitGroup
	mu       sync.Mutex // guards the rest
	listener net.Listener
	conns    map[net.Conn]bool
	stopped  bool
}

// Start implements simUpstream.
func (c *counter) Start(listener net.Listener) error {
	c.listener, c.conns = listener, make(map[net.Conn]bool)
	c.wg.Go(func() { // ends with the listener
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			c.mu.Lock()
			c.conns[conn] = true
			if c.stopped {
				conn.Close()
			}
			c.mu.Unlock()
			c.wg.Go(func() { c.serve(conn) }) // ends with the connection
		}
	})
	return nil
}

// Stop implements simUpstream.
func (c *counter) Stop(context.Context) error {
	c.mu.Lock()
	c.stopped = true
	c.listener.Close()
	for conn := range c.conns {
		conn.Close()
	}
	c.mu.Unlock()
	c.wg.Wait()
	return nil
}

func (c *counter) serve(conn net.Conn) {
	defer func() {
		conn.Close()
		c.mu.Lock()
		delete(c.conns, conn)
		c.mu.Unlock()
	}()
	for in := bufio.NewReader(conn); ; {
		request, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, request.Body); err != nil {
			return
		}
		now, delay := c.registers.begin(request, c.process)
		time.Sleep(delay)
		c.registers.finish(now)
		switch status := "200 OK"; now.fate {
		case refused:
			status = "503 Service Unavailable"
			fallthrough
		case answered:
			_, err = fmt.Fprintf(conn, "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", status, len(now.answer), now.answer)
		case garbled:
			io.WriteString(conn, "HTTP/1.1 what\r\n\r\n")
			return
		default:
			return
		}
		if err != nil {
			return
		}
	}
}
