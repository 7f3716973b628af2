package queue

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// someEffect is one of few, or none.
func someEffect(rng *rand.Rand) *Effect {
	kinds := []string{"PUT", "PATCH", "DELETE"}
	e := &Effect{Kind: kinds[rng.IntN(3)]}
	e.On[31] = byte(rng.IntN(2))
	for range rng.IntN(3) {
		e.Over = append(e.Over, Over{Kind: kinds[rng.IntN(3)], Anything: rng.IntN(4) == 0, Status: rng.IntN(2)})
	}
	if rng.IntN(4) == 0 {
		return nil
	}
	return e
}

// outlook is what a spec expects of an Admit that comes next: who is superseded, and
// with which status, if it is not refused, and whether it may be.
type outlook struct {
	all      []*asked // of every key
	needless []*asked // from the back forwards
	statuses []int
	waits    bool // somebody waits before it
	lane     Load // what waits in its lane without them, itself included
	node     Load // and at the node
	r        *Request
}

// needless looks from the back forwards, one by one, as promise 7 reads.
func (s *spec) needless(key string, r *Request) *outlook {
	o := &outlook{r: r, lane: Load{1, r.Bytes}, node: Load{1, r.Bytes}}
	for of, w := range s.waiting {
		for _, a := range w {
			if o.all = append(o.all, a); a.ticket.state != waiting { // it changes only under s.mu
				continue
			}
			o.node.add(Load{1, a.bytes}, 1)
			if of == key {
				o.lane.add(Load{1, a.bytes}, 1)
				o.waits = true
			}
		}
	}
	for _, a := range slices.Backward(s.waiting[key]) {
		if a.ticket.state != waiting {
			continue // it has its turn, or has been evicted, and is not of the line any more
		}
		status, ok := supersedes(r, a)
		if !ok {
			break
		}
		o.needless, o.statuses = append(o.needless, a), append(o.statuses, status)
		o.lane.add(Load{1, a.bytes}, -1)
		o.node.add(Load{1, a.bytes}, -1)
	}
	return o
}

func supersedes(r *Request, a *asked) (status int, ok bool) {
	if r.Effect == nil || a.effect == nil || r.Class == Shared || a.class == Shared {
		return 0, false
	}
	for _, over := range r.Effect.Over {
		if over.Kind == a.effect.Kind && (over.Anything || r.Effect.On == a.effect.On) {
			return over.Status, true
		}
	}
	return 0, false
}

// check looks at what has become of everybody.
func (o *outlook) check(s *spec, ticket *Ticket, err error) {
	crowded := o.lane.Depth > o.r.MaxDepth || o.lane.Bytes > o.r.MaxBytes
	full := o.node.Depth > s.lanes.config.MaxQueued || int64(o.node.Bytes) > s.lanes.config.MaxQueuedBytes
	switch {
	case errors.Is(err, ErrLaneFull) && !crowded:
		s.t.Errorf("refused by its lane, which has room: %+v", o.lane)
	case errors.Is(err, ErrOverloaded) && o.waits && !full:
		s.t.Errorf("refused by the node, which has room: %+v", o.node)
	case err == nil && o.waits && (crowded || full):
		s.t.Errorf("let in without room: %+v of the lane, %+v of the node", o.lane, o.node)
	}
	for _, a := range o.all {
		i := slices.Index(o.needless, a)
		switch taken := a.ticket.state == outside && !a.evicted && a.superseded == nil; {
		case taken && (err != nil || i < 0):
			s.t.Errorf("%s is gone, which should have stayed: Admit %v", a.id, err)
		case !taken && err == nil && i >= 0:
			s.t.Errorf("%s is needless, and stayed", a.id)
		case taken:
			a.superseded = &Superseded{By: ticket.ID, Status: o.statuses[i]}
		}
	}
}

// mustAdmit takes a place with an effect.
func mustAdmit(t *testing.T, l *Lanes, r Request) *Ticket {
	t.Helper()
	ticket := new(Ticket)
	if err := l.Admit(ticket, &r); err != nil {
		t.Fatal(err)
	}
	return ticket
}

// present is what Wait says without waiting. Nobody else may use the lanes.
func present(t *Ticket) error {
	if t.state == waiting {
		return ErrNotYet
	}
	return t.Wait(time.Time{})
}

func effect(kind string, on byte, over ...Over) *Effect {
	return &Effect{Kind: kind, On: [32]byte{on}, Over: over}
}

// TestARequestSupersedesThoseDirectlyBeforeIt gives each rule a line behind one that
// runs, and looks who is left of it.
//
// Mutants: from the front backwards; past one that stays; a shared one is taken; another
// kind is, or what is on something else; one that runs is; a
// shared newcomer supersedes; the last rule counts, and not the first.
func TestARequestSupersedesThoseDirectlyBeforeIt(t *testing.T) {
	put := func(on byte) Request { return Request{Effect: effect("PUT", on)} }
	patch := func(on byte) Request { return Request{Effect: effect("PATCH", on)} }
	both := []Over{{Kind: "PUT", Status: 1}, {Kind: "PATCH", Status: 2}}
	for _, test := range []struct {
		name  string
		line  []Request // the first runs
		class Class
		over  []Over
		want  string // of those that wait: s = superseded with status 1, S = with 2, - = stays
	}{
		{"all that wait", []Request{put(1), put(1), patch(1), put(1)}, Exclusive, both, "sSs"},
		{"nobody waits", []Request{put(1)}, Exclusive, both, ""},
		{"no rule", []Request{put(1), put(1)}, Exclusive, nil, "-"},
		{"up to another kind", []Request{put(1), put(1), patch(1), put(1)}, Exclusive, both[:1], "--s"},
		{"the last is of another kind", []Request{put(1), put(1), patch(1)}, Exclusive, both[:1], "--"},
		{"up to what is on something else", []Request{put(1), put(1), put(2), put(1)}, Exclusive, both, "--s"},
		{"anything", []Request{put(1), put(1), put(2), put(1)}, Exclusive, []Over{{Kind: "PUT", Anything: true, Status: 1}}, "sss"},
		{"the first rule counts", []Request{put(1), put(1)}, Exclusive, []Over{{Kind: "PUT", Status: 1}, {Kind: "PUT", Anything: true, Status: 2}}, "s"},
		{"the second fits", []Request{put(2), put(2)}, Exclusive, []Over{{Kind: "PUT", Status: 1}, {Kind: "PUT", Anything: true, Status: 2}}, "S"},
		{"up to one without an effect", []Request{put(1), put(1), {}, put(1)}, Exclusive, both, "--s"},
		{"up to a shared one", []Request{put(1), put(1), {Class: Shared, Effect: effect("PUT", 1)}, put(1)}, Exclusive, both, "--s"},
		{"a shared newcomer", []Request{put(1), put(1)}, Shared, both, "-"},
	} {
		l := New(roomy)
		var line []*Ticket
		for _, r := range test.line {
			r.Key, r.MaxDepth, r.MaxBytes, r.MaxShared = []byte("k"), 99, 99, 9
			line = append(line, mustAdmit(t, l, r))
		}
		by := mustAdmit(t, l, Request{Key: []byte("k"), Class: test.class, MaxDepth: 99, MaxBytes: 99, MaxShared: 9, Effect: effect("DELETE", 1, test.over...)})
		stay := 1
		for i, ticket := range line[1:] {
			err := present(ticket)
			cause, superseded := errors.AsType[*Superseded](err)
			switch test.want[i] {
			case '-':
				stay++
				if !errors.Is(err, ErrNotYet) {
					t.Errorf("%s: %d is to stay, Wait = %v", test.name, i, err)
				}
			case 's', 'S':
				if want := map[byte]int{'s': 1, 'S': 2}[test.want[i]]; !superseded || cause.By != by.ID || cause.Status != want {
					t.Errorf("%s: %d: Wait = %v, %+v, want status %d", test.name, i, err, cause, want)
				}
				if ticket.Leave() {
					t.Errorf("%s: %d left once more", test.name, i)
				}
			}
		}
		if by.Depth != stay-1 {
			t.Errorf("%s: the newcomer saw %d before it, want %d", test.name, by.Depth, stay-1)
		}
		for _, ticket := range append(line, by) { // those that are left run in their order
			if ticket.state == outside {
				continue
			}
			if err := present(ticket); err != nil {
				t.Fatalf("%s: %s has no turn: %v", test.name, ticket.ID, err)
			}
			ticket.Done()
		}
		if n := l.lanes.Load() + l.queued.Load() + l.bytes.Load(); n != 0 {
			t.Errorf("%s: %d left", test.name, n)
		}
	}
}

// TestLimitsAreJudgedWithoutTheSuperseded has the newcomer take the place of those it
// removes, and remove nobody if there is no place even then.
//
// Mutants: each limit of the lane, of the node, and shedding, is judged before; what a
// refused request would supersede is taken away all the same; Refuses judges otherwise
// than Admit.
func TestLimitsAreJudgedWithoutTheSuperseded(t *testing.T) {
	const waiting, each = 3, 10 // behind one that runs; the last two are superseded
	node := func(queued, bytes int) Config {
		return Config{MaxQueued: queued, MaxQueuedBytes: int64(bytes), MaxLanes: 9, Tags: 1}
	}
	for _, test := range []struct {
		name   string
		config Config
		r      Request
		hot    bool
		want   error
	}{
		{"depth at", roomy, Request{MaxDepth: 2, MaxBytes: 99}, false, nil},
		{"depth above", roomy, Request{MaxDepth: 1, MaxBytes: 99}, false, ErrLaneFull},
		{"bytes at", roomy, Request{MaxDepth: 9, MaxBytes: each + 7, Bytes: 7}, false, nil},
		{"bytes above", roomy, Request{MaxDepth: 9, MaxBytes: each + 6, Bytes: 7}, false, ErrLaneFull},
		{"node count at", node(waiting, 99), Request{MaxDepth: 9, MaxBytes: 99}, false, nil},
		{"node bytes at", node(9, waiting*each), Request{MaxDepth: 9, MaxBytes: 99, Bytes: 2 * each}, false, nil},
		{"node bytes above", node(9, waiting*each), Request{MaxDepth: 9, MaxBytes: 99, Bytes: 2*each + 1}, false, ErrOverloaded},
		{"shed at", roomy, Request{MaxDepth: 9, MaxBytes: 99, ShedDepth: 2}, true, nil},
		{"shed above", roomy, Request{MaxDepth: 9, MaxBytes: 99, ShedDepth: 1}, true, ErrShed},
		{"its own holder's", roomy, Request{MaxDepth: 9, MaxBytes: 99, Holder: ID{9}}, false, ErrReentrant},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := New(test.config)
			line := Request{Key: []byte("k"), Bytes: each, MaxDepth: 9, MaxBytes: 99, ID: ID{9}}
			if test.hot {
				line.Hot = &HotRule{Depth: 1, For: time.Second, CoolAfter: time.Minute}
			}
			running := mustAdmit(t, l, line)
			line.ID, line.Effect = ID{}, effect("POST", 1)
			tickets := []*Ticket{mustAdmit(t, l, line)}
			line.Effect = effect("PUT", 1)
			tickets = append(tickets, mustAdmit(t, l, line), mustAdmit(t, l, line))
			time.Sleep(time.Second)
			l.Cool()
			before := fmt.Sprint(l.Totals(), l.queued.Load(), l.bytes.Load())
			r := test.r
			r.Key, r.Effect = []byte("k"), effect("DELETE", 1, Over{Kind: "PUT"})
			foreseen := test.want
			if errors.Is(foreseen, ErrReentrant) { // not its business
				foreseen = nil
			}
			if err := l.Refuses(new(Ticket), &r); !errors.Is(err, foreseen) {
				t.Errorf("%s: Refuses = %v, want %v", test.name, err, foreseen)
			}
			by := new(Ticket)
			if err := l.Admit(by, &r); !errors.Is(err, test.want) {
				t.Fatalf("%s: Admit = %v, want %v", test.name, err, test.want)
			}
			if now := fmt.Sprint(l.Totals(), l.queued.Load(), l.bytes.Load()); test.want != nil && now != before {
				t.Errorf("%s: a refusal changed the lanes\nfrom %s\nto   %s", test.name, before, now)
			}
			if total := l.Totals()[0]; test.want == nil && (total.Waiting != 2 || total.Bytes != each+r.Bytes || l.queued.Load() != 2 || l.bytes.Load() != int64(each+r.Bytes)) {
				t.Errorf("%s: %+v, %d and %d bytes", test.name, total, l.queued.Load(), l.bytes.Load())
			}
			for i, ticket := range tickets {
				_, superseded := errors.AsType[*Superseded](present(ticket))
				if want := test.want == nil && i > 0; superseded != want {
					t.Errorf("%s: %d superseded is %v, want %v", test.name, i, superseded, want)
				}
			}
			running.Done()
		})
	}
}

// TestSupersededAreToldByNotify has tickets without a waiter told, with no lock held:
// they may ask the lanes.
//
// Mutant: they are told under the lock.
func TestSupersededAreToldByNotify(t *testing.T) {
	l := New(roomy)
	running := mustAdmit(t, l, Request{Key: []byte("k")})
	var told []error
	for range 2 {
		ticket := new(Ticket)
		ticket.Notify = func() {
			l.Busy(0, []byte("k"))
			told = append(told, ticket.Granted())
		}
		r := Request{Key: []byte("k"), MaxDepth: 9, Effect: effect("PUT", 1)}
		if err := l.Admit(ticket, &r); err != nil {
			t.Fatal(err)
		}
	}
	by := mustAdmit(t, l, Request{Key: []byte("k"), MaxDepth: 9, Effect: effect("PUT", 1, Over{Kind: "PUT"})})
	if len(told) != 2 {
		t.Fatalf("%d are told", len(told))
	}
	for _, err := range told {
		if cause, ok := errors.AsType[*Superseded](err); !ok || cause.By != by.ID {
			t.Errorf("Granted = %v", err)
		}
	}
	running.Done()
}
