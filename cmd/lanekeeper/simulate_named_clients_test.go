package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// named is what the clients of the named simulation do and see. They have two habits.
// A caller gives each of its operations an Idempotency-Key, and sends it again and again,
// to any node, until it has an answer that is for good. A producer numbers its
// operations, sends some at once and each as long, and begins a new epoch now and then,
// when not all of the old one may have been answered.
type named struct {
	world     *world
	registers *registers
	clients   sync.WaitGroup
	given     context.Context // ends when nobody may take any longer
	giveUp    context.CancelFunc

	mu         sync.Mutex // guards the rest, and what hangs on operations
	random     *rand.Rand
	operations []*operation
	byName     map[string]*operation
}

// operation is what a client wants to be run once.
type operation struct {
	name, key string
	read      bool
	keyed     bool   // has an Idempotency-Key
	producer  string // "": it is not numbered
	epoch     uint64
	seq       uint64
	attempts  []*attempt
	overAt    int64 // when its client was answered for good, or has given up; 0: not yet
}

// attempt is one sending of an operation.
type attempt struct {
	operation      *operation
	name           string
	sent, answered int64 // answered: 0 if it was not
	status         int
	slug, executed string // of an answer of lanekeeper's own
	body           string
	err            string
}

func newNamed(w *world) *named {
	n := &named{world: w, registers: newRegisters(w.service, w.clock), random: rand.New(rand.NewPCG(w.seed, 0x6e616d)), byName: make(map[string]*operation)}
	n.given, n.giveUp = context.WithCancel(context.Background())
	return n
}

// draw is a number below most.
func (n *named) draw(most int) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.random.IntN(most)
}

// nap sleeps for less than most.
func (n *named) nap(most time.Duration) {
	timer := time.NewTimer(time.Duration(n.draw(int(most))))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-n.given.Done():
	}
}

func (n *named) key() string { return fmt.Sprint(n.draw(n.world.keys)) }

func (n *named) add(o *operation) *operation {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.operations = append(n.operations, o)
	n.byName[o.name] = o
	return o
}

// load runs clients until stop is closed.
func (n *named) load(stop <-chan struct{}) {
	for i := range n.world.callers {
		n.clients.Go(func() { n.call(fmt.Sprintf("caller%d", i), stop) })
	}
	for i := range n.world.producers {
		n.clients.Go(func() { n.produce(fmt.Sprintf("producer%d", i), stop) })
	}
	for i := range 2 {
		n.clients.Go(func() { n.look(fmt.Sprintf("reader%d", i), stop) })
	}
}

// finish waits for the clients, which have begun nothing new since they were told to stop.
func (n *named) finish() {
	over := make(chan struct{})
	go func() { // ends with the clients, who end at the latest when they are to give up
		n.clients.Wait()
		close(over)
	}()
	select {
	case <-over:
		return
	case <-time.After(5 * n.world.answerTimeout):
	}
	n.mu.Lock()
	var stuck []string
	for _, o := range n.operations {
		if o.overAt == 0 {
			stuck = append(stuck, fmt.Sprintf("%s of order:%s", o.name, o.key))
		}
	}
	n.mu.Unlock()
	n.world.wrong("%d operations have no end: %v", len(stuck), stuck[:min(len(stuck), 5)])
	n.giveUp()
	<-over
}

func stopped(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return true
	default:
		return false
	}
}

// call is the life of a caller.
func (n *named) call(name string, stop <-chan struct{}) {
	for i := 1; !stopped(stop); i++ {
		o := n.add(&operation{name: fmt.Sprintf("%s-%d", name, i), key: n.key(), keyed: true})
		n.insist(o, nil)
		n.remind(o)
		n.nap(n.world.gap)
	}
}

// look is the life of a reader.
func (n *named) look(name string, stop <-chan struct{}) {
	for i := 1; !stopped(stop); i++ {
		o := n.add(&operation{name: fmt.Sprintf("%s-%d", name, i), key: n.key(), read: true})
		n.send(o, n.world.answerTimeout)
		n.end(o)
		n.nap(n.world.gap)
	}
}

// produce is the life of a producer: one epoch after the other.
func (n *named) produce(name string, stop <-chan struct{}) {
	key, keyed := n.key(), n.draw(4) == 0
	for epoch := uint64(0); !stopped(stop); epoch++ {
		e := &epochOf{named: n, sending: make(chan struct{}, 1+n.draw(6)), lost: make(chan struct{})}
		last := uint64(5 + n.draw(40))
		for seq := uint64(1); seq <= last && !stopped(stop) && !stopped(e.lost); seq++ {
			e.sending <- struct{}{}
			o := n.add(&operation{name: fmt.Sprintf("%s-%d-%d", name, epoch, seq), key: key, producer: name, epoch: epoch, seq: seq, keyed: keyed})
			e.begun(o)
			n.clients.Go(func() {
				if n.nap(n.world.gap); n.draw(20) == 0 {
					n.nap(2 * time.Second) // the others wait for it
				}
				n.insist(o, e)
				<-e.sending
				n.remind(o)
			})
			n.nap(n.world.gap / 2)
		}
		if n.draw(2) == 0 {
			continue // the old one is at work still
		}
		for range cap(e.sending) {
			e.sending <- struct{}{}
		}
	}
}

// epochOf is a producer's.
type epochOf struct {
	*named
	sending chan struct{} // one for each number on its way
	numbers []*operation  // guarded by mu
	once    sync.Once     // for lost
	lost    chan struct{}
}

func (e *epochOf) begun(o *operation) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.numbers = append(e.numbers, o)
}

// hopeless reports whether an operation is to wait for numbers that are all over.
func (e *epochOf) hopeless(o *operation, a *attempt) bool {
	if e == nil || a.slug != "sequence-gap" && a.slug != "sequence-unknown" {
		return false
	}
	if stopped(e.lost) {
		return true
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return !slices.ContainsFunc(e.numbers[:o.seq-1], func(before *operation) bool { return before.overAt == 0 || before.overAt > a.sent })
}

// insist sends an operation until it is answered for good. Where marks may be lost, a
// producer that is told again and again that numbers are missing which it knows to be
// done begins anew.
func (n *named) insist(o *operation, e *epochOf) {
	defer n.end(o)
	hopeless := 0
	for backoff := 10 * time.Millisecond; n.given.Err() == nil; backoff = min(2*backoff, 500*time.Millisecond) {
		patience := n.world.answerTimeout
		if n.draw(5) == 0 {
			patience = time.Duration(1+n.draw(100)) * time.Millisecond
		}
		if n.draw(6) == 0 {
			n.clients.Go(func() { n.send(o, n.world.answerTimeout) })
		}
		a := n.send(o, patience)
		if a.final() {
			return
		}
		if e.hopeless(o, a) {
			if hopeless++; (hopeless == 2 || stopped(e.lost)) && !n.world.planned {
				e.once.Do(func() { close(e.lost) })
				n.world.tally.add(sawForgotten, 1)
				return
			}
		}
		n.nap(2 * backoff)
	}
}

// remind sends some operations once more, later: what had an answer has the same one then.
func (n *named) remind(o *operation) {
	if n.draw(3) > 0 {
		return
	}
	n.clients.Go(func() {
		n.nap(4 * time.Second)
		for range 3 { // marks may be lost, and then there is no answer
			if n.given.Err() != nil || n.send(o, n.world.answerTimeout).final() {
				return
			}
			n.nap(time.Second)
		}
	})
}

func (n *named) end(o *operation) {
	n.mu.Lock()
	defer n.mu.Unlock()
	o.overAt = n.world.clock.Now()
}

// final reports whether a client has nothing to gain by sending it again.
func (a *attempt) final() bool {
	switch a.status {
	case 0, 429, 502, 503, 504:
		return false
	case 409:
		return !slices.Contains([]string{"idempotency-in-progress", "sequence-gap", "sequence-unknown"}, a.slug)
	}
	return true
}

// send sends an operation once, over a connection of its own.
func (n *named) send(o *operation, patience time.Duration) *attempt {
	n.mu.Lock()
	a := &attempt{operation: o, name: fmt.Sprintf("%s/%d", o.name, len(o.attempts)+1), sent: n.world.clock.Now()}
	o.attempts = append(o.attempts, a)
	host := []string{clientHost, clientHost, clientHost, rudeHost}[n.random.IntN(4)] // some connections are reset
	through := nodeName(n.random.IntN(nodesMax))
	n.mu.Unlock()
	ctx, cancel := context.WithTimeout(n.given, patience)
	defer cancel()
	status, body, err := n.exchange(ctx, o, a.name, host, through)
	n.mu.Lock()
	defer n.mu.Unlock()
	if err != nil {
		a.err = err.Error()
		return a
	}
	a.status, a.body, a.answered = status, body, n.world.clock.Now()
	var problem struct{ Type, Executed string }
	if json.Unmarshal([]byte(body), &problem) == nil {
		a.slug, a.executed = strings.TrimPrefix(problem.Type, "urn:lanekeeper:problem:"), problem.Executed
	}
	return a
}

func (n *named) exchange(ctx context.Context, o *operation, attempt, host, through string) (int, string, error) {
	conn, err := n.world.dialer(host, through)(ctx, "")
	if err != nil {
		return 0, "", err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	method, body := http.MethodPut, o.name
	if o.read {
		method, body = http.MethodGet, ""
	}
	request, err := http.NewRequest(method, "http://shop.example/orders/"+o.key, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	request.Header.Set("Sim-Operation", o.name)
	request.Header.Set("Sim-Attempt", attempt)
	if o.keyed {
		request.Header.Set("Idempotency-Key", o.name)
	}
	if o.producer != "" {
		request.Header.Set("Lanekeeper-Producer", fmt.Sprintf("%s;epoch=%d", o.producer, o.epoch))
		request.Header.Set("Lanekeeper-Seq", fmt.Sprint(o.seq))
	}
	if err := request.Write(conn); err != nil {
		return 0, "", err
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), request)
	if err != nil {
		return 0, "", err
	}
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}
