package loadtest

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// dispatcher is as small a dispatcher as there can be, with a lane for each key, and, if
// it is told so, a bug that a real one might have.
type dispatcher struct {
	bug     string
	host    host
	client  fasthttp.HostClient
	tickets Tickets

	mu    sync.Mutex // guards lanes
	lanes map[string]*dispatcherLane
}

type dispatcherLane struct {
	busy    bool
	waiting []chan struct{}
}

func newDispatcher(bug, target string) *dispatcher {
	d := &dispatcher{bug: bug, lanes: make(map[string]*dispatcherLane)}
	d.client = fasthttp.HostClient{Addr: strings.TrimPrefix(target, "http://"), MaxConns: 256, MaxIdemponentCallAttempts: 1, MaxIdleConnDuration: 20 * time.Millisecond,
		Dial: func(address string) (net.Conn, error) { return net.DialTimeout("tcp", address, 3*time.Second) }}
	d.host.init(d.serve)
	return d
}

func (d *dispatcher) Start(ln net.Listener) error { return d.host.start(ln) }

func (d *dispatcher) Stop(ctx context.Context) error {
	defer d.client.CloseIdleConnections()
	return d.host.stop(ctx)
}

func (d *dispatcher) serve(ctx *fasthttp.RequestCtx) {
	key := string(ctx.Request.Header.Peek("X-Order-Id"))
	ctx.Request.Header.Set("Lanekeeper-Ticket", d.enter(key))
	if d.bug == "a turn ends after a while" {
		freed := time.AfterFunc(2*time.Millisecond, func() { d.leave(key) })
		defer func() {
			if freed.Stop() {
				d.leave(key)
			}
		}()
	} else {
		defer d.leave(key)
	}
	if err := d.client.Do(&ctx.Request, &ctx.Response); err != nil {
		ctx.Error(err.Error(), fasthttp.StatusBadGateway)
	}
}

// enter waits for the turn of a request, and returns the ticket that it had before.
func (d *dispatcher) enter(key string) (ticket string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	lane := d.lanes[key]
	if lane == nil {
		lane = &dispatcherLane{}
		d.lanes[key] = lane
	}
	for ticket = d.tickets.Next(); lane.busy; {
		turn := make(chan struct{})
		lane.waiting = append(lane.waiting, turn)
		d.mu.Unlock()
		<-turn
		d.mu.Lock()
		if d.bug != "whoever comes first" {
			return ticket // the lane is its own already
		}
	}
	lane.busy = true
	return ticket
}

func (d *dispatcher) leave(key string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	lane := d.lanes[key]
	if len(lane.waiting) == 0 {
		lane.busy = false
		return
	}
	i := 0
	switch d.bug {
	case "the newest first":
		i = len(lane.waiting) - 1
	case "whoever comes first":
		lane.busy = false
	}
	close(lane.waiting[i])
	lane.waiting = append(lane.waiting[:i], lane.waiting[i+1:]...)
}

// TestSeededBugsAreSeen has Check judge a dispatcher that is right, and the same with each
// of three bugs: from the two ends, as it judges lanekeeper. Without one, nothing is
// found: a checker that always found something would be no better than one that never does.
func TestSeededBugsAreSeen(t *testing.T) {
	for _, test := range []struct {
		bug  string
		seen Kind
	}{
		{"", ""},
		{"the newest first", TicketInversion},
		{"whoever comes first", TicketInversion}, // is served, though others wait
		{"a turn ends after a while", Overlap},
	} {
		t.Run(strings.ReplaceAll("bug="+test.bug, " ", "-"), func(t *testing.T) {
			history := NewHistory(NewClock(), 100_000)
			witness := startWitness(t, WitnessConfig{Jitter: 3 * time.Millisecond, Seed: 1}, history)
			url := start(t, newDispatcher(test.bug, witness))
			traffic := Traffic{Targets: []string{url}, Clock: history.Clock(), Mode: Closed, Keys: 4, Connections: 32, Requests: 1000, Seed: 1}
			result, err := traffic.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			evidence := history.Evidence()
			evidence.Sent = result.Sent
			report := Check(evidence, Rules{})
			if result.OK != 1000 {
				t.Errorf("statuses %v", result.Statuses())
			}
			if report.OK() != (test.bug == "") || test.bug != "" && report.Count(test.seen) == 0 {
				t.Errorf("want findings of %q, got\n%s", test.seen, report)
			}
		})
	}
}
