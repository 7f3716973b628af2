package proxy_test

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/proxy"
	"lanekeeper/queue"
)

// hot is a rule of three waiting requests, for lanes that take six.
func hot(shed bool) func(*proxy.Lane) {
	return func(l *proxy.Lane) {
		patient(l)
		l.MaxDepth, l.Shed = 6, shed
		l.Hot = &queue.HotRule{Depth: 3, Busy: 0.9, Share: 0.1, For: 5 * time.Second, CoolAfter: 10 * time.Second}
	}
}

// turnOf is how long the service takes for each request.
const turnOf = 4 * time.Second

func slowly(x *exchange) {
	time.Sleep(turnOf)
	x.ok("done")
}

// saturate lets one request run and four wait for the key, one more come after a
// turn, and the rule's time pass. A node looks at its hot keys once a second.
func (p *pair) saturate(at *member, path string) (waiting []<-chan *answer) {
	p.t.Helper()
	for i := range 5 {
		_, a := at.async("POST", path+"/"+strconv.Itoa(i), nil, "")
		waiting = append(waiting, a)
	}
	time.Sleep(turnOf + time.Millisecond)
	_, a := at.async("POST", path+"/5", nil, "") // too early to be refused
	time.Sleep(1500 * time.Millisecond)
	synctest.Wait()
	for _, n := range p.nodes {
		n.lanes.Cool()
	}
	return append(waiting, a)
}

// A saturated key of a strict route, or of a plain one, turns away what its
// neighbours do not have to fear.
//
// Mutants: Hot or ShedDepth is not passed on, here, or by the owner; the depth at
// which it sheds is max_depth; ErrShed is told like ErrLaneFull; Retry-After is one
// turn; what is shed is not counted, or at the ingress as well; all routes' hot keys
// are one number.
func TestAHotKeyIsShed(t *testing.T) {
	for _, path := range []string{"/orders/7", "/carts/7"} { // strict, plain
		route := strings.Trim(path, "/7s")
		both(t, path, strict(hot(true)), slowly, func(p *pair, at *member) (said []string) {
			owner := p.nodes[0]
			owner.edge.lasts(time.Hour)
			waiting := p.saturate(at, path)
			if n := owner.metric("lanekeeper_hot_keys"); n != 1 || owner.metric("lanekeeper_hot_keys", "route", route) != 1 {
				p.t.Errorf("%v hot keys", n)
			}

			a := at.send("POST", path+"/6", nil, "")
			a.is(p.t, "one too many", 429, "lane-full", "no")
			if want := "this key is hot, and 4 requests wait for it already"; a.problem.Detail != want {
				p.t.Errorf("got %q, want %q", a.problem.Detail, want)
			}
			a.within(p.t, "one too many", 16, 20) // four turns, and a fifth of it at most
			said = append(said, a.problem.Title, a.problem.Detail, strconv.Itoa(*a.problem.QueueDepth))
			if n, all := owner.metric("lanekeeper_shed_total", "route", route), p.nodes[0].metric("lanekeeper_shed_total")+p.nodes[1].metric("lanekeeper_shed_total"); n != 1 || all != 1 {
				p.t.Errorf("the owner counts %v, both count %v", n, all)
			}
			if n := at.metric("lanekeeper_rejected_total", "route", route, "reason", "lane-full"); n != 1 {
				p.t.Errorf("its ingress counts %v refusals", n)
			}

			// Neighbours: another key that is as deep but not for as long, the same
			// value in another space, and reads of neither.
			var neighbours []<-chan *answer
			for _, other := range []string{strings.Replace(path, "7", "8", 1), map[string]string{"order": "/carts/7", "cart": "/orders/7"}[route]} {
				for range 6 {
					_, a := at.async("POST", other, nil, "")
					neighbours = append(neighbours, a)
				}
			}
			for i, a := range append(waiting, neighbours...) {
				if a := <-a; a.status != 200 {
					p.t.Errorf("request %d: %d %s", i, a.status, a.problem.Detail)
				}
			}

			// Who obeys Retry-After is served, although the key is hot still.
			if !slices.ContainsFunc(owner.lanes.Hot(), func(k queue.HotKey) bool { return k.Key == route+":7" }) {
				p.t.Error("it has cooled")
			}
			if a := at.send("POST", path+"/6", nil, ""); a.status != 200 {
				p.t.Errorf("again: %d %s", a.status, a.problem.Detail)
			}
			time.Sleep(20 * time.Second)
			owner.lanes.Cool()
			time.Sleep(10 * time.Second)
			owner.lanes.Cool()
			if n := owner.metric("lanekeeper_hot_keys"); n != 0 {
				p.t.Errorf("%v hot keys when all is quiet", n)
			}
			return said
		})
	}
}

// Mutant: whoever has a rule sheds.
func TestAHotKeyIsOnlySeen(t *testing.T) {
	both(t, "without shed", strict(hot(false)), slowly, func(p *pair, at *member) (said []string) {
		owner := p.nodes[0]
		owner.edge.lasts(time.Hour)
		p.saturate(at, "/orders/7")
		if n := owner.metric("lanekeeper_hot_keys"); n != 1 {
			p.t.Errorf("%v hot keys", n)
		}
		for range 2 {
			at.async("POST", "/orders/7", nil, "")
		}
		a := at.send("POST", "/orders/7", nil, "")
		a.is(p.t, "a full lane", 429, "lane-full", "no")
		if n := owner.metric("lanekeeper_shed_total"); n != 0 || strings.Contains(a.problem.Detail, "hot") {
			p.t.Errorf("%v shed: %s", n, a.problem.Detail)
		}
		return append(said, a.problem.Detail)
	})
}

// Two nodes with two rules, as while a new configuration goes round: the lane is
// its owner's.
//
// Mutants: the owner has no rule for what was forwarded; it has one, and no depth.
func TestTheOwnersRuleSheds(t *testing.T) {
	for shedding := range 2 {
		bubble(t, strconv.Itoa(shedding), func(t *testing.T) {
			p := startPair(t, change{proxy: func(node int, c *proxy.Config) {
				hot(true)(&c.Routes[0].Lane)
				if node != shedding {
					c.Routes[0].Lane.Hot = nil
				}
			}}, slowly)
			waiting := p.saturate(p.nodes[1], "/orders/7")
			_, a := p.nodes[1].async("POST", "/orders/7", nil, "")
			for _, a := range waiting {
				<-a
			}
			if a, want := <-a, map[int]int{0: 429, 1: 200}[shedding]; a.status != want {
				t.Errorf("got %d, want %d", a.status, want)
			}
		})
	}
}

// What only watches is nothing that waits, and a node that is alone has a rule too.
//
// Mutant: Hot is passed on only in a cluster.
func TestAHotKeyOfANodeAlone(t *testing.T) {
	for _, mode := range []proxy.Mode{proxy.Enforce, proxy.Observe} {
		synctest.Test(t, func(t *testing.T) {
			n := start(t, func(c *proxy.Config) {
				hot(true)(&c.Routes[0].Lane)
				c.Routes[0].Lane.Mode = mode
			})
			for range 4 {
				async(n, "POST", "/orders/7", nil, "")
			}
			time.Sleep(6 * time.Second)
			n.lanes.Cool()
			hot := n.metric("lanekeeper_hot_keys", "route", "order")
			if want := map[proxy.Mode]float64{proxy.Enforce: 1, proxy.Observe: 0}[mode]; hot != want {
				t.Errorf("mode %d: %v hot keys, want %v", mode, hot, want)
			}
			if mode == proxy.Enforce {
				n.send("POST", "/orders/7", nil, "").is(t, "one too many", 429, "lane-full", "no")
			}
		})
	}
}

// Mutants: a hash of the escaped key; KeysNone writes an empty one.
func TestKeyStyles(t *testing.T) {
	for style, want := range map[proxy.KeyStyle]string{
		proxy.KeysPlain:  `"key":"order:a%20b"`,
		proxy.KeysHashed: `"key_hash":"2b0356354a61dc85"`,
		proxy.KeysNone:   ``,
	} {
		attr := style.Attr([]byte("order:a b"))
		have := ""
		if attr.Key != "" {
			value, err := json.Marshal(attr.Value.Any())
			if err != nil {
				t.Fatal(err)
			}
			have = strconv.Quote(attr.Key) + ":" + string(value)
		}
		if have != want {
			t.Errorf("style %d: got %s, want %s", style, have, want)
		}
	}
}
