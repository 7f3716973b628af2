package proxy_test

import (
	"bufio"
	"cmp"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lanekeeper/proxy"
	"lanekeeper/proxy/upstream"
)

// ledger is what all replicas of a service have run, and when by one clock.
type ledger struct {
	mu      sync.Mutex // guards the rest
	running map[string]string
	last    map[string]string // ticket of each key
	runs    map[string]int    // of each request
	wrong   []string
}

func (l *ledger) begin(key, id, ticket string) {
	if other, busy := l.running[key]; busy {
		l.wrong = append(l.wrong, fmt.Sprintf("%s of %s ran beside %s", id, key, other))
	}
	if ticket <= l.last[key] {
		l.wrong = append(l.wrong, fmt.Sprintf("%s of %s ran after a later ticket", id, key))
	}
	l.running[key], l.last[key] = id, ticket
	if l.runs[id]++; l.runs[id] > 1 {
		l.wrong = append(l.wrong, id+" ran again")
	}
}

// replica is one target, which can be killed and started again at its address.
type replica struct {
	ledger  *ledger
	address string

	listener net.Listener
	conns    map[net.Conn]bool
	mine     map[string]string // keys that it runs
	life     int               // rises with each kill
	wg       sync.WaitGroup
}

// kill ends the replica and all that it is at, in one moment for the ledger: whoever sees a
// connection end knows that the work is over.
func (r *replica) kill() {
	r.ledger.mu.Lock()
	defer r.ledger.mu.Unlock()
	if r.listener == nil {
		return
	}
	r.life++
	for key := range r.mine {
		delete(r.ledger.running, key)
	}
	clear(r.mine)
	r.listener.Close()
	r.listener = nil
	for conn := range r.conns {
		if rand.IntN(2) == 0 {
			conn.(*net.TCPConn).SetLinger(0)
		}
		conn.Close()
	}
	clear(r.conns)
}

func (r *replica) start() error {
	r.ledger.mu.Lock()
	defer r.ledger.mu.Unlock()
	listener, err := net.Listen("tcp", cmp.Or(r.address, "127.0.0.1:0"))
	if err != nil {
		return err
	}
	r.address, r.listener = listener.Addr().String(), listener
	r.conns, r.mine = make(map[net.Conn]bool), make(map[string]string)
	life := r.life
	r.wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			r.ledger.mu.Lock()
			if r.life == life {
				r.conns[conn] = true
				r.wg.Go(func() { r.serve(conn, life) })
			} else {
				conn.Close()
			}
			r.ledger.mu.Unlock()
		}
	})
	return nil
}

// serve runs requests one by one, and now and then closes the connection behind one: at once, or
// after a moment in which it may have got the next.
func (r *replica) serve(conn net.Conn, life int) {
	defer conn.Close()
	reader := bufio.NewReader(conn)
	for {
		request, err := http.ReadRequest(reader)
		if err != nil {
			return
		}
		if request.URL.Path == "/healthz" {
			fmt.Fprint(conn, "HTTP/1.1 204 No Content\r\n\r\n")
			continue
		}
		key, id := request.Header.Get("Lanekeeper-Key"), request.URL.Path
		if !r.locked(life, func() {
			r.mine[key] = id
			r.ledger.begin(key, id, request.Header.Get("Lanekeeper-Ticket"))
		}) {
			return
		}
		time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond)
		if !r.locked(life, func() {
			delete(r.mine, key)
			delete(r.ledger.running, key)
		}) {
			return
		}
		if _, err := fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
			return
		}
		switch rand.IntN(20) {
		case 0:
			return
		case 1:
			time.Sleep(time.Duration(rand.IntN(500)) * time.Microsecond)
			return
		}
	}
}

// locked does what a living replica does.
func (r *replica) locked(life int, does func()) bool {
	r.ledger.mu.Lock()
	defer r.ledger.mu.Unlock()
	if r.life != life {
		return false
	}
	does()
	return true
}

// Replicas are killed and started again while requests of a few keys run. No request is sent twice,
// those of a key run one at a time and in the order of their tickets, whichever replica has them,
// and each answer tells the truth: 200 ran once, "no" did not run, and nothing fails in another
// way than is documented.
//
// Mutants: a request whose outcome is unknown is attempted again at the next target; one whose answer
// broke off is said not to have been sent.
func TestReplicasThatFlap(t *testing.T) {
	for name, change := range map[string]func(*upstream.Config){
		"least pending": func(c *upstream.Config) { c.SlowStart = 20 * time.Millisecond },
		"round robin":   func(c *upstream.Config) { c.Balance, c.MaxConnections = upstream.RoundRobin, 1 },
		"key hash":      func(c *upstream.Config) { c.Balance, c.MaxConnections = upstream.KeyHash, 2 },
		"a limit":       func(c *upstream.Config) { c.Limit = upstream.Limit{Mode: upstream.Fixed, Max: 3} },
		"adaptive":      func(c *upstream.Config) { c.Limit = upstream.Limit{Mode: upstream.Adaptive, Max: 8, Min: 2} },
	} {
		t.Run(name, func(t *testing.T) { flap(t, change) })
	}
}

func flap(t *testing.T, change func(*upstream.Config)) {
	const clients, keys, each = 16, 6, 50
	l := &ledger{running: make(map[string]string), last: make(map[string]string), runs: make(map[string]int)}
	var replicas []*replica
	for range 3 {
		r := &replica{ledger: l}
		if err := r.start(); err != nil {
			t.Fatal(err)
		}
		replicas = append(replicas, r)
	}
	n := startOnSockets(t, newScript(t, nil), func(c *proxy.Config) {
		u := &c.Upstreams[0]
		u.Dial, u.Targets, u.Queue = nil, nil, 100
		for _, r := range replicas {
			u.Targets = append(u.Targets, "http://"+r.address)
		}
		u.Circuit = upstream.Circuit{Failures: 3, OpenFor: 5 * time.Millisecond}
		u.Health = upstream.Health{Path: "/healthz", Interval: 10 * time.Millisecond, Timeout: time.Second, Fall: 1, Rise: 1}
		change(u)
		c.Routes[0].Lane.MaxDepth = clients
		c.Routes[0].Lane.QueueTimeout, c.Routes[0].Lane.UpstreamTimeout = 10*time.Second, 10*time.Second
		c.Routes[0].Lane.Retries = 3 // never for exclusive requests
	})

	var mu sync.Mutex
	answers := make(map[string]*answer)
	var working sync.WaitGroup
	for client := range clients {
		c := n.open()
		c.conn.SetDeadline(time.Now().Add(time.Minute))
		working.Go(func() {
			for i := range each {
				path := fmt.Sprintf("/orders/%d/%d-%d", rand.IntN(keys), client, i)
				a := c.send("POST", path, nil, "x")
				mu.Lock()
				answers[path] = a
				mu.Unlock()
			}
		})
	}
	over := make(chan struct{})
	var chaos sync.WaitGroup
	chaos.Go(func() {
		for {
			select {
			case <-over:
				return
			case <-time.After(time.Duration(rand.IntN(20)) * time.Millisecond):
			}
			r := replicas[rand.IntN(len(replicas))]
			r.kill()
			time.Sleep(time.Duration(rand.IntN(10)) * time.Millisecond)
			for r.start() != nil { // another took its port meanwhile, or it is not free yet
				time.Sleep(time.Millisecond)
			}
		}
	})
	working.Wait()
	close(over)
	chaos.Wait()
	for _, r := range replicas {
		r.kill()
	}

	counts := map[string]int{}
	for path, a := range answers {
		ran := l.runs[path]
		what := strings.TrimSpace(fmt.Sprintf("%d %s %s", a.status, a.slug(), a.problem.Executed))
		counts[what]++
		if a.problem.Executed == "unknown" && ran == 0 {
			counts["unknown, and did not run"]++
		}
		switch {
		case a.status == 200 && ran != 1, a.problem.Executed == "no" && ran != 0, ran > 1:
			l.wrong = append(l.wrong, fmt.Sprintf("%s ran %d times and was answered %s", path, ran, what))
		case !slices.Contains([]string{"200", "502 upstream-connect no", "502 upstream-reset unknown", "503 no-upstream no"}, what):
			l.wrong = append(l.wrong, path+" was answered "+what)
		}
	}
	for i, wrong := range l.wrong {
		if i == 10 {
			break
		}
		t.Error(wrong)
	}
	if len(answers) != clients*each || counts["200"] < len(answers)/4 || counts["200"] == len(answers) {
		t.Errorf("%d requests, so this shows little: %v", len(answers), counts)
	}
	t.Log(counts)
	for _, r := range replicas {
		r.wg.Wait()
	}
}
