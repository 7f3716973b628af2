package queue

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// usual is what a route has by default.
var usual = HotRule{Depth: 32, Bytes: 8 << 20, Busy: 0.9, Share: 0.1, For: 5 * time.Second, CoolAfter: 30 * time.Second}

// crowd is tickets of one key, those with a turn first.
type crowd struct {
	t       *testing.T
	lanes   *Lanes
	request Request
	tickets []*Ticket
}

func newCrowd(t *testing.T, l *Lanes, key string, rule *HotRule) *crowd {
	return &crowd{t: t, lanes: l, request: Request{
		Key: []byte(key), MaxDepth: math.MaxInt, MaxBytes: math.MaxInt, MaxShared: 2, Hot: rule,
	}}
}

func (c *crowd) join(n int) {
	c.t.Helper()
	for range n {
		ticket := new(Ticket)
		if err := c.lanes.Admit(ticket, &c.request); err != nil {
			c.t.Fatal(err)
		}
		c.tickets = append(c.tickets, ticket)
	}
}

// done ends the first n turns, one after the other.
func (c *crowd) done(n int) {
	c.t.Helper()
	for _, ticket := range c.tickets[:n] {
		if err := ticket.Wait(time.Time{}); err != nil {
			c.t.Fatal(err)
		}
		ticket.Done()
	}
	c.tickets = c.tickets[n:]
}

// pass lets time go by as it does at a node, which looks once a second.
func pass(l *Lanes, d time.Duration) {
	for ; d > time.Second; d -= time.Second {
		time.Sleep(time.Second)
		l.Cool()
	}
	time.Sleep(d)
	l.Cool()
}

func hotKeys(l *Lanes) string {
	var keys []string
	for _, h := range l.Hot() {
		keys = append(keys, h.Key)
	}
	return fmt.Sprint(keys)
}

func mustBeHot(t *testing.T, l *Lanes, when, want string) {
	t.Helper()
	if got := hotKeys(l); got != want {
		t.Fatalf("%s: hot are %s, want %s", when, got, want)
	}
}

// TestNoThresholdAloneMakesHot takes each part of the rule away, one at a time,
// from a backlog that is hot, on both sides of its boundary.
func TestNoThresholdAloneMakesHot(t *testing.T) {
	for _, test := range []struct {
		name    string
		change  func(*HotRule)
		waiting int
		bytes   int // of each
		others  int // that wait in other lanes, with as many bytes
		blocked bool
		class   Class
		age     time.Duration // less than For
		want    bool
	}{
		{name: "depth at", waiting: 32, want: true},
		{name: "depth below", waiting: 31},
		{name: "depth is not looked at", change: func(r *HotRule) { r.Depth = 0 }, waiting: 1000},
		{name: "bytes at", waiting: 8, bytes: 1 << 20, want: true},
		{name: "bytes below", waiting: 8, bytes: 1<<20 - 1},
		{name: "bytes are not looked at", change: func(r *HotRule) { r.Bytes = 0 }, waiting: 8, bytes: 1 << 20},
		{name: "neither is looked at", change: func(r *HotRule) { *r = HotRule{} }, waiting: 1000},
		{name: "share of tickets at", waiting: 40, others: 360, want: true},
		{name: "share of tickets below", waiting: 40, others: 361},
		{name: "share of bytes is the larger", waiting: 40, bytes: 2, others: 361, want: true},
		{name: "busy below", waiting: 40, blocked: true},
		{name: "busy is not looked at", change: func(r *HotRule) { r.Busy = 0 }, waiting: 40, blocked: true, want: true},
		{name: "rate below", change: func(r *HotRule) { r.Rate = 6 }, waiting: 40},
		{name: "time below", waiting: 40, age: -time.Nanosecond},
		{name: "no time", change: func(r *HotRule) { r.For = 0 }, waiting: 40, age: -5 * time.Second, want: true},
		{name: "shared turns are turns", waiting: 40, class: Shared, want: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, rule := New(roomy), usual
				if test.change != nil {
					test.change(&rule)
				}
				other := newCrowd(t, l, "other", nil)
				other.request.Bytes = test.bytes / 2
				if test.others > 0 {
					other.join(1 + test.others)
				}
				if test.blocked {
					l.Block(0, []byte("k"))
				}
				k := newCrowd(t, l, "k", &rule)
				k.request.Bytes, k.request.Class = test.bytes, test.class
				switch {
				case test.class == Shared:
					k.join(2 + test.waiting)
				case test.blocked:
					k.join(test.waiting)
				default:
					k.join(1 + test.waiting)
				}
				pass(l, 5*time.Second+test.age)
				if got := hotKeys(l) == "[k]"; got != test.want {
					t.Errorf("hot: got %v, want %v", got, test.want)
				}
			})
		})
	}
}

// TestRateIsOneMoreCondition holds a backlog while requests come and go.
func TestRateIsOneMoreCondition(t *testing.T) {
	for rate, want := range map[float64]string{9: "[k]", 11: "[]"} {
		synctest.Test(t, func(t *testing.T) {
			l, rule := New(roomy), usual
			rule.Rate = rate
			k := newCrowd(t, l, "k", nil)
			k.join(41) // not counted
			k.request.Hot = &rule
			for range 120 {
				time.Sleep(100 * time.Millisecond)
				k.done(1)
				k.join(1)
			}
			mustBeHot(t, l, fmt.Sprint(rate, " of 10 a second"), want)
		})
	}
}

// TestShortCallsMakeNoBacklog sends ten thousand calls of 50 µs a second, also
// in bursts: the lane is busy, even always, and not hot, nor ever watched.
func TestShortCallsMakeNoBacklog(t *testing.T) {
	for _, burst := range []int{1, 10} {
		synctest.Test(t, func(t *testing.T) {
			l := New(roomy)
			k := newCrowd(t, l, "k", &usual)
			for range 70_000 / burst {
				k.join(burst)
				for range burst {
					time.Sleep(50 * time.Microsecond)
					k.done(1)
				}
				time.Sleep(time.Duration(burst) * 50 * time.Microsecond)
				if l.heats.Load() != 0 {
					t.Fatal("it is watched")
				}
			}
			l.Cool()
			mustBeHot(t, l, "after 7 s", "[]")
		})
	}
}

// TestLongCallsAreHot sends thirty calls of 100 ms a second, and says why.
func TestLongCallsAreHot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, began := New(roomy), time.Now()
		k := newCrowd(t, l, "k", &usual)
		k.request.Bytes, k.request.Tag = 10, 3
		for range 100 { // of the time a turn takes
			k.join(3)
			time.Sleep(100 * time.Millisecond)
			if len(k.tickets) > 61 { // as MaxDepth does
				k.tickets[len(k.tickets)-1].Leave()
				k.tickets = k.tickets[:len(k.tickets)-1]
			}
			k.done(1)
		}
		hot := l.Hot()
		if len(hot) != 1 {
			t.Fatalf("hot are %v", hot)
		}
		h := hot[0]
		if h.Key != "k" || h.Tag != 3 || h.Busy != 1 || h.Share != 1 || h.Service != 100*time.Millisecond ||
			h.Depth != len(k.tickets)-1 || h.Bytes != 10*h.Depth || math.Abs(h.Rate-30) > 1 {
			t.Errorf("why: %+v", h)
		}
		// 32 wait from the 17th turn on.
		if since := h.Since.Sub(began); since < 6*time.Second || since > 7*time.Second {
			t.Errorf("since %v", since)
		}
		if lane, ok := l.Lane(0, []byte("k")); !ok || !lane.Hot {
			t.Errorf("lane: %+v", lane)
		}
	})
}

// TestHotCoolsByHalfTheThresholds is hysteresis: half of each is enough to stay
// hot, less for CoolAfter is not, and any look that finds it again begins anew.
func TestHotCoolsByHalfTheThresholds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(roomy)
		k := newCrowd(t, l, "k", &usual)
		k.join(33)
		pass(l, 5*time.Second)
		mustBeHot(t, l, "32 wait", "[k]")
		k.done(16)
		pass(l, time.Minute)
		mustBeHot(t, l, "16 wait", "[k]")

		other := newCrowd(t, l, "other", nil)
		other.join(1 + 19*16)
		pass(l, time.Minute)
		mustBeHot(t, l, "16 of 320 wait", "[k]")
		other.join(1)
		pass(l, 29*time.Second)
		mustBeHot(t, l, "16 of 321, 29 s", "[k]")
		other.done(1)
		l.Cool() // it is enough again
		k.done(1)
		pass(l, 30*time.Second-1)
		mustBeHot(t, l, "15 wait, not yet 30 s", "[k]")
		pass(l, 1)
		mustBeHot(t, l, "15 wait, 30 s", "[]")

		k.join(16)
		pass(l, time.Minute)
		mustBeHot(t, l, "31 wait, after it was cool", "[]")
	})
}

// TestABacklogThatBreaksOffBeginsAnew: one moment below is enough.
func TestABacklogThatBreaksOffBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(roomy)
		k := newCrowd(t, l, "k", &usual)
		k.join(33)
		pass(l, 4*time.Second)
		k.done(1)
		k.join(1)
		pass(l, 5*time.Second-1)
		mustBeHot(t, l, "not yet 5 s after a moment of 31", "[]")
		pass(l, 1)
		mustBeHot(t, l, "5 s", "[k]")
	})
}

// TestAnEmptyLaneCools ends every ticket of a hot lane: it cools by Cool alone,
// and nothing is left of it.
func TestAnEmptyLaneCools(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(roomy)
		k := newCrowd(t, l, "k", &usual)
		k.join(40)
		pass(l, 5*time.Second)
		if flips := l.Cool(); flips != 1 {
			t.Errorf("%d flips, want 1", flips)
		}
		k.done(40)
		if hot := l.Hot(); len(hot) != 1 || hot[0].Depth != 0 || hot[0].Service == 0 {
			t.Errorf("hot and empty: %+v", hot)
		}
		if _, ok := l.Lane(0, []byte("k")); ok || l.Busy(0, []byte("k")) || l.Totals()[0] != (Total{}) {
			t.Error("a lane without tickets is shown")
		}
		pass(l, 30*time.Second-1)
		mustBeHot(t, l, "not yet 30 s", "[k]")
		pass(l, 1)
		mustBeHot(t, l, "30 s", "[]")
		if n := l.lanes.Load() + l.heats.Load(); n != 0 || l.Cool() != 2 {
			t.Errorf("%d left, %d flips", n, l.Cool())
		}
	})
}

// TestAWatchEnds: of a lane that is cool, with its tickets, or by Cool when they
// have become few.
func TestAWatchEnds(t *testing.T) {
	l := New(roomy)
	k := newCrowd(t, l, "k", &usual)
	k.join(16)
	watched := func(when string, want int64) {
		t.Helper()
		if got := l.heats.Load(); got != want {
			t.Errorf("%s: %d watched, want %d", when, got, want)
		}
	}
	watched("15 wait", 0)
	k.join(1)
	watched("16 wait", 1)
	l.Cool()
	watched("16 wait", 1)
	k.done(1)
	watched("15 wait, no look", 1)
	l.Cool()
	watched("15 wait", 0)
	k.join(1)
	watched("16 wait again", 1)
	k.done(len(k.tickets))
	watched("empty", 0)
	if n := l.lanes.Load(); n != 0 {
		t.Errorf("%d lanes", n)
	}
}

// TestObservedRequestsAreNeverHot, for they never wait.
func TestObservedRequestsAreNeverHot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(roomy)
		k := newCrowd(t, l, "k", &HotRule{Depth: 1})
		k.request.Observe = true
		k.join(100)
		pass(l, time.Minute)
		mustBeHot(t, l, "100 run", "[]")
		if l.heats.Load() != 0 {
			t.Error("it is watched")
		}
	})
}

// TestBlockedLanesCool: what another node runs is no turn here.
func TestBlockedLanesCool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(roomy)
		k := newCrowd(t, l, "k", &usual)
		k.join(40)
		pass(l, 5*time.Second)
		l.Block(0, []byte("k"))
		k.done(1)
		pass(l, time.Second/2)
		mustBeHot(t, l, "just blocked", "[k]")
		pass(l, time.Minute)
		mustBeHot(t, l, "39 wait and none runs", "[]")
		l.Unblock(0, []byte("k"))
		k.done(1)
		pass(l, 15*time.Second)
		mustBeHot(t, l, "unblocked", "[k]")
		l.Block(0, []byte("k"))
		k.done(1)
		for _, ticket := range k.tickets {
			ticket.Leave()
		}
		l.Unblock(0, []byte("k"))
		mustBeHot(t, l, "unblocked and empty", "[k]")
		pass(l, time.Minute)
		if n := l.lanes.Load(); n != 0 {
			t.Errorf("%d lanes left", n)
		}
	})
}

// TestSealForgetsHeat: of that partition, with and without tickets.
func TestSealForgetsHeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var emptied []string
		config := roomy
		config.Partitions = 2 * shardCount
		config.Emptied = func(_ int, key []byte) { emptied = append(emptied, string(key)) }
		l := New(config)
		l.Open(1)
		l.Open(1 + shardCount) // the same shard
		rule := usual
		rule.Share = 0
		crowds := map[string]*crowd{}
		for i, key := range []string{"full", "empty", "other"} {
			k := newCrowd(t, l, key, &rule)
			k.request.Partition = 1 + i/2*shardCount
			k.join(40)
			crowds[key] = k
		}
		pass(l, 5*time.Second)
		crowds["empty"].done(40)
		crowds["other"].join(1)
		mustBeHot(t, l, "before", "[other full empty]")
		flips := l.Cool()
		if keys := l.Seal(1); len(keys) != 1 || string(keys[0]) != "full" {
			t.Errorf("Seal: %q", keys)
		}
		mustBeHot(t, l, "sealed", "[other]")
		if n := l.Cool() - flips; n != 2 {
			t.Errorf("%d flips, want 2", n)
		}
		pass(l, 10*time.Second)
		mustBeHot(t, l, "sealed for long", "[other]")
		crowds["full"].done(40)
		if len(emptied) != 1 || l.lanes.Load() != 1 {
			t.Errorf("emptied %q, %d lanes left", emptied, l.lanes.Load())
		}
		l.Open(1)
		crowds["full"].join(40)
		pass(l, 4*time.Second)
		mustBeHot(t, l, "open again, 4 s", "[other]")
		pass(l, time.Second)
		mustBeHot(t, l, "open again, 5 s", "[other full]")
	})
}

// TestAHotLaneDoesNotKeepDrainWaiting.
func TestAHotLaneDoesNotKeepDrainWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(roomy)
		empty, full := newCrowd(t, l, "empty", &usual), newCrowd(t, l, "full", &usual)
		empty.join(40)
		full.join(40)
		pass(l, 5*time.Second)
		empty.done(40)
		mustBeHot(t, l, "before", "[full empty]")
		l.Close()
		mustBeHot(t, l, "closed", "[]")
		full.done(40)
		if err := l.Drain(t.Context()); err != nil || l.lanes.Load() != 0 {
			t.Errorf("Drain = %v, %d lanes left", err, l.lanes.Load())
		}
	})
}

// TestAHotLaneSheds at one below and at its depth, what has to wait, and leaves
// no trace.
func TestAHotLaneSheds(t *testing.T) {
	const waiting = 40
	for _, test := range []struct {
		name string
		cool bool
		r    Request
		want error
	}{
		{"none", false, Request{}, nil},
		{"below", false, Request{ShedDepth: waiting + 1}, nil},
		{"at", false, Request{ShedDepth: waiting}, ErrShed},
		{"above", false, Request{ShedDepth: 1}, ErrShed},
		{"cool", true, Request{ShedDepth: 1}, nil},
		{"observed", false, Request{ShedDepth: 1, Observe: true}, nil},
		{"another lane", false, Request{ShedDepth: 1, Key: []byte("other")}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := New(roomy)
				k := newCrowd(t, l, "k", &usual)
				k.join(2 + waiting)
				time.Sleep(time.Second)
				k.done(1)
				if !test.cool {
					pass(l, 5*time.Second)
				}
				before := fmt.Sprint(l.Totals(), l.Hot(), l.lanes.Load(), l.queued.Load(), l.bytes.Load())
				r := test.r
				r.MaxDepth, r.MaxBytes = 99, 99
				if r.Key == nil {
					r.Key = []byte("k")
				}
				var ticket Ticket
				if err := l.Admit(&ticket, &r); !errors.Is(err, test.want) {
					t.Fatalf("Admit = %v, want %v", err, test.want)
				}
				if test.want == nil {
					return
				}
				if ticket.Depth != waiting || ticket.Service != time.Second || ticket.ID.IsZero() {
					t.Errorf("a shed ticket says %d, %v, %v", ticket.Depth, ticket.Service, ticket.ID)
				}
				if after := fmt.Sprint(l.Totals(), l.Hot(), l.lanes.Load(), l.queued.Load(), l.bytes.Load()); before != after {
					t.Errorf("a refusal changed the lanes\nfrom %s\nto   %s", before, after)
				}
				r.ShedDepth = 0
				if err := l.Admit(&ticket, &r); err != nil { // it is outside
					t.Error(err)
				}
			})
		})
	}
}

// TestTheNewestRuleCounts, so that a change of configuration reaches a hot lane.
func TestTheNewestRuleCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(roomy)
		k := newCrowd(t, l, "k", &usual)
		k.join(40)
		pass(l, 5*time.Second)
		k.request.Hot = nil
		k.join(1)
		pass(l, time.Minute)
		mustBeHot(t, l, "after a request without a rule", "[k]")
		k.request.Hot = &HotRule{CoolAfter: time.Second}
		k.join(1)
		pass(l, time.Second)
		mustBeHot(t, l, "after one that makes nothing hot", "[]")
	})
}

// TestNothingIsAllocatedWithoutABacklog.
func TestNothingIsAllocatedWithoutABacklog(t *testing.T) {
	config := roomy
	config.TopWindow = time.Minute
	l := New(config)
	r := Request{Key: []byte("k"), Hot: &usual, ShedDepth: 16, MaxDepth: 99, MaxBytes: 99}
	var ticket Ticket
	if n := testing.AllocsPerRun(1000, func() {
		if err := l.Admit(&ticket, &r); err != nil {
			t.Fatal(err)
		}
		ticket.Done()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestHotListsTheDeepestFirst.
func TestHotListsTheDeepestFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(roomy)
		for i, key := range []string{"b", "a", "d", "c"} {
			newCrowd(t, l, key, &usual).join(40 + i/2*10)
		}
		pass(l, 5*time.Second)
		if got := hotKeys(l); got != "[c d a b]" {
			t.Error(got)
		}
		if !slices.IsSortedFunc(l.Hot(), func(a, b HotKey) int { return b.Depth - a.Depth }) {
			t.Error("not sorted")
		}
	})
}
