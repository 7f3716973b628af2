package proxy_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/proxy"
	"lanekeeper/queue"
)

const tooLarge = 64<<10 + 1 // too large to be read only to be dropped

// crowded is a node whose lane of order 7 is full: one runs, and four wait.
func crowded(t *testing.T, change func(*proxy.Config)) *node {
	t.Helper()
	n := start(t, func(c *proxy.Config) {
		c.MaxBody = 1 << 20
		patient(&c.Routes[0].Lane)
		if change != nil {
			change(c)
		}
	})
	for range 5 {
		async(n, "POST", "/orders/7", http.Header{"X-Order": {"7"}}, "")
	}
	return n
}

// announce sends a head, and returns the answer if one comes without a body; or else
// where it comes later.
func (c *client) announce(head string) (*answer, <-chan *answer) {
	c.t.Helper()
	answers := make(chan *answer, 1)
	fmt.Fprintf(c.conn, "%s\r\nHost: shop.example\r\n\r\n", head)
	go func() {
		a, _ := c.read("POST")
		answers <- a
	}()
	synctest.Wait()
	select {
	case a := <-answers:
		return a, nil
	default:
		return nil, answers
	}
}

// Who has no room is told so by the head alone, if the head says that he has none.
//
// Mutants: foresees says no; or yes, whatever the lanes say; findKeyIn is given all
// sources, or all that have a value without a body; a source that asks who sends is
// taken to need the head alone; the length is not looked at; lacksRoom asks for
// another partition, or takes the place.
func TestARefusalComesBeforeALargeBody(t *testing.T) {
	path := func(c *proxy.Config) {}
	from := func(sources ...proxy.Source) func(*proxy.Config) {
		return func(c *proxy.Config) { c.Routes[0].Key.From = sources }
	}
	byHeader, byQuery, byJSON := proxy.Source{Header: "X-Order"}, proxy.Source{Query: "order"}, proxy.Source{JSON: "order"}
	forwarded := proxy.Source{Header: "X-Forwarded-Order"}
	length := fmt.Sprintf("\r\nContent-Length: %d", tooLarge)
	for _, test := range []struct {
		name   string
		change func(*proxy.Config)
		head   string
		status int // 0: the body is awaited
		slug   string
	}{
		{"by depth", path, "POST /orders/7 HTTP/1.1" + length, 429, "lane-full"},
		{"of unknown length", path, "POST /orders/7 HTTP/1.1\r\nTransfer-Encoding: chunked", 429, "lane-full"},
		{"not invited", path, "POST /orders/7 HTTP/1.1\r\nExpect: 100-continue" + length, 429, "lane-full"},
		{"a small body is read", path, "POST /orders/7 HTTP/1.1\r\nContent-Length: 65536", 0, ""},
		{"another key", path, "POST /orders/8 HTTP/1.1" + length, 0, ""},
		{"a shared one", path, "GET /orders/7 HTTP/1.1" + length, 429, "lane-full"},
		{"by bytes", func(c *proxy.Config) { c.Routes[0].Lane.MaxDepth, c.Routes[0].Lane.MaxBytes = 9, tooLarge-1 }, "POST /orders/7 HTTP/1.1" + length, 429, "lane-full"},
		{"by bytes, just so", func(c *proxy.Config) { c.Routes[0].Lane.MaxDepth, c.Routes[0].Lane.MaxBytes = 9, tooLarge }, "POST /orders/7 HTTP/1.1" + length, 0, ""},
		{"larger than any may be", func(c *proxy.Config) { c.Routes[0].Lane.MaxDepth, c.Routes[0].Lane.MaxBytes = 9, 2<<20 }, "POST /orders/7 HTTP/1.1\r\nContent-Length: 1048577", 413, "body-too-large"},
		{"bypass", path, "OPTIONS /orders/7 HTTP/1.1" + length, 0, ""},
		{"it only watches", func(c *proxy.Config) { c.Routes[0].Lane.Mode = proxy.Observe }, "POST /orders/7 HTTP/1.1" + length, 0, ""},
		{"in a header", from(byHeader), "POST /orders/1 HTTP/1.1\r\nX-Order: 7" + length, 429, "lane-full"},
		{"in the query, behind a header", from(byHeader, byQuery), "POST /orders/1?order=7 HTTP/1.1" + length, 429, "lane-full"},
		{"the body may have it", from(byJSON, byHeader), "POST /orders/1 HTTP/1.1\r\nX-Order: 7" + length, 0, ""},
		{"before the body", from(byHeader, byJSON), "POST /orders/1 HTTP/1.1\r\nX-Order: 7" + length, 429, "lane-full"},
		{"only the body has it", from(byHeader, byJSON), "POST /orders/1 HTTP/1.1" + length, 0, ""},
		{"behind the body", from(byHeader, byJSON, byQuery), "POST /orders/1?order=7 HTTP/1.1" + length, 0, ""},
		{"composite", from(proxy.Source{All: []proxy.Source{byHeader}}), "POST /orders/1 HTTP/1.1\r\nX-Order: 7" + length, 429, "lane-full"},
		{"a proxy may have it", from(forwarded, byHeader), "POST /orders/1 HTTP/1.1\r\nX-Order: 7" + length, 0, ""},
		{"in a part, too", from(proxy.Source{All: []proxy.Source{forwarded}}, byHeader), "POST /orders/1 HTTP/1.1\r\nX-Order: 7" + length, 0, ""},
		{"two keys", from(byHeader), "POST /orders/1 HTTP/1.1\r\nX-Order: 7\r\nX-Order: 7" + length, 0, ""},
		{"another lane for some servers", path, "POST /orders/7/../8 HTTP/1.1" + length, 0, ""},
	} {
		bubble(t, test.name, func(t *testing.T) {
			n := crowded(t, test.change)
			before := fmt.Sprint(n.lanes.Totals())
			c := n.open()
			a, _ := c.announce(test.head)
			switch {
			case (a == nil) != (test.status == 0):
				t.Fatalf("got %+v, want status %d", a, test.status)
			case a == nil:
				return
			}
			a.is(t, test.name, test.status, test.slug, "no")
			if !a.close {
				t.Error("its connection is to live on, with a body that nobody reads")
			}
			if test.slug == "lane-full" && (a.problem.QueueDepth == nil || *a.problem.QueueDepth != 4 || a.problem.Instance == "" || a.problem.Route != "order") {
				t.Errorf("%+v", a.problem)
			}
			if after := fmt.Sprint(n.lanes.Totals()); after != before {
				t.Errorf("the lanes were %s, and are %s", before, after)
			}
			time.Sleep(2 * time.Second) // for who is still sending
			if _, err := c.reader.ReadByte(); !errors.Is(err, io.EOF) {
				t.Errorf("after the answer: %v", err)
			}
			if m := n.metric("lanekeeper_rejected_total", "reason", test.slug); m != 1 {
				t.Errorf("%v are counted", m)
			}
		})
	}
}

// What waits at the node counts against its bytes, and so does what would.
//
// Mutant: the request's own bytes are not added.
func TestANodeWithoutRoomSaysSoBeforeALargeBody(t *testing.T) {
	for _, waiting := range []int{1<<20 - tooLarge, 1<<20 - tooLarge + 1} { // that many fit, and no more
		synctest.Test(t, func(t *testing.T) {
			n := crowded(t, func(c *proxy.Config) { c.Routes[0].Lane.MaxDepth, c.Routes[0].Lane.MaxBytes = 9, 2<<20 })
			async(n, "POST", "/orders/8", nil, "")
			async(n, "POST", "/orders/8", nil, strings.Repeat("b", waiting))
			a, _ := n.open().announce(fmt.Sprintf("POST /orders/7 HTTP/1.1\r\nContent-Length: %d", tooLarge))
			if fits := waiting+tooLarge <= 1<<20; fits != (a == nil) {
				t.Fatalf("%d bytes wait: %+v", waiting, a)
			}
			if a != nil {
				a.is(t, "no room", 503, "overloaded", "no")
			}
			if got := n.metric("lanekeeper_queued_bytes", "route", "order"); got != float64(waiting) {
				t.Errorf("%v bytes are said to wait", got)
			}
		})
	}
}

// A key that is hot sheds large bodies by their head, and counts them.
func TestAHotKeyShedsBeforeALargeBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := crowded(t, func(c *proxy.Config) {
			c.Routes[0].Lane.MaxDepth, c.Routes[0].Lane.Shed = 9, true
			c.Routes[0].Lane.Hot = &queue.HotRule{Depth: 4, For: time.Second, CoolAfter: time.Minute}
		})
		time.Sleep(time.Second)
		n.lanes.Cool()
		a, _ := n.open().announce(fmt.Sprintf("POST /orders/7 HTTP/1.1\r\nContent-Length: %d", tooLarge))
		if a == nil {
			t.Fatal("the body is awaited")
		}
		a.is(t, "hot", 429, "lane-full", "no")
		if !strings.Contains(a.problem.Detail, "hot") || n.metric("lanekeeper_shed_total") != 1 {
			t.Errorf("%q, %v are counted", a.problem.Detail, n.metric("lanekeeper_shed_total"))
		}
	})
}

// A small body is dropped, and the connection serves the next request.
//
// Mutants: small bodies are refused early, too; the body is taken for the next
// request.
func TestASmallBodyIsDroppedAndItsConnectionLivesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := crowded(t, nil)
		c := n.open()
		for range 2 {
			a := c.send("POST", "/orders/7", nil, strings.Repeat("b", tooLarge-1))
			a.is(t, "a small body", 429, "lane-full", "no")
			if a.close {
				t.Fatal("its connection ends")
			}
		}
		c.write("POST", "/orders/8", nil, "mine")
		n.service.next() // of order 7
		if v := n.service.next(); v == nil || v.URL.Path != "/orders/8" || v.body != "mine" {
			t.Errorf("the next request: %+v", v)
		}
	})
}

// A client that sends its body all the same, over a socket, reads its answer: the
// connection is not reset under it.
//
// Mutant: the connection is closed with the body unread.
func TestWhoSendsALargeBodyAllTheSameReadsTheAnswer(t *testing.T) {
	release := make(chan struct{})
	s := newScript(t, func(x *exchange) { <-release; x.ok("") })
	n := startOnSockets(t, s, func(c *proxy.Config) { patient(&c.Routes[0].Lane) })
	defer close(release)
	for range 5 {
		c := n.open()
		fmt.Fprint(c.conn, "POST /orders/7 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
	}
	eventually(t, "the lane is full", func() bool { return n.lanes.Totals()[0].Waiting == 4 })
	for name, upload := range uploads {
		c := n.open()
		head, body := upload(256 << 10) // less than the sockets take
		fmt.Fprint(c.conn, "POST /orders/7 HTTP/1.1\r\nHost: a\r\n"+head)
		if err := body(c.conn); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		eventually(t, "the server has done with it", func() bool { return n.metric("lanekeeper_connections") == 5 })
		m := c.response("POST")
		if m.status() != 429 || m.get("Connection") != "close" {
			t.Errorf("%s: %q", name, m.head)
		}
		if _, err := c.reader.ReadByte(); !errors.Is(err, io.EOF) {
			t.Errorf("%s, after the answer: %v", name, err)
		}
	}
}

// Only the owner knows its lanes: elsewhere the body is awaited, and its owner
// refuses it.
//
// Mutant: lacksRoom does not say which partition.
func TestOnlyTheOwnerForeseesARefusal(t *testing.T) {
	for at, refuses := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			p := startPair(t, lane(patient), func(*exchange) { time.Sleep(time.Minute) })
			for range 1 + orders().Lane.MaxDepth {
				p.nodes[0].async("POST", "/orders/7", nil, "")
			}
			synctest.Wait()
			c := p.nodes[at].open()
			a, later := c.announce(fmt.Sprintf("POST /orders/7 HTTP/1.1\r\nContent-Length: %d", tooLarge))
			if (a != nil) != refuses {
				t.Fatalf("node %d: %+v", at, a)
			}
			if a == nil {
				io.WriteString(c.conn, strings.Repeat("b", tooLarge))
				a = <-later
			}
			a.is(t, "no room", 429, "lane-full", "no")
			if a.close != refuses {
				t.Errorf("node %d: closes %v", at, a.close)
			}
		})
	}
}

// Mutant: the field is not removed from what a client sends.
func TestNoClientSaysThatItIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, nil)
		n.service.handle(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ran") })
		for _, path := range []string{"/orders/7", "/else"} {
			for _, name := range []string{"Lanekeeper-Refused", "Lanekeeper-Upload"} {
				for _, head := range []string{"Trailer", name} {
					c := n.open()
					fmt.Fprintf(c.conn, "POST %s HTTP/1.1\r\nHost: a\r\n%s: %s\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n%s: 1\r\n\r\n", path, head, name, name)
					if a, err := c.read("POST"); err != nil || a.status != 200 {
						t.Errorf("%s, %s, %s: %d %s, %v", path, name, head, a.status, a.problem.Detail, err)
					}
				}
			}
		}
	})
}
