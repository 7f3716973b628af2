//go:build linux

package main

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// entry is what the diary says of one event. Times are of the history's clock.
type entry struct {
	name       string
	nodes      []int // whom it happened to
	began, end int64
	struck     int64        // a node was killed, or the store lost its data
	left       map[int]span // nodes that left in order
}

type span struct{ asked, ended int64 }

func (e *entry) String() string {
	var nodes []string
	for _, i := range e.nodes {
		nodes = append(nodes, nodeName(i))
	}
	return fmt.Sprintf("%.3f–%.3f %s %s", float64(e.began)/1e9, float64(e.end)/1e9, e.name, strings.Join(nodes, ", "))
}

// event lets something happen. It claims what it needs, and returns false if that is not
// to be had now: then nothing has happened.
type event func(k *episode, e *entry, r *rand.Rand) bool

// events are all that can happen; those of the store happen to strict clusters.
var events = map[string]event{
	"join or part": joinOrPart, "leave": leave, "rolling restart": rollingRestart,
	"kill": killNode, "stop": stopNode,
	"split": splitNodes, "one-way loss": oneWay, "delay": delayWires, "loss": loseDatagrams, "stall": stallWires,
	"slow upstream": slowUpstream, "lying upstream": lyingUpstream,
	"store restart": storeRestart, "store frozen": storeFrozen, "store lost": storeLost, "store out of reach": storeShut,
}

func ofStore(name string) bool { return strings.HasPrefix(name, "store") }

// often are events that come twice in a deck.
var often = []string{"kill", "stop", "split", "slow upstream", "lying upstream"}

// deck is all events in an order, those that come often twice.
func (k *episode) deck(r *rand.Rand) (names []string) {
	for name := range events {
		tooLong := name == "rolling restart" && k.plan.length < 20*time.Second
		if !tooLong && (!ofStore(name) || k.store != nil) {
			names = append(names, name)
		}
	}
	names = append(names, often...)
	slices.Sort(names) // a map has no order, and the seed shall say what happens
	r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	return names
}

// happen lets one thing happen after the other, at most two at a time, and returns when
// all is over.
func (k *episode) happen() {
	r := rand.New(rand.NewPCG(k.plan.seed*0x9e3779b97f4a7c15, 1))
	var going sync.WaitGroup
	places := make(chan struct{}, 2)
	var deck []string
	for until := time.Now().Add(k.plan.length); time.Now().Before(until); {
		<-time.After(time.Duration(300+r.IntN(2200)) * time.Millisecond)
		if len(deck) == 0 {
			deck = k.deck(r)
		}
		name := deck[0]
		deck = deck[1:]
		own := rand.New(rand.NewPCG(r.Uint64(), 2))
		places <- struct{}{}
		going.Go(func() { // ends with its event
			defer func() { <-places }()
			e := &entry{name: name, began: k.history.Clock().Now(), left: make(map[int]span)}
			if !events[name](k, e, own) {
				return
			}
			e.end = k.history.Clock().Now()
			k.mu.Lock()
			defer k.mu.Unlock()
			k.diary = append(k.diary, e)
		})
	}
	going.Wait()
}

// claim takes something for an event alone, if it is free; free gives it back.
func (k *episode) claim(what string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.busy[what] {
		return false
	}
	k.busy[what] = true
	return true
}

func (k *episode) free(what string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.busy, what)
}

// claimNode takes a node that is up, -1 if there is none.
func (k *episode) claimNode(r *rand.Rand) int {
	for _, i := range r.Perm(len(k.nodes)) {
		if k.isUp(i) && k.claim(nodeName(i)) {
			return i
		}
	}
	return -1
}

func (k *episode) isUp(i int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.up[i]
}

func (k *episode) setUp(i int, up bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.up[i] = up
}

// somewhat is how long something lasts: half of an episode at most.
func (k *episode) somewhat(r *rand.Rand, most time.Duration) time.Duration {
	return 500*time.Millisecond + time.Duration(r.Int64N(int64(min(most, k.plan.length/2))))
}

// onNode does something to a node that nothing else is done to.
func (k *episode) onNode(e *entry, r *rand.Rand, do func(i int)) bool {
	i := k.claimNode(r)
	if i < 0 {
		return false
	}
	defer k.free(nodeName(i))
	e.nodes = []int{i}
	do(i)
	return true
}

// terminate ends a node as an operator does.
func (k *episode) terminate(e *entry, i int) {
	asked := k.history.Clock().Now()
	k.nodes[i].signal(syscall.SIGTERM)
	k.nodes[i].wait()
	k.over(i)
	e.left[i] = span{asked, k.history.Clock().Now()}
}

// joinOrPart has one more node join, or leave for good.
func joinOrPart(k *episode, e *entry, r *rand.Rand) bool {
	i := k.plan.nodes
	if !k.claim(nodeName(i)) {
		return false
	}
	defer k.free(nodeName(i))
	e.nodes = []int{i}
	if k.isUp(i) {
		e.name = "part"
		k.terminate(e, i)
		k.setUp(i, false)
		return true
	}
	e.name = "join"
	k.launch(i)
	k.setUp(i, true)
	k.awaitReady(i)
	return true
}

// awaitReady gives a node some time to be ready. It need not succeed: much else happens.
func (k *episode) awaitReady(i int) {
	client := k.n.client(time.Second)
	for until := time.Now().Add(10 * time.Second); time.Now().Before(until); <-time.After(50 * time.Millisecond) {
		response, err := client.Get("http://" + k.n.address(i) + ":7941/readyz")
		if err != nil {
			continue
		}
		response.Body.Close()
		if response.StatusCode == 200 {
			return
		}
	}
}

func leave(k *episode, e *entry, r *rand.Rand) bool {
	return k.onNode(e, r, func(i int) {
		k.terminate(e, i)
		<-time.After(k.somewhat(r, 3*time.Second))
		k.launch(i)
		k.awaitReady(i)
	})
}

// rollingRestart needs all nodes.
func rollingRestart(k *episode, e *entry, r *rand.Rand) bool {
	var claimed []int
	defer func() {
		for _, i := range claimed {
			k.free(nodeName(i))
		}
	}()
	for i := range k.nodes {
		if !k.claim(nodeName(i)) {
			return false
		}
		claimed = append(claimed, i)
	}
	for _, i := range r.Perm(len(k.nodes)) {
		if k.isUp(i) {
			e.nodes = append(e.nodes, i)
			k.terminate(e, i)
			k.launch(i)
			k.awaitReady(i)
		}
	}
	return true
}

func killNode(k *episode, e *entry, r *rand.Rand) bool {
	return k.onNode(e, r, func(i int) {
		k.kill(i)
		k.over(i)
		e.struck = k.history.Clock().Now()
		<-time.After(k.somewhat(r, 5*time.Second))
		k.launch(i)
		k.awaitReady(i)
	})
}

// stopNode has a process stand still, most times for longer than others wait or a lease
// lasts, and now and then for 30 s.
func stopNode(k *episode, e *entry, r *rand.Rand) bool {
	return k.onNode(e, r, func(i int) {
		d := k.somewhat(r, 8*time.Second)
		if r.IntN(8) == 0 && k.plan.length >= time.Minute {
			d = 30 * time.Second
		}
		if r.IntN(3) == 0 {
			k.starve(e, i, d, r)
			return
		}
		k.nodes[i].signal(syscall.SIGSTOP)
		<-time.After(d)
		k.nodes[i].signal(syscall.SIGCONT)
	})
}

// starve has a process stand still again and again, each time for less than it notices, and
// run for moments in between. It is too slow for gossip then.
func (k *episode) starve(e *entry, i int, d time.Duration, r *rand.Rand) {
	e.name = "starve"
	for until := time.Now().Add(d); time.Now().Before(until); {
		k.nodes[i].signal(syscall.SIGSTOP)
		<-time.After(time.Duration(900+r.IntN(500)) * time.Millisecond)
		k.nodes[i].signal(syscall.SIGCONT)
		<-time.After(time.Duration(20+r.IntN(40)) * time.Millisecond)
	}
}

// sides divides the nodes: a few, less than half of them, and the others.
func (k *episode) sides(e *entry, r *rand.Rand) (few, others []int) {
	order := r.Perm(len(k.nodes))
	slices.SortStableFunc(order, func(a, b int) int { // who is not there comes last
		return cmp.Compare(awayness(k.isUp(a)), awayness(k.isUp(b)))
	})
	n := 1 + r.IntN((k.plan.nodes-1)/2)
	e.nodes = order[:n]
	return order[:n], order[n:]
}

func awayness(up bool) int {
	if up {
		return 0
	}
	return 1
}

// between are troubles from some nodes to others, and back if both is true.
func between(from, to []int, both bool, like trouble) (all []*trouble) {
	for _, i := range from {
		for _, j := range to {
			there, back := like, like
			there.from, there.to, back.from, back.to = i, j, j, i
			if all = append(all, &there); both {
				all = append(all, &back)
			}
		}
	}
	return all
}

// splitNodes cuts a few nodes off from the others, but not from clients and the service, and
// from the store in one case of two.
func splitNodes(k *episode, e *entry, r *rand.Rand) bool {
	few, others := k.sides(e, r)
	if r.IntN(2) == 0 && k.doors != nil {
		for _, i := range few {
			k.doors[i].close()
			defer k.doors[i].open()
		}
	}
	defer k.wires.suffer(between(few, others, true, trouble{cut: true})...)()
	<-time.After(k.somewhat(r, 10*time.Second))
	return true
}

// oneWay loses what a few nodes say to the others, or the others to them.
func oneWay(k *episode, e *entry, r *rand.Rand) bool {
	few, others := k.sides(e, r)
	if r.IntN(2) == 0 {
		few, others = others, few
	}
	defer k.wires.suffer(between(few, others, false, trouble{cut: true})...)()
	<-time.After(k.somewhat(r, 8*time.Second))
	return true
}

// stallWires holds everything up between a few nodes and the others; then it arrives.
func stallWires(k *episode, e *entry, r *rand.Rand) bool {
	few, others := k.sides(e, r)
	d := k.somewhat(r, 5*time.Second)
	defer k.wires.suffer(between(few, others, r.IntN(2) == 0, trouble{until: time.Now().Add(d)})...)()
	<-time.After(d)
	return true
}

func delayWires(k *episode, e *entry, r *rand.Rand) bool {
	few, others := k.sides(e, r)
	delay := time.Duration(5+r.IntN(95)) * time.Millisecond
	defer k.wires.suffer(between(few, others, true, trouble{delay: delay})...)()
	<-time.After(k.somewhat(r, 8*time.Second))
	return true
}

// loseDatagrams loses, doubles and disorders gossip between all nodes.
func loseDatagrams(k *episode, e *entry, r *rand.Rand) bool {
	all := make([]int, len(k.nodes))
	for i := range all {
		all[i] = i
	}
	bad := trouble{lose: 0.3 * r.Float64(), double: 0.1, disorder: 0.2, jitter: 200 * time.Millisecond}
	defer k.wires.suffer(between(all, all, false, bad)...)()
	<-time.After(k.somewhat(r, 8*time.Second))
	return true
}

func slowUpstream(k *episode, e *entry, r *rand.Rand) bool {
	for range 1 + r.IntN(2) {
		k.callSlowly(r.IntN(k.plan.nodes), r)
	}
	return true
}

func lyingUpstream(k *episode, e *entry, r *rand.Rand) bool {
	if !k.claim("upstream") {
		return false
	}
	defer k.free("upstream")
	k.share.Store(1 + r.Int64N(50))
	defer k.share.Store(0)
	<-time.After(k.somewhat(r, 5*time.Second))
	return true
}

// onStore does something to the store that nothing else is done to.
func (k *episode) onStore(do func()) bool {
	if !k.claim("store") {
		return false
	}
	defer k.free("store")
	do()
	return true
}

// storeRestart restarts it with what it had on disk. A redis that keeps nothing there
// has lost its data.
func storeRestart(k *episode, e *entry, r *rand.Rand) bool {
	return k.onStore(func() {
		k.store.Kill()
		<-time.After(k.somewhat(r, 6*time.Second))
		k.store.Start()
	})
}

func storeFrozen(k *episode, e *entry, r *rand.Rand) bool {
	return k.onStore(func() {
		k.store.Freeze()
		<-time.After(k.somewhat(r, 8*time.Second))
		k.store.Thaw()
	})
}

func storeLost(k *episode, e *entry, r *rand.Rand) bool {
	return k.onStore(func() {
		k.store.Kill()
		e.struck = k.history.Clock().Now()
		k.store.StartEmpty()
	})
}

// storeShut keeps one node from the store.
func storeShut(k *episode, e *entry, r *rand.Rand) bool {
	i := r.IntN(k.plan.nodes)
	e.nodes = []int{i}
	k.doors[i].close()
	defer k.doors[i].open()
	<-time.After(k.somewhat(r, 8*time.Second))
	return true
}
