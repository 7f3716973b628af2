package queue

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// TestHeatOfRandomHistories runs random requests through random lanes with
// random rules and holds, after each step, what is hot and why against a twin that
// keeps the whole history and works it all out anew: see heatTwin. The mutants
// of heat must turn it red.
func TestHeatOfRandomHistories(t *testing.T) {
	var rare [4]int // became hot, cooled, was hot without a ticket, was shed
	for seed := range uint64(400) {
		synctest.Test(t, func(t *testing.T) { heatHistory(t, seed, &rare) })
	}
	for i, n := range rare {
		if n < 50 {
			t.Errorf("rare path %d was taken %d times only", i, n)
		}
	}
}

// happening is one line of a history: what is true of a key after a step, and
// what the step was to it.
type happening struct {
	at              time.Duration
	depth, bytes    int
	running         int
	blocked         bool
	queued, total   int // waiting at the node, and their bytes
	looked          bool
	admitted, waits bool
	cooled, sealed  bool
	rule            *HotRule
}

type heatTwin struct {
	t       *testing.T
	lanes   *Lanes
	keys    []string
	history map[string][]happening
	tickets map[string][]*Ticket
	rare    *[4]int
}

func (w *heatTwin) partition(key string) int {
	if w.lanes.config.Partitions == 0 {
		return 0
	}
	return int(key[0]-'a') % 2 * shardCount // of one shard
}

// now is the state of a key as existing snapshots show it.
func (w *heatTwin) now(key string) happening {
	s, _ := w.lanes.Lane(w.partition(key), []byte(key))
	return happening{at: w.lanes.now(), depth: s.Depth, bytes: s.Bytes, running: s.Running, blocked: s.Blocked}
}

// happened adds a line to the history of a key, and checks every key.
func (w *heatTwin) happened(of func(key string) bool, what happening) {
	queued, total := 0, 0
	for _, key := range w.keys {
		now := w.now(key)
		queued, total = queued+now.depth, total+now.bytes
	}
	for _, key := range w.keys {
		if !of(key) {
			continue
		}
		line, now := what, w.now(key)
		line.at, line.depth, line.bytes, line.running, line.blocked = now.at, now.depth, now.bytes, now.running, now.blocked
		line.queued, line.total = queued, total
		w.history[key] = append(w.history[key], line)
	}
	w.agree(queued, total)
}

// verdict is what a history comes to.
type verdict struct {
	watched, hot bool
	born         int // the line
	since        time.Duration
	rule         *HotRule
	slot         time.Duration
	flips        uint64
}

type opinion struct {
	at  time.Duration
	hot bool
}

func (w *heatTwin) judge(history []happening) (v verdict) {
	var opinions []opinion // since the last flip
	for i, line := range history {
		if !v.watched && line.waits && line.rule != nil && large(line.rule, line, 0.5) {
			v.watched, v.born, v.slot = true, i, max(line.rule.For/8, time.Millisecond)
			opinions = nil
		}
		if line.sealed && v.watched {
			if v.hot {
				v.flips++
			}
			v.watched, v.hot = false, false
		}
		if !v.watched {
			continue
		}
		if line.rule != nil {
			v.rule = line.rule
		}
		if line.looked {
			share, patience := 1.0, v.rule.For
			if v.hot {
				share, patience = 0.5, v.rule.CoolAfter
			}
			busy, rate := v.window(history[:i+1], line.at)
			opinions = append(opinions, opinion{line.at, large(v.rule, line, share) && portion(line) >= share*v.rule.Share &&
				busy >= v.rule.Busy && rate >= v.rule.Rate})
			if against := unbroken(opinions, !v.hot); against >= 0 && against >= patience {
				v.hot, v.since, opinions = !v.hot, line.at, nil
				v.flips++
			}
		}
		empty := line.depth == 0 && line.running == 0 && !line.blocked
		if !v.hot && (empty || line.cooled && !large(v.rule, line, 0.5)) {
			v.watched = false
		}
	}
	return v
}

func large(rule *HotRule, line happening, part float64) bool {
	return rule.Depth > 0 && float64(line.depth) >= part*float64(rule.Depth) ||
		rule.Bytes > 0 && float64(line.bytes) >= part*float64(rule.Bytes)
}

func portion(line happening) float64 {
	var tickets, bytes float64
	if line.queued > 0 {
		tickets = float64(line.depth) / float64(line.queued)
	}
	if line.total > 0 {
		bytes = float64(line.bytes) / float64(line.total)
	}
	return max(tickets, bytes)
}

// unbroken is for how long every opinion has been the same, up to the last; less
// than zero if the last is not.
func unbroken(opinions []opinion, hot bool) time.Duration {
	last := len(opinions) - 1
	first := last + 1
	for first > 0 && opinions[first-1].hot == hot {
		first--
	}
	if first > last {
		return -1
	}
	return opinions[last].at - opinions[first].at
}

// window goes through all that happened since the watch began.
func (v *verdict) window(history []happening, now time.Duration) (busy, rate float64) {
	begin := max(history[v.born].at, (now/v.slot-8)*v.slot)
	var turns time.Duration
	admitted := 0
	for i := v.born; i < len(history); i++ {
		until := now
		if i+1 < len(history) {
			until = history[i+1].at
		}
		if from := max(history[i].at, begin); history[i].running > 0 && until > from {
			turns += until - from
		}
		if history[i].admitted && history[i].at >= begin {
			admitted++
		}
	}
	length := now - begin
	if length == 0 {
		busy = float64(min(history[len(history)-1].running, 1))
	} else {
		busy = float64(turns) / float64(length)
	}
	return busy, float64(admitted) / max(length, v.slot).Seconds()
}

// agree holds the lanes against the verdicts.
func (w *heatTwin) agree(queued, total int) {
	w.t.Helper()
	hot, flips, watched := map[string]HotKey{}, uint64(0), int64(0)
	for _, h := range w.lanes.Hot() {
		hot[h.Key] = h
	}
	for _, key := range w.keys {
		history := w.history[key]
		v := w.judge(history)
		flips += v.flips
		if v.watched {
			watched++
		}
		h, ok := hot[key]
		if ok != v.hot {
			w.t.Fatalf("%s: hot is %v, want %v", key, ok, v.hot)
		}
		if !ok {
			continue
		}
		now := w.now(key)
		now.queued, now.total = queued, total
		busy, rate := v.window(history, now.at)
		want := Heat{
			Depth: now.depth, Bytes: now.bytes, Busy: busy, Share: portion(now), Rate: rate,
			Service: h.Service, Since: w.lanes.started.Add(v.since),
		}
		if h.Heat != want || h.Partition != w.partition(key) {
			w.t.Fatalf("%s: %+v, want %+v", key, h, want)
		}
		if now.depth+now.running == 0 {
			w.rare[2]++
		}
	}
	if got := w.lanes.heats.Load(); got != watched {
		w.t.Fatalf("%d watched, want %d", got, watched)
	}
	if got := w.lanes.flips.Load(); got != flips {
		w.t.Fatalf("%d flips, want %d", got, flips)
	}
}

func heatHistory(t *testing.T, seed uint64, rare *[4]int) {
	defer func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}()
	rng := rand.New(rand.NewPCG(seed, 1))
	config := roomy
	if rng.IntN(2) == 0 {
		config.Partitions = 2 * shardCount
	}
	l := New(config)
	if rng.IntN(4) == 0 {
		l.collide()
	}
	w := &heatTwin{t: t, lanes: l, keys: []string{"a", "b", "c"}[:1+rng.IntN(3)],
		history: map[string][]happening{}, tickets: map[string][]*Ticket{}, rare: rare}
	rules := []*HotRule{randomRule(rng), randomRule(rng), nil}
	if rng.IntN(2) == 0 {
		rules = rules[:1]
	}
	for i := 0; config.Partitions > 0 && i < 2; i++ {
		l.Open(i * shardCount)
	}
	for range 120 {
		key := w.keys[rng.IntN(len(w.keys))]
		this := func(other string) bool { return other == key }
		switch p := rng.IntN(100); {
		case p < 45:
			w.ask(rng, key, rules)
		case p < 58:
			ended := w.end(key, (*Ticket).Turn, func(ticket *Ticket) { ticket.Done() })
			w.happened(this, happening{looked: ended})
		case p < 62:
			waits := func(ticket *Ticket) bool { return !ticket.Turn() }
			ended := w.end(key, waits, func(ticket *Ticket) { ticket.Leave() })
			w.happened(this, happening{looked: ended})
		case p < 65:
			l.Block(w.partition(key), []byte(key))
			w.happened(this, happening{})
		case p < 70:
			blocked := w.now(key).blocked
			l.Unblock(w.partition(key), []byte(key))
			w.settle()
			w.happened(this, happening{looked: blocked})
		case p < 71:
			l.Evict(errEvicted)
			w.settle()
			w.happened(func(string) bool { return true }, happening{})
		case p < 73 && config.Partitions > 0:
			partition := w.partition(key)
			l.Seal(partition)
			w.happened(func(key string) bool { return w.partition(key) == partition }, happening{sealed: true})
			l.Open(partition)
		case p < 80:
			l.Cool()
			w.happened(func(string) bool { return true }, happening{looked: true, cooled: true})
		case p < 81:
			time.Sleep(time.Duration(rng.IntN(20)) * time.Second)
		default:
			time.Sleep(time.Duration(rng.Int64N(int64(150 * time.Millisecond))))
		}
		w.settle()
	}
	for _, key := range w.keys {
		v := w.judge(w.history[key])
		rare[0] += int(v.flips+1) / 2
		rare[1] += int(v.flips) / 2
	}
}

func randomRule(rng *rand.Rand) *HotRule {
	pick := func(of ...float64) float64 { return of[rng.IntN(len(of))] }
	span := func(of ...time.Duration) time.Duration { return of[rng.IntN(len(of))] * time.Millisecond }
	return &HotRule{
		Depth: int(pick(0, 1, 3, 5)), Bytes: int64(pick(0, 75, 150)),
		Busy: pick(0, 0.5, 0.9), Share: pick(0, 0.4, 0.6), Rate: pick(0, 0, 3, 10),
		For: span(0, 50, 200, 500), CoolAfter: span(0, 50, 200, 1000),
	}
}

// ask sends one request, and knows whether it is to be shed.
func (w *heatTwin) ask(rng *rand.Rand, key string, rules []*HotRule) {
	r := Request{
		Key: []byte(key), Partition: w.partition(key), Class: Class(rng.IntN(4) / 3), Bytes: rng.IntN(60),
		MaxDepth: 12, MaxBytes: 1 << 20, MaxShared: 2, Observe: rng.IntN(20) == 0,
		Hot: rules[rng.IntN(len(rules))], ShedDepth: rng.IntN(3) * 5,
	}
	before := w.now(key)
	hot := w.judge(w.history[key]).hot
	if rng.IntN(4) == 0 {
		r.MaxBytes = 40
	}
	ticket, asked := new(Ticket), new(Ticket)
	foreseen := w.lanes.Refuses(asked, &r)
	err := w.lanes.Admit(ticket, &r)
	if !errors.Is(err, foreseen) || err != nil && (asked.ID.IsZero() || asked.Depth != ticket.Depth || asked.Service != ticket.Service) {
		w.t.Fatalf("%s: foreseen was %v (%+v), and it was %v (%+v)", key, foreseen, asked, err, ticket)
	}
	shed := hot && r.ShedDepth > 0 && before.depth >= r.ShedDepth
	switch {
	case errors.Is(err, ErrShed) && !shed:
		w.t.Fatalf("%s: shed at a depth of %d, hot %v", key, before.depth, hot)
	case err == nil && shed && !ticket.Turn():
		w.t.Fatalf("%s: not shed at a depth of %d", key, before.depth)
	case errors.Is(err, ErrShed):
		w.rare[3]++
	}
	if err != nil {
		if now := w.now(key); fmt.Sprint(now) != fmt.Sprint(before) {
			w.t.Fatalf("%s: a refusal changed %+v to %+v", key, before, now)
		}
		return
	}
	w.tickets[key] = append(w.tickets[key], ticket)
	w.happened(func(other string) bool { return other == key },
		happening{looked: true, admitted: true, waits: !ticket.Turn(), rule: r.Hot})
}

// settle lets those know that they have their turn, or were evicted.
func (w *heatTwin) settle() {
	for key, all := range w.tickets {
		var left []*Ticket
		for _, ticket := range all {
			if ticket.state == waiting || ticket.Wait(time.Time{}) == nil {
				left = append(left, ticket)
			}
		}
		w.tickets[key] = left
	}
}

// end ends the first ticket of a key that may be, and reports whether one was.
func (w *heatTwin) end(key string, may func(*Ticket) bool, end func(*Ticket)) bool {
	tickets := w.tickets[key]
	for i, ticket := range tickets {
		if may(ticket) {
			end(ticket)
			w.tickets[key] = append(tickets[:i:i], tickets[i+1:]...)
			w.settle()
			return true
		}
	}
	return false
}
