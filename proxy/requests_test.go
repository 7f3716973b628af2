package proxy_test

import (
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/proxy/screen/screentest"
)

// TestRequestsByteByByte sends each request of the table in one piece and in single
// bytes, to a route with a key and to one without, and then asks on the same connection,
// if it stays, and on new ones, for what belongs to them alone.
//
// Mutants: the screen is not asked; a refusal that passes no byte; a bare line feed ends a
// line; Content-Length goes with Transfer-Encoding; a chunk's size may have spaces behind
// it; a header line may be folded; the last line of a refused head passes; any HTTP/1.
// Max-Forwards is not looked at; it is not counted down; it ends, or is counted down for,
// any method; it may be given twice; it may be no number, or not a long one; a body that
// it leaves unread does not close the connection.
func TestRequestsByteByByte(t *testing.T) {
	for _, c := range screentest.Cases() {
		for _, path := range []string{"/orders/7", "/else"} {
			if c.Queues && path == "/else" {
				continue
			}
			if path == "/else" && strings.Contains(strings.ToLower(c.Request), "\ntransfer-encoding:") {
				c.Stays = false // it is streamed, and the connection with it
			}
			for _, drips := range []bool{false, true} {
				name := c.Name + " " + path
				if drips {
					name += " dripping"
				}
				synctestCase(t, name, c, path, drips)
			}
		}
	}
}

func synctestCase(t *testing.T, name string, c screentest.Case, path string, drips bool) {
	place := strings.NewReplacer("/orders/7", path)
	bubble(t, name, func(t *testing.T) {
		var mu sync.Mutex
		var seen []message
		s := newScript(t, func(x *exchange) {
			mu.Lock()
			seen = append(seen, x.message)
			mu.Unlock()
			if strings.HasPrefix(x.start, "HEAD") {
				x.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				return
			}
			x.ok(x.body)
		})
		n := start(t, only(s))
		client := n.open()
		written := make(chan struct{})
		go func() { // ends with the bubble's connection
			defer close(written)
			pieces := []string{place.Replace(c.Request)}
			if drips {
				pieces = strings.SplitAfter(pieces[0], "")
			}
			for _, piece := range pieces {
				if _, err := io.WriteString(client.conn, piece); err != nil {
					return
				}
			}
		}()
		method, _, _ := strings.Cut(strings.TrimSpace(c.Request), " ")
		for i, want := range c.Want {
			m, err := readMessage(client.reader, method)
			if err != nil {
				t.Fatalf("answer %d: %v", i, err)
			}
			if m.status() != want.Status || want.Slug != "" && !strings.Contains(m.body, ":problem:"+want.Slug+`"`) {
				t.Errorf("answer %d: %s %q, want %d %s", i, m.start, m.body, want.Status, want.Slug)
			}
			if want.Slug != "" && (!strings.EqualFold(m.get("Connection"), "close") || !strings.Contains(m.body, `"executed":`)) {
				t.Errorf("answer %d: %q", i, m.head)
			}
		}
		if c.Stays {
			<-written
			if a := client.send("POST", "/orders/7/canary", nil, ""); a.body != "canary for /orders/7/canary" {
				t.Errorf("then, on the same connection: %d %q", a.status, a.body)
			}
		} else {
			client.conn.SetReadDeadline(time.Now().Add(time.Minute))
			if rest, err := io.ReadAll(client.reader); err != nil || len(rest) > 0 {
				t.Errorf("then, instead of an end: %q, %v", rest, err)
			}
		}
		client.conn.Close()
		for range 2 {
			if a := n.send("POST", "/orders/7/canary", nil, ""); a.body != "canary for /orders/7/canary" {
				t.Errorf("then, on another connection: %d %q", a.status, a.body)
			}
		}
		synctest.Wait()
		checkSeen(t, &c, place, seen)
		n.idle()
	})
}

// checkSeen compares what came to the service.
func checkSeen(t *testing.T, c *screentest.Case, place *strings.Replacer, seen []message) {
	t.Helper()
	taken := 0
	for _, want := range c.Want {
		if want.Status < 400 && !c.Here {
			taken++
		}
	}
	if len(seen) != taken {
		t.Fatalf("%d requests came to the service, want %d", len(seen), taken)
	}
	var starts []string
	for i := range seen {
		m := &seen[i]
		starts = append(starts, m.start)
		if c.Body != nil && m.body != *c.Body {
			t.Errorf("the body came as %q", m.body)
		}
		for _, field := range c.Fields {
			name, value, _ := strings.Cut(field, ":")
			if got := m.all(name); len(got) != 1 || strings.TrimSpace(value) != got[0] {
				t.Errorf("%s came as %q", name, got)
			}
		}
		for _, name := range append(c.Lacks, "Lanekeeper-Upload", "Lanekeeper-Refused") {
			if got := m.all(name); len(got) > 0 {
				t.Errorf("%s came: %q", name, got)
			}
		}
	}
	var want []string
	for _, start := range c.Starts {
		want = append(want, place.Replace(start))
	}
	if want != nil && !slices.Equal(starts, want) {
		t.Errorf("came: %q", starts)
	}
}
