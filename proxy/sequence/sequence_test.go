package sequence

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

var orders = []byte("order:7")

func seq(producer string, n uint64) Number { return Number{Producer: producer, Seq: n} }

// judge is Judge with what it says in one text.
func judge(m *Marks, n Number) string {
	v, done := m.Judge(3, orders, n, false)
	return fmt.Sprint([]string{"next", "done", "gap", "unknown", "fenced"}[v], " ", done)
}

// Mutants: an unknown producer may begin anywhere; a lower epoch is not fenced; a
// higher one goes on where the lower one was; done is what is below the mark.
func TestNumbersInOrder(t *testing.T) {
	m := New(Config{MaxMarks: 10})
	ran := func(n Number) { m.Ran(3, orders, n, time.Hour) }
	epoch := func(e, n uint64) Number { return Number{Producer: "p", Epoch: e, Seq: n} }
	check := func(n Number, want string) {
		t.Helper()
		if have := judge(m, n); have != want {
			t.Errorf("%v: got %s, want %s", n, have, want)
		}
	}
	check(seq("p", 2), "unknown 0")
	check(seq("p", 1), "next 0")
	ran(seq("p", 1))
	check(seq("p", 1), "done 1")
	check(seq("p", 2), "next 1")
	check(seq("p", 3), "gap 1")
	check(seq("q", 2), "unknown 0") // another producer
	ran(seq("p", 2))
	check(epoch(1, 2), "gap 0")
	check(epoch(1, 1), "next 0")
	ran(epoch(1, 1))
	check(seq("p", 3), "fenced 0")
	check(epoch(1, 2), "next 1")
	if v, _ := m.Judge(3, []byte("order:8"), epoch(1, 2), false); v != Unknown {
		t.Errorf("another key: got %d", v)
	}
	if v, done := m.Judge(3, orders, seq("r", 9), true); v != Next || done != 8 {
		t.Errorf("any start: got %d, %d", v, done)
	}
}

// Mutants: a mark never expires; Ran does not prolong it; the room of an expired mark
// is not free; the lane of an expired mark is kept.
func TestMarksExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(Config{MaxMarks: 2})
		m.Ran(3, orders, seq("p", 1), time.Minute)
		time.Sleep(40 * time.Second)
		m.Ran(3, orders, seq("q", 1), time.Minute)
		m.Ran(3, orders, seq("p", 2), time.Minute)
		if err := m.Begin(3, orders, seq("r", 1)); err != ErrFull {
			t.Errorf("a third producer: got %v, want %v", err, ErrFull)
		}
		if err := m.Begin(3, orders, seq("p", 3)); err != nil {
			t.Errorf("a known producer: %v", err)
		}
		time.Sleep(50 * time.Second)
		if have := judge(m, seq("p", 3)); have != "next 2" {
			t.Errorf("before its time: got %s", have)
		}
		time.Sleep(10 * time.Second)
		if have := judge(m, seq("p", 3)); have != "unknown 0" {
			t.Errorf("after its time: got %s", have)
		}
		if err := m.Begin(3, orders, seq("r", 1)); err != nil || m.Len() != 0 || len(m.parts) != 0 {
			t.Errorf("%v; %d marks, %d partitions are left", err, m.Len(), len(m.parts))
		}
	})
}

// Mutants: Ran wakes nobody; Seal wakes nobody; the bound is of producers; Leave keeps
// the place.
func TestHeld(t *testing.T) {
	m := New(Config{MaxMarks: 10})
	hold := func(partition int, key string) *Held {
		t.Helper()
		h, err := m.Hold(partition, []byte(key), 2)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	woken := func(h *Held) bool {
		select {
		case <-h.News:
			return true
		default:
			return false
		}
	}
	a, b, other := hold(3, "a"), hold(3, "a"), hold(4, "a")
	if _, err := m.Hold(3, []byte("a"), 2); err != ErrHeld {
		t.Errorf("a third one: got %v", err)
	}
	b.Leave()
	b = hold(3, "a")
	m.Ran(3, []byte("b"), seq("p", 1), time.Hour)
	if woken(a) || woken(b) {
		t.Error("woken by another key")
	}
	m.Ran(3, []byte("a"), seq("p", 1), time.Hour)
	if !woken(a) || !woken(b) || woken(other) {
		t.Errorf("after a number of the key: %v %v %v", woken(a), woken(b), woken(other))
	}
	a.Leave()
	b.Leave()
	a = hold(3, "c")
	if m.Seal(3); !woken(a) || woken(other) {
		t.Errorf("after a move: %v %v", woken(a), woken(other))
	}
	other.Leave()
	if len(m.parts[4]) != 0 {
		t.Error("a lane that nobody waits in is kept")
	}
}

// A request that was held, and leaves after the last that was known of its key has been
// forgotten, takes nothing along that has come to be known since: found by
// proxy.TestNumbersThroughAnyNode, seed 2.
//
// Mutant: a lane is forgotten by its key.
func TestWhoLeavesLateTakesNothingAlong(t *testing.T) {
	m := New(Config{})
	key := []byte("order:7")
	m.Open(7)
	held, err := m.Hold(7, key, 1)
	if err != nil {
		t.Fatal(err)
	}
	m.Seal(7)
	n := Number{Producer: "p", Seq: 1}
	m.Ran(7, key, n, time.Hour) // it ran in the tenure that has ended
	held.Leave()
	if v, done := m.Judge(7, key, n, false); v != Done || done != 1 {
		t.Errorf("number 1 is %v, and %d are done", v, done)
	}
}

// Mutants: Import lowers a mark, or lets a higher number of a lower epoch stand; the key
// that still runs is exported; half of a bad text is taken; the time left is not.
func TestMarksTravel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := New(Config{MaxMarks: 10}), New(Config{MaxMarks: 1})
		to.Open(3) // both have it, as in a split
		from.Ran(3, orders, seq("p", 5), time.Minute)
		from.Ran(3, orders, seq("q", 2), time.Hour)
		from.Ran(3, []byte("busy"), seq("p", 9), time.Hour)
		to.Ran(3, orders, seq("q", 4), time.Hour)
		from.Ran(3, orders, Number{"e", 1, 1}, time.Hour)
		to.Ran(3, orders, Number{"e", 0, 9}, time.Hour)
		h, err := to.Hold(3, orders, 1)
		if err != nil {
			t.Fatal(err)
		}
		b := from.Export(3, []string{"busy"})
		for cut := range b[:len(b)-1] {
			if err := New(Config{}).Import(3, b[:cut]); err == nil && cut != 1 {
				t.Errorf("%d of %d bytes are taken for all", cut, len(b))
			}
		}
		if err := to.Import(3, b); err != nil {
			t.Fatal(err)
		}
		<-h.News
		for n, want := range map[Number]string{seq("p", 6): "next 5", seq("q", 5): "next 4", {"e", 1, 2}: "next 1"} {
			if have := judge(to, n); have != want {
				t.Errorf("%v: got %s, want %s", n, have, want)
			}
		}
		if v, _ := to.Judge(3, []byte("busy"), seq("p", 10), false); v != Unknown {
			t.Errorf("the busy key: got %d", v)
		}
		if err := to.Import(3, from.ExportKey(3, "busy")); err != nil {
			t.Fatal(err)
		}
		if v, _ := to.Judge(3, []byte("busy"), seq("p", 10), false); v != Next {
			t.Errorf("the key that ran: got %d", v)
		}
		time.Sleep(time.Minute)
		if have := judge(to, seq("p", 6)); have != "unknown 0" {
			t.Errorf("after its time: got %s", have)
		}
	})
}

// TestAMarkNeverFalls has a number run while another owner of a split network runs more, which is
// heard of before the number is done.
//
// Mutants: Ran puts its number in place of a higher one; a lower epoch in place of a higher.
func TestAMarkNeverFalls(t *testing.T) {
	for name, higher := range map[string]Number{"number": seq("p", 9), "epoch": {"p", 1, 1}} {
		from, to := New(Config{}), New(Config{})
		for _, m := range []*Marks{from, to} {
			m.Open(3)
			m.Ran(3, orders, seq("p", 4), time.Hour)
		}
		from.Ran(3, orders, higher, time.Hour)
		if have := judge(to, seq("p", 5)); have != "next 4" {
			t.Fatalf("%s: got %s", name, have)
		}
		if err := to.Import(3, from.Export(3, nil)); err != nil {
			t.Fatal(err)
		}
		to.Ran(3, orders, seq("p", 5), time.Hour)
		next := higher
		next.Seq++
		if have, want := judge(to, next), fmt.Sprint("next ", higher.Seq); have != want {
			t.Errorf("%s: got %s, want %s", name, have, want)
		}
	}
}

// Mutants: what is left of an earlier tenure stands though nothing was brought, or beside
// what was brought; a key's mark that comes apart counts as all; what was brought is
// forgotten when the tenure begins, or by its end.
func TestTenures(t *testing.T) {
	from, to := New(Config{MaxMarks: 10}), New(Config{MaxMarks: 10})
	from.Open(3)
	from.Ran(3, orders, seq("p", 5), time.Hour)
	bring := func(b []byte) {
		t.Helper()
		if err := to.Import(3, b); err != nil {
			t.Fatal(err)
		}
	}
	check := func(what, want string) {
		t.Helper()
		if have := judge(to, seq("p", 6)); have != want {
			t.Errorf("%s: got %s, want %s", what, have, want)
		}
	}
	bring(from.Export(3, nil))
	to.Open(3)
	check("brought", "next 5")
	to.Seal(3)
	check("while it drains", "next 5")
	bring(from.ExportKey(3, string(orders)))
	to.Open(3)
	check("owned again, and only a key was brought", "unknown 0")
	to.Ran(3, orders, seq("p", 2), time.Hour)
	to.Seal(3)
	bring(from.Export(3, []string{string(orders)}))
	bring(from.ExportKey(3, string(orders)))
	to.Open(3)
	check("brought apart", "next 5")
	to.Seal(3)
	bring(from.Export(3, []string{string(orders)}))
	to.Open(3)
	check("all was brought but this", "unknown 0")
}

// TestRandomNumbers has producers send numbers in any order, again and again, and
// restart, and compares with what they should see.
//
// Mutants: a number may be next though the one before was not run.
func TestRandomNumbers(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 1))
		m, ran := New(Config{MaxMarks: 100}), make(map[string][]uint64)
		epochs := make(map[string]uint64)
		for range 300 {
			producer := fmt.Sprint("p", random.IntN(3))
			if random.IntN(40) == 0 {
				epochs[producer]++
			}
			n := Number{Producer: producer, Epoch: epochs[producer], Seq: 1 + random.Uint64N(20)}
			if random.IntN(20) == 0 && n.Epoch > 0 {
				n.Epoch--
			}
			if random.IntN(30) == 0 { // another owner
				to := New(Config{MaxMarks: 100})
				if err := to.Import(3, m.Export(3, nil)); err != nil {
					t.Fatal(err)
				}
				m = to
			}
			id := fmt.Sprint(producer, "/", n.Epoch)
			if v, _ := m.Judge(3, orders, n, false); v != Next {
				if want := uint64(len(ran[id])) + 1; n.Seq == want && n.Epoch == epochs[producer] {
					t.Fatalf("seed %d: %v is refused (%d), after %v", seed, n, v, ran[id])
				}
				continue
			}
			m.Ran(3, orders, n, time.Hour)
			ran[id] = append(ran[id], n.Seq)
		}
		for id, seqs := range ran {
			for i, n := range seqs {
				if n != uint64(i)+1 {
					t.Fatalf("seed %d: %s ran %v", seed, id, seqs)
				}
			}
		}
	}
}

func FuzzImport(f *testing.F) {
	m := New(Config{MaxMarks: 10})
	m.Ran(3, orders, Number{"p", 1 << 40, 7}, time.Hour)
	m.Ran(3, []byte("x"), seq("", 1), time.Second)
	f.Add(m.Export(3, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := New(Config{MaxMarks: 10, Now: func() time.Time { return time.Unix(1<<31, 0) }})
		if err := m.Import(3, b); err != nil {
			return
		}
		again := New(m.config)
		if err := again.Import(3, m.Export(3, nil)); err != nil {
			t.Fatal(err)
		}
		lines := func(m *Marks) [][]byte {
			var all [][]byte
			for key, ln := range m.parts[3] {
				for name, k := range ln.marks {
					all = append(all, fmt.Appendf(nil, "%q %q %d %d %v", key, name, k.epoch, k.done, k.expires))
				}
			}
			slices.SortFunc(all, bytes.Compare)
			return all
		}
		if have, want := lines(again), lines(m); !slices.EqualFunc(have, want, bytes.Equal) {
			t.Errorf("got %q, want %q", have, want)
		}
	})
}
