package proxy_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/proxy"
)

// FuzzResponseRelay lets an upstream say anything, and end its connection or not. What the client
// gets is strict HTTP/1.1 all the same: responses in one framing each, without control bytes or
// what was of the upstream's hop; or it is a problem; or it breaks off where no length was
// known. Then the next request has its own answer, on the same connection unless that broke off.
func FuzzResponseRelay(f *testing.F) {
	for i := range answerCases {
		c := &answerCases[i]
		if len(c.response) < 1<<10 {
			f.Add([]byte(strings.ReplaceAll(c.response, "|", "")), c.then == "closes", strings.HasPrefix(c.request, "HEAD"), i%2 == 0)
		}
	}
	f.Add([]byte(hints+fine), true, false, true)
	f.Add([]byte(chunks+"5000\r\n"+strings.Repeat("x", 0x5000)+"\r\n0\r\n\r\n"), false, false, true)
	f.Fuzz(func(t *testing.T, said []byte, closes, head, laned bool) {
		synctest.Test(t, func(t *testing.T) { relayAnything(t, said, closes, head, laned) })
	})
}

func relayAnything(t *testing.T, said []byte, closes, head, laned bool) {
	s := newScript(t, func(x *exchange) {
		x.conn.Write(said)
		if closes {
			x.conn.Close()
		}
	})
	n := start(t, func(c *proxy.Config) {
		only(s)(c)
		c.Routes[0].Lane.UpstreamTimeout, c.Routes[0].Lane.HoldFor, c.BypassIdleTimeout = time.Second, time.Second, time.Second
	})
	method, path := "GET", "/else"
	if head {
		method = "HEAD"
	}
	if laned {
		path = "/orders/7"
	}
	c := n.open()
	got := new(bytes.Buffer)
	c.reader = bufio.NewReader(io.TeeReader(c.conn, got))
	fmt.Fprintf(c.conn, "%s %s HTTP/1.1\r\nHost: a\r\n\r\n", method, path)
	for over, broke := false, false; !over; over = over || broke {
		m, err := readMessage(c.reader, method)
		if m == nil || err != nil && (!errors.Is(err, io.ErrUnexpectedEOF) || m.framing == "none") {
			t.Fatalf("%q became %q: %v", said, got, err)
		}
		checkHead(t, m)
		broke = err != nil || m.framing == "close"
		over = m.status() >= 200
		if over || broke {
			time.Sleep(10*time.Second - time.Millisecond) // virtual: whatever was held is free
		}
		if broke {
			c = n.open()
		}
	}
	again := path + "/canary"
	request := "GET " + again + " HTTP/1.1\r\nHost: a\r\n\r\n"
	a := c.ask("GET", request)
	if closes && strings.Contains(a.body, ":upstream-connect") { // in memory an end is seen only when something is sent
		a = c.ask("GET", request)
	}
	if a.body != "canary for "+again {
		t.Fatalf("%q, and then the next request: %q %q", said, a.head, a.body)
	}
	n.idle()
}

// checkHead adds to what readMessage refuses: control bytes, and fields of another hop.
func checkHead(t *testing.T, m *message) {
	t.Helper()
	for _, char := range []byte(strings.ReplaceAll(m.head, "\r\n", "")) {
		if char < ' ' && char != '\t' || char == 0x7f {
			t.Errorf("a control byte: %q", m.head)
		}
	}
	if status := m.start[len("HTTP/1.1 "):]; !strings.HasPrefix(m.start, "HTTP/1.1 ") || len(status) < 4 || status[3] != ' ' || status[0] == '0' {
		t.Errorf("status line %q", m.start)
	}
	for _, line := range m.lines {
		for _, char := range []byte(line.name) {
			if !strings.ContainsRune("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", rune(char)) {
				t.Errorf("a name that is no token: %q", line.name)
			}
		}
		switch name := strings.ToLower(line.name); name {
		case "keep-alive", "proxy-connection", "te", "trailer", "upgrade":
			t.Errorf("%s went on: %q", name, m.head)
		case "connection":
			if line.value != "close" && line.value != "keep-alive" {
				t.Errorf("Connection: %s", line.value)
			}
		case "transfer-encoding":
			if m.framing != "chunked" {
				t.Errorf("a coding and no chunks: %q", m.head)
			}
		}
	}
}
