package queue

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// TestWhatIsBehindATicketCounts has a few tickets stand for many requests that wait
// elsewhere: they make the key hot, as long as their ticket waits, and nothing else.
//
// Mutants: they count for nothing, or for ever; they are not taken back when the ticket
// leaves, is evicted, or has its turn; they count against limits; the share forgets
// them above, or below; the rate does; what is told of the key does.
func TestWhatIsBehindATicketCounts(t *testing.T) {
	for name, end := range map[string]func(l *Lanes, k *crowd){
		"leaves":  func(_ *Lanes, k *crowd) { k.tickets[1].Leave() },
		"evicted": func(l *Lanes, _ *crowd) { l.Evict(errors.New("a test")) },
		"turn":    func(_ *Lanes, k *crowd) { k.done(1) },
	} {
		for _, behind := range []Load{{Depth: 31, Bytes: 100}, {Depth: 30, Bytes: 100}, {Depth: 1, Bytes: 8<<20 - 1}, {Depth: 1, Bytes: 8<<20 - 2}} {
			synctest.Test(t, func(t *testing.T) {
				l := New(roomy)
				k := newCrowd(t, l, "k", &usual)
				k.request.MaxDepth, k.request.MaxBytes = 1, 100
				k.join(1)
				k.request.Behind, k.request.Bytes = behind, 1
				k.join(1)
				if total := l.Totals()[0]; total.Waiting != 1 || total.Bytes != 1 {
					t.Errorf("what waits elsewhere takes room here: %+v", total)
				}
				pass(l, 5*time.Second)
				enough := behind.Depth == 31 || behind.Bytes == 8<<20-1
				mustBeHot(t, l, fmt.Sprint("behind are ", behind), map[bool]string{true: "[k]", false: "[]"}[enough])
				if enough {
					if h := l.Hot()[0]; h.Depth != 1+behind.Depth || h.Bytes != 1+behind.Bytes || h.Share != 1 {
						t.Errorf("why: %+v", h)
					}
				}
				end(l, k)
				pass(l, 31*time.Second)
				mustBeHot(t, l, name, "[]")
			})
		}
	}
}

// TestTheShareOfWhatWaitsElsewhere is the same for who waits here, or elsewhere.
func TestTheShareOfWhatWaitsElsewhere(t *testing.T) {
	for neighbours, want := range map[int]string{288: "[k]", 289: "[]"} { // nine tenths
		synctest.Test(t, func(t *testing.T) {
			l := New(roomy)
			newCrowd(t, l, "other", nil).join(1 + neighbours)
			rule := usual
			rule.Rate = 0
			k := newCrowd(t, l, "k", &rule)
			k.join(1)
			k.request.Behind.Depth = 15
			k.join(2)
			pass(l, 5*time.Second)
			mustBeHot(t, l, fmt.Sprintf("32 beside %d", neighbours), want)
		})
	}
}

// TestTheRateOfWhatWaitsElsewhere counts each request once.
func TestTheRateOfWhatWaitsElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(roomy)
		k := newCrowd(t, l, "k", &usual)
		k.join(1)
		k.request.Behind.Depth = 31
		for range 10 {
			k.join(1)
			time.Sleep(time.Second)
			l.Cool()
		}
		if rate := l.Hot()[0].Rate; rate < 31 || rate > 33 {
			t.Errorf("%v a second came, by one ticket for 32", rate)
		}
	})
}

// TestATicketKnowsWhetherItsLaneIsHot, when it is admitted, or refused.
//
// Mutants: a refused one does not know, or one that is let in; the ticket's last lane is
// meant.
func TestATicketKnowsWhetherItsLaneIsHot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(roomy)
		rule := HotRule{Depth: 2, For: time.Second, CoolAfter: time.Minute}
		k := newCrowd(t, l, "k", &rule)
		k.request.MaxDepth = 4
		k.join(3)
		time.Sleep(time.Second)
		k.join(2)
		for i, ticket := range k.tickets {
			if want := i >= 3; ticket.Hot != want {
				t.Errorf("ticket %d: hot is %v", i, ticket.Hot)
			}
		}
		refused := new(Ticket)
		if err := l.Admit(refused, &k.request); !errors.Is(err, ErrLaneFull) || !refused.Hot {
			t.Errorf("%v, hot is %v", err, refused.Hot)
		}
		k.request.Key = []byte("other")
		if err := l.Admit(refused, &k.request); err != nil || refused.Hot {
			t.Errorf("%v in another lane, hot is %v", err, refused.Hot)
		}
		k.done(5)
		k.request.Key = []byte("k")
		if k.join(1); !k.tickets[0].Turn() || !k.tickets[0].Hot {
			t.Error("one that has its turn at once does not know")
		}
		k.done(1)
		again := new(Ticket)
		if err := l.Admit(again, &k.request); err != nil || !again.Hot {
			t.Errorf("%v, hot is %v", err, again.Hot)
		}
		again.Done()
		l.Close()
		if err := l.Admit(again, &k.request); !errors.Is(err, ErrClosed) || again.Hot {
			t.Errorf("%v, hot is %v", err, again.Hot)
		}
	})
}

// TestCloseLetsAsideIn: those stand behind others that are here already, and Drain waits
// for them.
//
// Mutants: they are refused; what is only observed is let in, too.
func TestCloseLetsAsideIn(t *testing.T) {
	config := roomy
	config.Partitions = 2
	l := New(config)
	l.Open(1)
	r := Request{Key: []byte("k"), Partition: Aside, MaxDepth: 10, MaxBytes: 10}
	var first, second Ticket
	if err := l.Admit(&first, &r); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := l.Admit(&second, &r); err != nil || second.Turn() || second.Depth != 0 {
		t.Errorf("%v, depth %d", err, second.Depth)
	}
	for _, partition := range []int{1, Unowned} {
		r.Partition = partition
		if err := l.Admit(new(Ticket), &r); !errors.Is(err, ErrClosed) {
			t.Errorf("partition %d: %v", partition, err)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, ticket := range []*Ticket{&first, &second} {
		if l.Drain(ended) == nil {
			t.Error("it is drained before they have had their turns")
		}
		if err := ticket.Wait(time.Time{}); err != nil {
			t.Fatal(err)
		}
		ticket.Done()
	}
	if err := l.Drain(t.Context()); err != nil {
		t.Error(err)
	}
}
