package proxy_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/proxy"
)

// inOrder is asked at the end of each node of these tests: whatever it went through, it has
// not seen itself break an order. That makes each of them one of the lookout, too: what
// lanes, holds, retries, streams and turns that are lent do to a request must not look like
// a violation, and a mutant that breaks an order shows twice.
//
// Mutants: the lookout does not see that a connection was given back; that attempts of one
// request may run beside each other; that shared requests may; it watches lanes that are only
// observed; requests that pass by their lane.
func (n *node) inOrder() {
	n.t.Helper()
	if seen := n.metric("lanekeeper_order_violations_total"); seen != 0 && !n.broken {
		n.t.Errorf("%v requests were sent against their order:\n%s", seen, n.log)
	}
}

// violated looks at what was counted, and that the log says so.
func (m *member) violated(overlaps, fences float64) {
	m.t.Helper()
	for kind, want := range map[string]float64{"overlap": overlaps, "fence": fences} {
		if got := m.metric("lanekeeper_order_violations_total", "kind", kind); got != want {
			m.t.Errorf("%v violations are %s, want %v", got, kind, want)
		}
		said := strings.Contains(m.log.String(), `"event":"order-violation","kind":"`+kind+`","route":"order"`)
		if said != (want > 0) {
			m.t.Errorf("that the log says so of %s is %t:\n%s", kind, said, m.log)
		}
	}
}

// A node whose keys are suddenly in other lanes runs requests beside each other, and sees
// it: lanes cannot, as each is in order.
//
// Mutants: two exclusive requests may; an exclusive one beside a shared one; a shared one
// beside an exclusive one; the last of them is forgotten with the first; the key is not looked at.
func TestAnOverlapIsSeen(t *testing.T) {
	for _, methods := range [][2]string{{"POST", "PUT"}, {"GET", "PUT"}, {"POST", "GET"}, {"GET", "GET"}} {
		bubble(t, strings.Join(methods[:], " and "), func(t *testing.T) {
			p := startPair(t, change{}, nil)
			owner := p.nodes[0]
			owner.broken = true
			_, first := owner.async(methods[0], "/orders/7/first", nil, "")
			x := p.ran("/orders/7/first", owner)
			_, other := owner.async("POST", "/orders/8/other", nil, "")
			z := p.ran("/orders/8/other", owner)
			owner.edge.mu.Lock()
			owner.edge.shift = 1
			owner.edge.mu.Unlock()
			_, second := owner.async(methods[1], "/orders/7/second", nil, "")
			y := p.ran("/orders/7/second", owner)
			want := 1.0
			if methods[0] == methods[1] {
				want = 0
			}
			owner.violated(want, 0)
			x.finish("")
			(<-first).is(t, "the first", 200, "", "")

			// y is still under way, in the lane of the shift.
			owner.edge.mu.Lock()
			owner.edge.shift = 2
			owner.edge.mu.Unlock()
			time.Sleep(2 * time.Second) // the log may speak again
			_, third := owner.async("DELETE", "/orders/7/third", nil, "")
			w := p.ran("/orders/7/third", owner)
			if got := owner.metric("lanekeeper_order_violations_total", "kind", "overlap"); got != want+1 {
				t.Errorf("%v overlaps, want %v", got, want+1)
			}
			for _, x := range []*exchange{w, y, z} {
				x.finish("")
			}
			for _, a := range []<-chan *answer{second, other, third} {
				(<-a).is(t, "another", 200, "", "")
			}
		})
	}
}

// A request whose idle connection turned out to be closed takes another, once, and is one
// request: exclusive ones are not refused for it, and the next of its key is no overlap.
//
// Mutants: it is an attempt of its own; it is seen twice.
func TestAStaleConnectionIsReplaced(t *testing.T) {
	both(t, "exclusive", change{}, nil, func(p *pair, at *member) (said []string) {
		for i, path := range []string{"/orders/7/0", "/orders/7/1", "/orders/7/2"} {
			_, a := at.async("POST", path, nil, "")
			x := p.ran(path, p.nodes[0])
			x.finish("")
			(<-a).is(p.t, path, 200, "", "")
			if i == 0 {
				x.conn.Close()
				synctest.Wait()
			}
		}
		p.nodes[0].violated(0, 0)
		if n := p.connections(); n != 2 {
			p.t.Errorf("%d connections were made", n)
		}
		return said
	})
}

// A coordinator that has forgotten what it gave out lets fences fall.
//
// Mutants: a fence may fall; it may be another request's; nothing is remembered.
func TestAFallingFenceIsSeen(t *testing.T) {
	for name, lower := range map[string]uint64{"falls": 1, "is given twice": 0} {
		bubble(t, name, func(t *testing.T) {
			p := startPair(t, strict(nil), nil)
			owner := p.nodes[0]
			owner.broken = true
			owner.edge.lasts(time.Hour)
			run := func(path string) {
				_, a := owner.async("POST", path, nil, "")
				p.ran(path, owner).finish("")
				(<-a).is(t, path, 200, "", "")
			}
			run("/orders/7/0")
			run("/orders/7/1")
			owner.violated(0, 0)
			owner.edge.mu.Lock()
			owner.edge.fences -= lower + 1
			owner.edge.mu.Unlock()
			run("/orders/8/0") // another key's may
			owner.violated(0, 0)
			owner.edge.mu.Lock()
			owner.edge.fences--
			owner.edge.mu.Unlock()
			run("/orders/7/2")
			owner.violated(0, 1)
		})
	}
}

// Mutants: it is not counted that a client leaves in the middle of its response; it is,
// although it has all of it.
func TestAClientThatLeavesItsResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, nil)
		n.service.handle(func(w http.ResponseWriter, _ *http.Request) {
			for range 100 {
				w.Write(make([]byte, 1<<10))
			}
		})
		for i, leaves := range []bool{false, true} {
			c := n.open()
			c.write("POST", "/orders/7", nil, "")
			if leaves {
				if _, err := c.reader.ReadByte(); err != nil {
					t.Fatal(err)
				}
				c.conn.Close()
			} else if a, err := c.read("POST"); err != nil || len(a.body) != 100<<10 {
				t.Fatalf("%v, %v", a, err)
			}
			synctest.Wait()
			if got := n.metric("lanekeeper_client_gone_total", "stage", "upstream"); got != float64(i) {
				t.Errorf("leaves %t: %v are counted", leaves, got)
			}
		}
	})
}

// BenchmarkLookout is what a request costs.
func BenchmarkLookout(b *testing.B) {
	key := []byte("order:A-1042")
	l := proxy.NewLookout()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			l.Pass(key)
		}
	})
}
