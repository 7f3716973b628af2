package proxy_test

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
)

// A switched protocol runs outside every lane, so none is offered that carries requests: it would
// take them past the lanes. And what the upstream switches to has to be what it was asked for.
//
// Mutants: the offer goes on as it is; one with h2c in it is dropped whole; HTTP/1.0 may upgrade;
// any 101 opens the tunnel; its hop-by-hop fields stay.
func TestWhatAnUpgradeMayLeadTo(t *testing.T) {
	for _, c := range []struct{ name, fields, offer, chosen string }{
		{"websocket", "Upgrade: websocket\r\n", "websocket", "websocket"},
		{"in capitals", "Upgrade: WebSocket\r\n", "WebSocket", "websocket"},
		{"another one", "Upgrade: SPDY/3.1, tcp\r\n", "SPDY/3.1, tcp", "tcp"},
		{"h2c", "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n", "", ""},
		{"h2c twice", "Upgrade: h2c,h2c\r\n", "", ""},
		{"h2c in two lines", "Upgrade: h2c\r\nUpgrade: H2C\r\n", "", ""},
		{"h2c before websocket", "Upgrade: h2c, websocket\r\n", "websocket", "websocket"},
		{"h2c behind websocket", "Upgrade: websocket ,, H2c\r\n", "websocket", "websocket"},
		{"h2c above websocket", "Upgrade: h2c\r\nUpgrade: websocket\r\n", "websocket", "websocket"},
		{"HTTP/2.0", "Upgrade: HTTP/2.0\r\n", "", ""},
		{"TLS", "Upgrade: TLS/1.0, HTTP/1.1\r\n", "", ""},
		{"one that was not offered", "Upgrade: websocket\r\n", "websocket", "h2c"},
		{"one that was taken away", "Upgrade: h2c, websocket\r\n", "websocket", "h2c"},
		{"two at once", "Upgrade: a, b\r\n", "a, b", "a, b"},
		{"none", "Upgrade: websocket\r\n", "websocket", ""},
	} {
		bubble(t, c.name, func(t *testing.T) {
			heads := make(chan message, 1)
			s := newScript(t, func(x *exchange) {
				heads <- x.message
				if x.get("Upgrade") == "" {
					x.ok("ordinary")
					return
				}
				x.write("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: 1\r\n")
				if c.chosen != "" {
					x.write("Upgrade: %s\r\n", c.chosen)
				}
				x.write("\r\nhello")
				x.conn.Close()
			})
			n := start(t, only(s))
			client := n.open()
			m := client.ask("GET", "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n"+c.fields+"\r\n")
			sent := <-heads
			if sent.get("Upgrade") != c.offer || (sent.get("Connection") == "Upgrade") != (c.offer != "") || sent.get("HTTP2-Settings") != "" {
				t.Errorf("the upstream got %q", sent.head)
			}
			switch {
			case c.offer == "":
				if m.status() != 200 || m.body != "ordinary" {
					t.Errorf("%q %q", m.head, m.body)
				}
			case strings.Contains(strings.ToLower(c.offer), c.chosen) && c.chosen != "" && !strings.Contains(c.chosen, ","):
				rest, _ := io.ReadAll(client.reader)
				if want := "HTTP/1.1 101 Switching Protocols\r\n" + via + "Connection: Upgrade\r\nUpgrade: " + c.chosen + "\r\n\r\nhello"; m.head+string(rest) != want {
					t.Errorf("%q, want %q", m.head+string(rest), want)
				}
			default:
				if m.status() != 502 || !strings.Contains(m.body, invalid) {
					t.Errorf("%q %q", m.head, m.body)
				}
			}
			synctest.Wait() // the tunnel has ended
			if a := n.send("GET", "/canary", nil, ""); a.body != "canary for /canary" {
				t.Errorf("the next request: %d %s %q", a.status, a.slug(), a.body)
			}
			n.idle()
		})
	}
	bubble(t, "HTTP/1.0", func(t *testing.T) {
		s := newScript(t, func(x *exchange) { x.ok(x.get("Upgrade") + x.get("Connection")) })
		n := start(t, only(s))
		if m := n.open().ask("GET", strings.Replace(upgradeRequest, "HTTP/1.1", "HTTP/1.0", 1)); m.status() != 200 || m.body != "" {
			t.Errorf("%q %q", m.head, m.body)
		}
	})
}

// What the forwarding of requests and responses owes to both sides, where the request's own fields
// decide. Mutant: a coding goes to an HTTP/1.0 client.
func TestAnswersToOldClients(t *testing.T) {
	for _, path := range []string{"/orders/7", "/else"} {
		for name, c := range map[string]struct{ method, response, want string }{
			"HEAD of chunks":  {"HEAD", chunks, "HTTP/1.1 200 OK\r\n" + via + "Connection: close\r\n\r\n"},
			"304 with coding": {"GET", "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 304 Not Modified\r\n" + via + "Connection: close\r\n\r\n"},
			"chunks":          {"GET", chunks + "2\r\nok\r\n0\r\n\r\n", ""},
			"interim":         {"GET", hints + fine, ""},
			"until it closes": {"GET", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok", ""},
		} {
			both(t, fmt.Sprint(name, path), change{}, func(x *exchange) {
				x.write("%s", c.response)
				if strings.Contains(c.response, "close") {
					x.conn.Close()
				}
			}, func(p *pair, at *member) []string {
				client := at.open()
				fmt.Fprintf(client.conn, "%s %s HTTP/1.0\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n", c.method, path)
				got, err := io.ReadAll(client.reader)
				head, body, _ := strings.Cut(string(got), "\r\n\r\n")
				if err != nil || strings.Contains(head, "chunked") || !strings.HasPrefix(head, "HTTP/1.1 ") || c.want != "" && string(got) != c.want || c.want == "" && body != "ok" {
					t.Errorf("%s%s: %q, %v; want %q", name, path, got, err, c.want)
				}
				return nil
			})
		}
	}
}
