package main

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"time"

	"lanekeeper/loadtest"
)

// clientKind says what a client may expect.
type clientKind uint8

const (
	patient   clientKind = iota // waits, and gets an answer
	pipelined                   // has sent more when an answer ends its connection: that never runs
	large                       // so does this one, but its transfers may be cut by a reset
	quick                       // gives up waiting after a few milliseconds, and is refused then
	rude                        // hangs up
)

func (k clientKind) String() string {
	return [...]string{"patient", "pipelined", "large", "quick", "rude"}[k]
}

// sending is what one group of clients saw.
type sending struct {
	kind   clientKind
	result *loadtest.Result
}

// dialer is a load balancer in front of the nodes that are ready: in turn, or
// always the first whose name is pinned, if it is there.
func (w *world) dialer(host, pinned string) func(context.Context, string) (net.Conn, error) {
	turn := make(chan int, 1)
	turn <- 0
	return func(ctx context.Context, _ string) (net.Conn, error) {
		for {
			w.mu.Lock()
			ready := slices.DeleteFunc(slices.Clone(w.processes), func(p *simProcess) bool { return !p.ready })
			w.mu.Unlock()
			slices.SortFunc(ready, func(a, b *simProcess) int { return strings.Compare(a.name, b.name) })
			n := <-turn
			turn <- n + 1
			if i := slices.IndexFunc(ready, func(p *simProcess) bool { return p.name == pinned }); i >= 0 {
				n = i
			}
			for i := range ready {
				p := ready[(n+i)%len(ready)]
				limited, cancel := context.WithTimeout(ctx, time.Second)
				conn, err := w.network.Dial(limited, host, p.host+":8080")
				cancel()
				if err == nil {
					return conn, nil
				}
			}
			select {
			case <-time.After(5 * time.Millisecond):
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
	}
}

// send runs clients, and returns when they have their answers. A run that is
// cut off by ctx is one of clients that hang up.
func (w *world) send(ctx context.Context, kind clientKind, pinned string, t loadtest.Traffic) {
	host := clientHost
	if kind == rude {
		host = rudeHost
	}
	t.Targets = []string{"http://shop.example"}
	t.Dial, t.Clock = w.dialer(host, pinned), w.clock
	t.Keys, t.Timeout = w.keys, w.answerTimeout
	result, err := t.Run(ctx)
	if err != nil && ctx.Err() == nil {
		w.wrong("clients %s: %v", t.Client, err)
	}
	if result == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.runs = append(w.runs, sending{kind, result})
}

// load runs clients of all kinds until stop is closed; it returns when all have
// been answered.
func (w *world) load(stop <-chan struct{}) {
	if w.named {
		w.names.load(stop)
		return
	}
	var seed uint64
	traffic := func(client string, mode loadtest.Mode, connections int, gap time.Duration) loadtest.Traffic {
		seed++
		return loadtest.Traffic{
			Client: client, Mode: mode, Connections: connections, Gap: gap, Stop: stop,
			PerKey: 100_000, Requests: 100_000, Reads: .15, Seed: w.seed<<8 + seed,
		}
	}
	ctx := context.Background()

	steady := traffic("steady", loadtest.Spaced, 32, w.steadyGap*time.Duration(w.keys))
	piped := traffic("pipelined", loadtest.Pipelined, 2, 12*w.steadyGap)
	piped.Zipf, piped.Depth = 1.3, 6
	hasty := traffic("quick", loadtest.Closed, 2, 10*w.steadyGap)
	hasty.Path = "/quick/{key}"
	uploads := traffic("uploads", loadtest.Closed, 1, 40*w.steadyGap)
	uploads.BodyBytes, uploads.Reads = 100_000, 0
	echoes := traffic("echoes", loadtest.Closed, 1, 40*w.steadyGap)
	echoes.BodyBytes, echoes.Reads, echoes.Headers = 70_000, 0, []string{"Witness-Echo: 1"}

	w.work.Go(func() { w.send(ctx, patient, "", steady) })
	w.work.Go(func() { w.send(ctx, pipelined, w.pinned, piped) })
	w.work.Go(func() { w.send(ctx, quick, "", hasty) })
	w.work.Go(func() { w.send(ctx, large, "", uploads) })
	w.work.Go(func() { w.send(ctx, large, "", echoes) })
	w.work.Go(func() { w.bursts(stop) })
	w.work.Go(func() { w.hangUps(stop) })
}

// burst sends requests of all keys, 200 µs apart.
func (w *world) burst(client string, perKey int) {
	w.send(context.Background(), patient, "", loadtest.Traffic{
		Client: client, Mode: loadtest.Spaced, PerKey: perKey, Gap: 200 * time.Microsecond * time.Duration(w.keys),
		Connections: 24, Reads: .1, Duration: w.patience, Seed: w.seed,
	})
}

const burstsMax = 12

// bursts sends one whenever the view of some node has changed: then partitions
// move.
func (w *world) bursts(stop <-chan struct{}) {
	for n := range burstsMax {
		select {
		case <-w.kick:
		case <-stop:
			return
		}
		name := "burst-" + string(rune('a'+n))
		w.work.Go(func() { w.burst(name, 3) }) // ends with its answers
		select {
		case <-time.After(100 * time.Millisecond):
		case <-stop:
			return
		}
	}
	for { // nobody may wait for it
		select {
		case <-w.kick:
		case <-stop:
			return
		}
	}
}

// errHungUp is why a rude client's connections are closed.
var errHungUp = errors.New("the client hung up")

// hangUps runs clients that hang up before they have all their answers.
func (w *world) hangUps(stop <-chan struct{}) {
	for n := 0; ; n++ {
		select {
		case <-time.After(time.Duration(20+n*37%100) * w.steadyGap / 2):
		case <-stop:
			return
		}
		ctx, cancel := context.WithTimeoutCause(context.Background(), time.Duration(n*700%5000)*time.Microsecond, errHungUp)
		w.send(ctx, rude, "", loadtest.Traffic{
			Client: "rude-" + time.Duration(n).String(), Mode: loadtest.Pipelined, Connections: 1, Depth: 4, Requests: 6, Zipf: 1.5, Seed: w.seed + uint64(n),
		})
		cancel()
	}
}
