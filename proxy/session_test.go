package proxy_test

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/proxy"
	"lanekeeper/proxy/upstream"
)

// issues has the first route take its key from a cookie that is issued.
func issues(c *proxy.Config) {
	c.Routes[0].Key.From = []proxy.Source{{Cookie: "lk", Issue: true}}
	c.Sessions = &proxy.Sessions{Secrets: [][]byte{bytes.Repeat([]byte{7}, 32)}, MaxAge: time.Hour, Path: "/", SameSite: "Lax"}
}

// given is the cookie of ours in an answer, empty if there is none, and the key in it.
func (a *answer) given(t *testing.T) (cookie http.Header, id string) {
	t.Helper()
	for _, line := range a.header["Set-Cookie"] {
		if pair, _, _ := strings.Cut(line, ";"); strings.HasPrefix(pair, "lk=") {
			if cookie != nil {
				t.Errorf("two cookies: %q", a.header["Set-Cookie"])
			}
			cookie = http.Header{"Cookie": {pair}}
			id, _, _ = strings.Cut(strings.TrimPrefix(pair, "lk="), ".")
		}
	}
	return cookie, id
}

// A client gets a session with its first answer, whatever that is, and keeps it: the same
// lane, under a cookie that is signed anew when half of its time is over.
//
// Mutants: the end of a cookie is not looked at; it is never signed anew, or always; no
// answer has one; what never came to its lane has one, or what has a key without it.
func TestASessionKeepsItsLane(t *testing.T) {
	bubble(t, "as long as it is used", func(t *testing.T) {
		n := start(t, issues)
		keys := make(chan string, 10)
		n.service.handle(func(w http.ResponseWriter, r *http.Request) {
			keys <- r.Header.Get("Lanekeeper-Key")
			w.Header()["Set-Cookie"] = []string{"a=b; Path=/x", "a=c"}
		})
		ask := func(cookie http.Header) (key string, given http.Header, id string) {
			t.Helper()
			a := n.send("POST", "/orders/7", cookie, "")
			given, id = a.given(t)
			if own := a.header["Set-Cookie"]; len(own) < 2 || own[0] != "a=b; Path=/x" || own[1] != "a=c" {
				t.Errorf("the upstream's cookies are %q", own)
			}
			return strings.TrimPrefix(<-keys, "order:"), given, id
		}
		key, cookie, id := ask(nil)
		if len(id) != 22 || key != id {
			t.Fatalf("the first request ran under %s, and was given %v", key, cookie)
		}
		other, _, _ := ask(nil)
		if other == key {
			t.Error("two clients have one session")
		}
		time.Sleep(30 * time.Minute)
		if again, anew, _ := ask(cookie); again != key || anew != nil {
			t.Errorf("at half its time it ran under %s and was given %v", again, anew)
		}
		time.Sleep(time.Second)
		again, anew, same := ask(cookie)
		if again != key || same != key || anew.Get("Cookie") == cookie.Get("Cookie") {
			t.Errorf("after half its time it ran under %s and was given %v", again, anew)
		}
		time.Sleep(40 * time.Minute)
		if again, _, _ := ask(anew); again != key {
			t.Errorf("the new cookie's lane is %s", again)
		}
		if again, _, id := ask(cookie); again == key || again != id {
			t.Errorf("a cookie that has ended: %s", again)
		}
		forged := http.Header{"Cookie": {strings.Replace(anew.Get("Cookie"), "lk="+key[:4], "lk=AAAA", 1)}}
		if again, _, id := ask(forged); again != id || strings.HasPrefix(again, "AAAA") {
			t.Errorf("a cookie of its own making: %s", again)
		}
		if again, _, id := ask(http.Header{"Cookie": {"lk="}}); again != id {
			t.Errorf("an empty cookie: %s", again)
		}
		if log := n.log.String(); strings.Contains(log, strings.TrimPrefix(cookie.Get("Cookie"), "lk=")) {
			t.Error("the cookie is in the log")
		}
	})
	bubble(t, "whatever the answer", func(t *testing.T) {
		n := start(t, issues)
		n.service.mu.Lock()
		n.service.down = true
		n.service.mu.Unlock()
		a := n.send("POST", "/orders/7", nil, "")
		a.is(t, "nobody listens", 502, "upstream-connect", "no")
		if cookie, _ := a.given(t); cookie == nil {
			t.Error("a problem has no cookie")
		}
		two := n.send("POST", "/orders/7", http.Header{"Cookie": {"lk=a; lk=b"}}, "")
		two.is(t, "two cookies", 400, "ambiguous-key", "no")
		if cookie, _ := two.given(t); cookie != nil {
			t.Error("what never had a lane has a cookie")
		}
		upgrade := n.send("POST", "/orders/7", http.Header{"Connection": {"Upgrade"}, "Upgrade": {"x"}}, "")
		upgrade.is(t, "an upgrade", 400, "upgrade-refused", "no")
		if cookie, _ := upgrade.given(t); cookie != nil {
			t.Error("what never came to its lane has a cookie")
		}
	})
	bubble(t, "within a key of several parts", func(t *testing.T) {
		n := start(t, func(c *proxy.Config) {
			issues(c)
			c.Routes[0].Key.From = []proxy.Source{{All: []proxy.Source{{Cookie: "lk", Issue: true}, {Header: "Tenant"}}}, {Path: "id"}}
		})
		n.service.handle(func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Key", r.Header.Get("Lanekeeper-Key")) })
		whole := n.send("POST", "/orders/7", http.Header{"Tenant": {"t"}}, "")
		if _, id := whole.given(t); id == "" || whole.header.Get("Key") != "order:"+id+"/t" {
			t.Errorf("key %q, given %q", whole.header.Get("Key"), id)
		}
		if half := n.send("POST", "/orders/7", nil, ""); half.header.Get("Key") != "order:7" || half.header["Set-Cookie"] != nil {
			t.Errorf("a key without a session: %q, %q", half.header.Get("Key"), half.header["Set-Cookie"])
		}
	})
	bubble(t, "with a streaming answer", func(t *testing.T) {
		n := start(t, issues)
		n.service.handle(func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, 100_000)) })
		if a := n.send("POST", "/orders/7", nil, ""); len(a.body) != 100_000 || a.header["Set-Cookie"] == nil {
			t.Errorf("%d bytes, %q", len(a.body), a.header["Set-Cookie"])
		}
	})
}

// The ingress issues, wherever the lane is.
//
// Mutant: only what has its lane at the ingress gets a cookie.
func TestTheIngressIssuesSessions(t *testing.T) {
	for _, status := range []int{200, 502} {
		bubble(t, fmt.Sprint(status), func(t *testing.T) {
			p := startPair(t, change{proxy: func(_ int, c *proxy.Config) { issues(c) }}, nil)
			_, a := p.nodes[1].async("POST", "/orders/7", nil, "")
			x := p.ran("/orders/7", p.nodes[0])
			key := x.get("Lanekeeper-Key")
			if status == 200 {
				x.finish("")
			} else {
				x.conn.Close()
			}
			got := <-a
			if _, id := got.given(t); got.status != status || key != "order:"+id {
				t.Errorf("%d, ran under %s, given %q", got.status, key, got.header["Set-Cookie"])
			}
		})
	}
}

// A session's requests outside lanes keep to one target, small or streamed.
//
// Mutants: bypass requests have no key for the choice; an upload's answer has no cookie.
func TestASessionKeepsItsTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dialled atomic.Value
		n := start(t, func(c *proxy.Config) {
			issues(c)
			c.Routes[0].Lane = proxy.Lane{Bypass: []string{"*"}}
			reach := c.Upstreams[0].Dial
			c.Upstreams[0].Balance, c.Upstreams[0].Targets = upstream.KeyHash, []string{"http://a", "http://b", "http://c", "http://d"}
			c.Upstreams[0].Dial = func(address string) (net.Conn, error) {
				dialled.Store(address)
				return reach(address)
			}
		})
		n.service.handle(func(w http.ResponseWriter, r *http.Request) { // a new connection for each
			w.Header().Set("Connection", "close")
			if r.Header.Get("Lanekeeper-Key") != "" {
				t.Error("a request outside lanes has a key")
			}
		})
		targets := make(map[any]int)
		for _, body := range []string{"", strings.Repeat("b", 100_000)} {
			for range 10 {
				a := n.send("POST", "/orders/7", nil, body)
				cookie, _ := a.given(t)
				if cookie == nil {
					t.Fatalf("no cookie: %d %s", a.status, a.slug())
				}
				first := dialled.Load()
				targets[first]++
				for range 2 {
					if again := n.send("GET", "/orders/7", cookie, ""); again.status != 200 || again.header["Set-Cookie"] != nil || dialled.Load() != first {
						t.Fatalf("%d, at %v after %v, given %q", again.status, dialled.Load(), first, again.header["Set-Cookie"])
					}
				}
			}
		}
		if len(targets) < 2 { // by chance once in 10¹¹
			t.Errorf("20 sessions are at %v", targets)
		}
		n.send("GET", "/orders/7", http.Header{"Cookie": {"lk=a; lk=b"}}, "").is(t, "two cookies", 400, "ambiguous-key", "no")
	})
}
