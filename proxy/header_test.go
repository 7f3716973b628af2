package proxy_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/proxy"
)

// headers runs a node whose upstream answers with response, byte by byte, and
// returns what the upstream got of a raw request and the client of the response.
func headers(t *testing.T, from, request, response string, change func(*proxy.Config)) (sent, got *message) {
	t.Helper()
	arrived := make(chan *message, 1)
	s := newScript(t, func(x *exchange) {
		arrived <- &x.message
		x.write("%s", response)
		if !strings.Contains(response, "Content-Length") && !strings.Contains(response, " 204 ") {
			x.conn.Close()
		}
	})
	n := start(t, func(c *proxy.Config) {
		c.Upstreams[0].Dial = s.dial
		if change != nil {
			change(c)
		}
	})
	method, _, _ := strings.Cut(request, " ")
	got = n.from(from).ask(method, request)
	select {
	case sent = <-arrived:
	default:
	}
	return sent, got
}

// from connects a client with an address of its own.
func (n *node) from(address string) *client {
	n.t.Helper()
	if address == "" {
		return n.open()
	}
	conn, err := n.listener.DialWithLocalAddr(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(address)))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { conn.Close() })
	return &client{t: n.t, conn: conn, reader: bufio.NewReader(conn)}
}

const fine = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

var ticketText = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`)

// Every byte of two heads. Mutants: a default Content-Type or User-Agent is
// invented; the path is cleaned; Lanekeeper-Key on a bypass request; local time
// in the deadline.
func TestTheHeadThatTheUpstreamGets(t *testing.T) {
	for _, c := range []struct{ name, request, want string }{
		{
			"laned",
			"PUT /orders/%C3%A9%25/x?a=1&&b=%2f HTTP/1.1\r\nHost: Shop.example:8080\r\naccept: */*\r\nX-Twice: 1\r\nX-TWICE: 2\r\nContent-Length: 4\r\n\r\nbody",
			"PUT /orders/%C3%A9%25/x?a=1&&b=%2f HTTP/1.1\r\nHost: Shop.example:8080\r\nContent-Length: 4\r\nAccept: */*\r\nX-Twice: 1\r\nX-Twice: 2\r\n" +
				"Via: 1.1 lanekeeper\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: Shop.example:8080\r\n" +
				"Lanekeeper-Key: order:%C3%A9%25\r\nLanekeeper-Ticket: TICKET\r\nLanekeeper-Deadline: 2000-01-01T00:00:30.000Z\r\n\r\n",
		},
		{
			"bypass",
			"GET /a%2Fb//c/../d?x=1&&y HTTP/1.1\r\nHost: shop.example\r\n\r\n",
			"GET /a%2Fb//c/../d?x=1&&y HTTP/1.1\r\nHost: shop.example\r\n" +
				"Via: 1.1 lanekeeper\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: shop.example\r\n\r\n",
		},
	} {
		bubble(t, c.name, func(t *testing.T) {
			sent, _ := headers(t, "192.0.2.7:999", c.request, fine, nil)
			if got := ticketText.ReplaceAllString(sent.head, "TICKET"); got != c.want {
				t.Errorf("got\n%q\nwant\n%q", got, c.want)
			}
		})
	}
}

// Mutant: the target is rebuilt from its parsed form.
func TestTheTargetStaysByteForByte(t *testing.T) {
	for _, c := range []struct{ target, want string }{
		{"/", "/"},
		{"/?", "/?"},
		{"//", "//"},
		{"/a/./b/../c//d/", "/a/./b/../c//d/"},
		{"/a%2fb%2Fc%20d+e", "/a%2fb%2Fc%20d+e"},
		{"/a?b=c?d=/../e&f;g=%zz", "/a?b=c?d=/../e&f;g=%zz"},
		{"/\x80\xff", "/\x80\xff"},
		{"/a'b(c)[d]{e}|f^g`h\\i", "/a'b(c)[d]{e}|f^g`h\\i"},
		{"http://shop.example/a//b?c", "/a//b?c"},
		{"http://SHOP.example?c", "/?c"},
		{"HTTP://shop.example", "/"},
	} {
		bubble(t, c.target, func(t *testing.T) {
			sent, got := headers(t, "", "GET "+c.target+" HTTP/1.1\r\nHost: shop.example\r\n\r\n", fine, nil)
			if sent == nil {
				t.Fatalf("refused: %s", got.body)
			}
			if want := "GET " + c.want + " HTTP/1.1"; sent.start != want {
				t.Errorf("got %q, want %q", sent.start, want)
			}
		})
	}
}

// Mutants: nominated fields stay; only the first Connection line counts;
// "close" hides what stands beside it; the upstream's close closes the client's
// connection; a field that frames can be nominated away.
func TestHopByHopFieldsEnd(t *testing.T) {
	const gone = "Keep-Alive: timeout=5\r\nProxy-Connection: x\r\nTE: trailers\r\nUpgrade: h2c\r\nTrailer: X-Late\r\n" +
		"X-One: 1\r\nX-Two: 2\r\nX-Three: 3\r\nX-Kept: kept\r\n"
	for _, connection := range []string{
		"Connection: X-One, x-two ,\tX-THREE, Upgrade, HTTP2-Settings\r\n",
		"Connection: X-One\r\nConnection: X-Two, X-Three\r\n",
		"Connection: close, X-One, X-Two, X-Three\r\n",
		"Connection: close\r\nConnection: X-One, X-Two, X-Three\r\n",
		"Connection: X-One, X-Two\r\nConnection: close\r\nConnection: X-Three\r\n",
		"Connection: X-One, X-Two, X-Three, Content-Length, Host, Via, X-Forwarded-For, Lanekeeper-Key\r\n",
	} {
		bubble(t, connection, func(t *testing.T) {
			sent, got := headers(t, "",
				"POST /orders/7 HTTP/1.1\r\nHost: a\r\n"+connection+gone+"Proxy-Authorization: Basic eA==\r\nContent-Length: 4\r\n\r\nbody",
				"HTTP/1.1 200 OK\r\n"+connection+gone+"Proxy-Authenticate: Basic\r\nContent-Length: 2\r\n\r\nok", nil)
			for side, m := range map[string]*message{"request": sent, "response": got} {
				for _, name := range []string{"Keep-Alive", "Proxy-Connection", "Te", "Upgrade", "Trailer", "X-One", "X-Two", "X-Three", "Proxy-Authorization", "Proxy-Authenticate"} {
					if values := m.all(name); values != nil {
						t.Errorf("%s: %s: %q went on", side, name, values)
					}
				}
				if m.get("X-Kept") != "kept" || m.get("Via") != "1.1 lanekeeper" || m.get("Content-Length") == "" {
					t.Errorf("%s: a field is missing: %q", side, m.head)
				}
			}
			if sent.body != "body" || got.body != "ok" || sent.get("Connection") != "" {
				t.Errorf("%q %q %q", sent.head, sent.body, got.body)
			}
			if sent.get("X-Forwarded-For") == "" || sent.get("Lanekeeper-Key") != "order:7" || sent.get("Host") != "a" {
				t.Errorf("a client took a field of ours away: %q", sent.head)
			}
			wants := ""
			if strings.Contains(connection, "close") { // the client's own, not the upstream's
				wants = "close"
			}
			if got.get("Connection") != wants {
				t.Errorf("Connection %q, want %q", got.get("Connection"), wants)
			}
		})
	}
	bubble(t, "the upstream's close is its own", func(t *testing.T) {
		_, got := headers(t, "", "GET /orders/7 HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", nil)
		if got.get("Connection") != "" {
			t.Errorf("Connection %q", got.get("Connection"))
		}
	})
}

// Mutants: reserved knows hyphens only; trailers become fields; Producer and Seq
// are removed; an inbound Lanekeeper-Key stands before ours.
func TestLanekeepersFieldsCannotBeForged(t *testing.T) {
	const forged = "Lanekeeper-Key: order:8\r\nLANEKEEPER-KEY: order:9\r\nLanekeeper_Key: order:8\r\nlanekeeper_key: order:8\r\n" +
		"Lanekeeper-Ticket: 01890a5d-ac96-774b-bcce-b302099a8057\r\nLanekeeper_Ticket: x\r\nLanekeeper-Deadline: 2099-01-01T00:00:00.000Z\r\n" +
		"Lanekeeper-Fence: 99\r\nLanekeeper_fence: 99\r\nLanekeeper-Upload: 9\r\nLanekeeper-Anything: x\r\n" +
		"Lanekeeper_Producer: evil\r\nLanekeeper_Seq: 9\r\nLanekeeper-Producer: till-4;epoch=2\r\nLanekeeper-Seq: 17\r\n"
	for _, c := range []struct{ name, request, key string }{
		{"laned", "POST /orders/7 HTTP/1.1\r\nHost: a\r\n" + forged + "Content-Length: 4\r\n\r\nbody", "order:7"},
		{"bypass", "POST /else HTTP/1.1\r\nHost: a\r\n" + forged + "Content-Length: 4\r\n\r\nbody", ""},
		{"trusted", "POST /orders/7 HTTP/1.1\r\nHost: a\r\n" + forged + "Content-Length: 4\r\n\r\nbody", "order:7"},
		{"laned, behind the body", "POST /orders/7 HTTP/1.1\r\nHost: a\r\nLanekeeper-Producer: till-4;epoch=2\r\nLanekeeper-Seq: 17\r\nTransfer-Encoding: chunked\r\n\r\n" +
			"4\r\nbody\r\n0\r\n" + forged + "X-Late: 1\r\n\r\n", "order:7"},
		{"laned, announced", "POST /orders/7 HTTP/1.1\r\nHost: a\r\nLanekeeper-Producer: till-4;epoch=2\r\nLanekeeper-Seq: 17\r\nTransfer-Encoding: chunked\r\n" +
			"Trailer: Lanekeeper-Key, Lanekeeper-Fence, Lanekeeper-Producer, X-Late\r\n\r\n4\r\nbody\r\n0\r\n" + forged + "X-Late: 1\r\n\r\n", "order:7"},
		{"bypass, behind the body", "POST /else HTTP/1.1\r\nHost: a\r\nLanekeeper-Producer: till-4;epoch=2\r\nLanekeeper-Seq: 17\r\nTransfer-Encoding: chunked\r\n\r\n" +
			"4\r\nbody\r\n0\r\n" + forged + "X-Late: 1\r\n\r\n", ""},
	} {
		bubble(t, c.name, func(t *testing.T) {
			sent, _ := headers(t, "192.0.2.7:999", c.request, fine, func(config *proxy.Config) {
				if c.name == "trusted" {
					config.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
				}
			})
			var names []string
			for _, line := range sent.lines {
				if name := strings.ToLower(line.name); strings.HasPrefix(strings.ReplaceAll(name, "_", "-"), "lanekeeper") || name == "x-late" {
					names = append(names, name)
				}
			}
			slices.Sort(names)
			want := []string{"lanekeeper-producer", "lanekeeper-seq"}
			if c.key != "" {
				want = []string{"lanekeeper-deadline", "lanekeeper-key", "lanekeeper-producer", "lanekeeper-seq", "lanekeeper-ticket"}
			}
			if !slices.Equal(names, want) || sent.get("Lanekeeper-Key") != c.key || sent.get("Lanekeeper-Producer") != "till-4;epoch=2" || sent.get("Lanekeeper-Seq") != "17" {
				t.Errorf("got %q\n%s", names, sent.head)
			}
			if sent.body != "body" {
				t.Errorf("body %q", sent.body)
			}
		})
	}
}

// A body that streams is hidden from fasthttp behind a field of this name; a
// client that announces the field as a trailer got the body read as its next
// request. Mutant: hideBody leaves Trailer alone.
func TestAHiddenBodyCannotBeTakenForARequest(t *testing.T) {
	for _, trailer := range []string{"Lanekeeper-Upload", "lanekeeper-upload, X-Other"} {
		bubble(t, trailer, func(t *testing.T) {
			s := newScript(t, func(x *exchange) { x.ok(x.start + "|" + x.body) })
			n := start(t, func(c *proxy.Config) { c.Upstreams[0].Dial = s.dial })
			inner := "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
			c := n.open()
			m := c.ask("POST", fmt.Sprintf("POST /else HTTP/1.1\r\nHost: a\r\nTrailer: %s\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", trailer, len(inner), inner))
			if m.body != "POST /else HTTP/1.1|"+inner {
				t.Errorf("%s %q", m.start, m.body)
			}
			if s.executed() != 1 {
				t.Errorf("one request ran as %q", s.ran)
			}
		})
	}
}

// What follows a body that streamed is lost with its connection, never run.
func TestNothingRunsBehindAnUpload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t, func(x *exchange) { x.ok(x.start) })
		n := start(t, only(s))
		c := n.open()
		m := c.ask("POST", "POST /else HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\nPOST /orders/7 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
		if m.body != "POST /else HTTP/1.1" || m.get("Connection") != "close" {
			t.Errorf("%q %q", m.head, m.body)
		}
		if rest, err := io.ReadAll(c.reader); len(rest) > 0 || err != nil || s.executed() != 1 {
			t.Errorf("then %q, %v; ran: %q", rest, err, s.ran)
		}
	})
}

// Mutants: fasthttp's reading of the cookies goes on; a client's nomination
// takes them for good.
func TestCookiesStayAsTheyAre(t *testing.T) {
	for _, lines := range [][]string{
		{`a=1; b=2`},
		{`a=1;b=2;;c`},
		{`cart={"items":["x\"y"]}; q="quoted"; e=`},
		{`a=1`, `a=2; b="\"`},
		{"a=\xc3\xa9 b , c"},
	} {
		bubble(t, strings.Join(lines, "|"), func(t *testing.T) {
			request := "GET /orders/7 HTTP/1.1\r\nHost: a\r\n"
			for _, line := range lines {
				request += "cookie: " + line + "\r\n"
			}
			sent, _ := headers(t, "", request+"X-Last: 1\r\n\r\n", fine, nil)
			if got := sent.all("Cookie"); !slices.Equal(got, lines) {
				t.Errorf("got %q, want %q", got, lines)
			}
		})
	}
}

// Mutants: the connection's address counts as trusted; a client's own
// X-Forwarded-For is kept; only -For, -Proto and -Host are known; IPv6 without
// brackets; a quote in Host ends the value.
func TestWhoTheClientWas(t *testing.T) {
	const claims = "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-For: 198.51.100.1, 10.0.0.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: public.example\r\n" +
		"X-Forwarded-Port: 443\r\nX_Forwarded_For: 6.6.6.6\r\nForwarded: for=203.0.113.9;proto=https\r\n"
	for _, c := range []struct {
		name, from, host, claims string
		style                    proxy.Forwarded
		want                     []string // all fields of both families, in order
	}{
		{"nothing claimed", "192.0.2.7:9", "shop", "", proxy.ForwardedX,
			[]string{"X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: http", "X-Forwarded-Host: shop"}},
		{"untrusted claims", "192.0.2.7:9", "shop", claims, proxy.ForwardedX,
			[]string{"X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: http", "X-Forwarded-Host: shop"}},
		{"untrusted claims, rfc7239", "192.0.2.7:9", "shop", claims, proxy.ForwardedRFC,
			[]string{`Forwarded: for=192.0.2.7;host="shop";proto=http`}},
		{"untrusted claims, both", "192.0.2.7:9", "shop", claims, proxy.ForwardedBoth,
			[]string{"X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: http", "X-Forwarded-Host: shop", `Forwarded: for=192.0.2.7;host="shop";proto=http`}},
		{"untrusted claims, none", "192.0.2.7:9", "shop", claims, proxy.ForwardedNone, nil},
		{"trusted claims", "10.0.0.2:9", "shop", claims, proxy.ForwardedX,
			[]string{"X-Forwarded-Proto: https", "X-Forwarded-Host: public.example", "X-Forwarded-Port: 443", "X_forwarded_for: 6.6.6.6", "Forwarded: for=203.0.113.9;proto=https",
				"X-Forwarded-For: 203.0.113.9, 198.51.100.1, 10.0.0.1, 10.0.0.2"}},
		{"trusted claims, rfc7239", "10.0.0.2:9", "shop", claims, proxy.ForwardedRFC,
			[]string{"X-Forwarded-For: 203.0.113.9", "X-Forwarded-For: 198.51.100.1, 10.0.0.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: public.example", "X-Forwarded-Port: 443", "X_forwarded_for: 6.6.6.6",
				`Forwarded: for=203.0.113.9;proto=https, for=10.0.0.2;host="shop";proto=http`}},
		{"trusted claims, none", "10.0.0.2:9", "shop", "X-Forwarded-For: 203.0.113.9\r\nForwarded: for=203.0.113.9\r\n", proxy.ForwardedNone,
			[]string{"X-Forwarded-For: 203.0.113.9", "Forwarded: for=203.0.113.9"}},
		{"trusted, nothing claimed", "10.0.0.2:9", "shop", "", proxy.ForwardedX,
			[]string{"X-Forwarded-For: 10.0.0.2", "X-Forwarded-Proto: http", "X-Forwarded-Host: shop"}},
		{"IPv6", "[2001:db8::7]:9", "[::1]:80", "", proxy.ForwardedBoth,
			[]string{"X-Forwarded-For: 2001:db8::7", "X-Forwarded-Proto: http", "X-Forwarded-Host: [::1]:80", `Forwarded: for="[2001:db8::7]";host="[::1]:80";proto=http`}},
		{"IPv4 in IPv6, trusted", "[::ffff:10.0.0.2]:9", "shop", "X-Forwarded-For: 203.0.113.9\r\n", proxy.ForwardedX,
			[]string{"X-Forwarded-For: 203.0.113.9, 10.0.0.2", "X-Forwarded-Proto: http", "X-Forwarded-Host: shop"}},
		{"IPv6 with a zone", "[fe80::7%eth0]:9", "shop", "", proxy.ForwardedRFC,
			[]string{`Forwarded: for="[fe80::7]";host="shop";proto=http`}},
	} {
		bubble(t, c.name, func(t *testing.T) {
			sent, got := headers(t, c.from, "GET /orders/7 HTTP/1.1\r\nHost: "+c.host+"\r\n"+c.claims+"\r\n", fine, func(config *proxy.Config) {
				config.Forwarded = c.style
				config.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
			})
			if sent == nil {
				t.Fatalf("refused: %s %s", got.start, got.body)
			}
			var have []string
			for _, line := range sent.lines {
				if name := strings.ToLower(line.name); strings.HasPrefix(name, "x-forwarded") || strings.HasPrefix(name, "x_forwarded") || name == "forwarded" {
					have = append(have, line.name+": "+line.value)
				}
			}
			slices.Sort(have)
			slices.Sort(c.want)
			if !slices.Equal(have, c.want) {
				t.Errorf("got  %q\nwant %q", have, c.want)
			}
			if sent.get("Host") != c.host {
				t.Errorf("Host %q", sent.get("Host"))
			}
		})
	}
}

// Mutants: the ticket is drawn after the wait; the deadline is that of the
// arrival.
func TestTicketsRiseAndDeadlinesTell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent []*message
		s := newScript(t, func(x *exchange) {
			if strings.Contains(x.start, "else") {
				x.ok("")
				return
			}
			sent = append(sent, &x.message)
			want := time.Now().Add(30 * time.Second).UTC().Format("2006-01-02T15:04:05.000Z")
			if got := x.get("Lanekeeper-Deadline"); got != want {
				t.Errorf("deadline %q, want %q", got, want)
			}
			time.Sleep(1234 * time.Millisecond)
			x.ok("")
		})
		n := start(t, func(c *proxy.Config) { c.Upstreams[0].Dial = s.dial; c.TicketHeader = true })
		began := time.Now()
		var answers []<-chan *answer
		for range 4 {
			answers = append(answers, async(n, "POST", "/orders/7", nil, ""))
		}
		var all []*answer
		for _, answer := range answers {
			all = append(all, <-answer)
		}
		for i, a := range all {
			if got := a.header.Get("Lanekeeper-Ticket"); got != sent[i].get("Lanekeeper-Ticket") || !ticketText.MatchString(got) {
				t.Errorf("the client's ticket %q, the upstream's %q", got, sent[i].get("Lanekeeper-Ticket"))
			}
		}
		if took := time.Since(began); took != 4*1234*time.Millisecond {
			t.Errorf("they took %v", took)
		}
		for i := 1; i < len(sent); i++ {
			if a, b := sent[i-1].get("Lanekeeper-Ticket"), sent[i].get("Lanekeeper-Ticket"); a >= b || a[24:] != b[24:] {
				t.Errorf("tickets %s, %s do not rise within one process", a, b)
			}
		}
		if a := n.send("GET", "/else", nil, ""); a.header.Get("Lanekeeper-Ticket") != "" {
			t.Error("a ticket outside lanes")
		}
	})
}

// Mutants: fasthttp's Date, Server or Content-Type; the upstream's version goes
// on; a body or a length is made up for responses that have none.
func TestTheResponseStaysAsItIs(t *testing.T) {
	const end = "Via: 1.1 lanekeeper\r\n"
	for _, c := range []struct{ name, request, response, want, body string }{
		{"bare", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + end + "\r\n", "ok"},
		{"its own fields", "GET", "HTTP/1.1 200 OK\r\nserver: s/1\r\ndate: Mon, 01 Jan 2001 00:00:00 GMT\r\ncontent-type: text/x\r\nSet-Cookie: a=1\r\nSet-Cookie: b=\"2\"; Path=/\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 2\r\n\r\nok",
			"HTTP/1.1 200 OK\r\nServer: s/1\r\nContent-Type: text/x\r\nContent-Length: 2\r\nDate: Mon, 01 Jan 2001 00:00:00 GMT\r\nX-A: 1\r\nX-A: 2\r\n" + end + "Set-Cookie: a=1\r\nSet-Cookie: b=\"2\"; Path=/\r\n\r\n", "ok"},
		{"another Via", "GET", "HTTP/1.1 200 OK\r\nVia: 1.0 other\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nVia: 1.0 other\r\n" + end + "\r\n", ""},
		{"a reason of its own", "GET", "HTTP/1.1 299 Nearly Fine\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 299 Nearly Fine\r\nContent-Length: 2\r\n" + end + "\r\n", "ok"},
		{"no body", "GET", "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 204 No Content\r\n" + end + "\r\n", ""},
		{"no body, but a length", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", "HTTP/1.1 204 No Content\r\n" + end + "\r\n", ""},
		{"not modified", "GET", "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 5\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nEtag: \"x\"\r\n" + end + "\r\n", ""},
		{"HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\nContent-Type: a/b\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nContent-Length: 5000\r\n" + end + "\r\n", ""},
		{"HEAD, lengthless", "HEAD", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\n" + end + "\r\n", ""},
		{"HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + end + "\r\n", "ok"},
		{"lengthless", "GET", "HTTP/1.1 200 OK\r\n\r\nok", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + end + "\r\n", "ok"},
		{"chunked", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + end + "\r\n", "ok"},
		{"chunked and large", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n800\r\n" + strings.Repeat("x", 2048) + "\r\n0\r\nX-T: 1\r\n\r\n",
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + end + "\r\n", strings.Repeat("x", 2048)},
		{"HTTP/1.0 and large", "GET", "HTTP/1.0 200 OK\r\n\r\n" + strings.Repeat("x", 2048), "HTTP/1.1 200 OK\r\n" + end + "Transfer-Encoding: chunked\r\n\r\n", strings.Repeat("x", 2048)},
	} {
		bubble(t, c.name, func(t *testing.T) {
			_, got := headers(t, "", c.request+" /orders/7 HTTP/1.1\r\nHost: a\r\n\r\n", c.response, nil)
			if got.head != c.want || got.body != c.body {
				t.Errorf("got\n%q %q\nwant\n%q %q", got.head, got.body, c.want, c.body)
			}
		})
	}
	bubble(t, "with the node's name", func(t *testing.T) {
		sent, got := headers(t, "", "GET /orders/7 HTTP/1.1\r\nHost: a\r\n\r\n", fine, func(c *proxy.Config) { c.ViaNode = true })
		if want := "1.1 lanekeeper (test)"; sent.get("Via") != want || got.get("Via") != want {
			t.Errorf("Via %q, %q", sent.get("Via"), got.get("Via"))
		}
	})
}

// An HTTP/1.0 client and an HTTP/1.1 upstream. Mutants: the client's version
// goes on; chunks to a client that cannot read them.
func TestAnOldClient(t *testing.T) {
	large := strings.Repeat("x", 2048)
	chunked := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n800\r\n" + large + "\r\n0\r\n\r\n"
	for _, c := range []struct{ name, request, response, start, host, body, connection string }{
		{"no Host", "GET /orders/7 HTTP/1.0\r\n\r\n", fine, "GET /orders/7 HTTP/1.1", "app:80", "ok", "close"},
		{"keep-alive", "GET /orders/7 HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", fine, "GET /orders/7 HTTP/1.1", "a", "ok", "keep-alive"},
		{"laned stream", "GET /orders/7 HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", chunked, "GET /orders/7 HTTP/1.1", "a", large, "close"},
		{"bypass stream", "GET /else HTTP/1.0\r\nHost: a\r\n\r\n", chunked, "GET /else HTTP/1.1", "a", large, "close"},
		{"upload", "POST /else HTTP/1.0\r\nHost: a\r\nContent-Length: 70000\r\n\r\n" + strings.Repeat("y", 70000), chunked, "POST /else HTTP/1.1", "a", large, "close"},
	} {
		bubble(t, c.name, func(t *testing.T) {
			sent, got := headers(t, "", c.request, c.response, nil)
			if sent.start != c.start || sent.get("Host") != c.host || sent.get("Connection") != "" {
				t.Errorf("the upstream got %q", sent.head)
			}
			if got.framing == "chunked" || got.body != c.body || got.get("Connection") != c.connection {
				t.Errorf("the client got %q, %d bytes", got.head, len(got.body))
			}
		})
	}
}

// Mutants: a member is missing or misspelt; Retry-After without its bounds;
// Proxy-Status without quotes; what the upstream sent before stays.
func TestAProblemInFull(t *testing.T) {
	type members map[string]any
	parse := func(t *testing.T, m *message) (p members) {
		t.Helper()
		if err := json.Unmarshal([]byte(m.body), &p); err != nil {
			t.Fatalf("%q: %v", m.body, err)
		}
		return p
	}
	bubble(t, "outside lanes", func(t *testing.T) {
		n := start(t, func(c *proxy.Config) { c.Routes = c.Routes[:1]; c.TicketHeader = true })
		got := n.open().ask("GET", "GET /else HTTP/1.1\r\nHost: a\r\n\r\n")
		want := "HTTP/1.1 404 Not Found\r\nDate: DATE\r\nContent-Type: application/problem+json\r\nContent-Length: LENGTH\r\n" +
			"Proxy-Status: lanekeeper; error=destination_not_found; details=\"no-route\"\r\nCache-Control: no-store\r\n\r\n"
		head := strings.Replace(got.head, strconv.Itoa(len(got.body)), "LENGTH", 1)
		if head = strings.Replace(head, got.get("Date"), "DATE", 1); head != want {
			t.Errorf("got\n%q\nwant\n%q", head, want)
		}
		p := parse(t, got)
		delete(p, "detail")
		if fmt.Sprint(p) != fmt.Sprint(members{"type": "urn:lanekeeper:problem:no-route", "title": "No route matches", "status": 404, "executed": "no"}) {
			t.Errorf("%v", p)
		}
	})
	bubble(t, "in a lane", func(t *testing.T) {
		n := start(t, func(c *proxy.Config) { c.TicketHeader = true })
		for range 5 {
			async(n, "POST", "/orders/7", nil, "")
		}
		seen := map[string]bool{}
		for range 20 {
			got := n.open().ask("POST", "POST /orders/7 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
			p := parse(t, got)
			ticket, after := got.get("Lanekeeper-Ticket"), got.get("Retry-After")
			detail := p["detail"]
			delete(p, "detail")
			want := members{"type": "urn:lanekeeper:problem:lane-full", "title": "Too many requests wait for this key", "status": 429.0, "executed": "no",
				"instance": "urn:uuid:" + ticket, "route": "order", "space": "order", "queue_depth": 4.0, "retry_after": p["retry_after"]}
			if got.status() != 429 || fmt.Sprint(p) != fmt.Sprint(want) || detail == "" || !ticketText.MatchString(ticket) {
				t.Fatalf("got  %v\nwant %v", p, want)
			}
			if after != fmt.Sprint(p["retry_after"]) || after < "1" || len(after) > 2 || len(after) == 2 && after > "30" {
				t.Errorf("Retry-After %q, in the body %v", after, p["retry_after"])
			}
			if want := `lanekeeper; error=connection_limit_reached; details="lane-full"`; got.get("Proxy-Status") != want {
				t.Errorf("Proxy-Status %q, want %q", got.get("Proxy-Status"), want)
			}
			seen[ticket] = true
		}
		if len(seen) != 20 {
			t.Errorf("20 refusals have %d tickets", len(seen))
		}
	})
	bubble(t, "nothing of the upstream's stays", func(t *testing.T) {
		_, got := headers(t, "", "PUT /orders/7 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
			"HTTP/1.1 200 OK\r\nX-Theirs: 1\r\nSet-Cookie: a=1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", nil)
		if got.status() != 502 || got.get("X-Theirs") != "" || got.get("Set-Cookie") != "" || got.framing != "length" || !strings.HasPrefix(got.body, "{") {
			t.Errorf("%q %q", got.head, got.body)
		}
	})
	bubble(t, "to HEAD", func(t *testing.T) {
		n := start(t, func(c *proxy.Config) { c.Routes = c.Routes[:1] })
		c := n.open()
		if got := c.ask("HEAD", "HEAD /else HTTP/1.1\r\nHost: a\r\n\r\n"); got.status() != 404 || got.get("Content-Length") == "" {
			t.Errorf("%q", got.head)
		}
		if got := c.ask("GET", "GET /else HTTP/1.1\r\nHost: a\r\n\r\n"); got.status() != 404 || got.body == "" {
			t.Errorf("after a HEAD: %q", got.head)
		}
	})
}

// Mutants: the unit is milliseconds; the first token decides; the parameters of
// a preference are read.
func TestAClientsPatience(t *testing.T) {
	for prefer, want := range map[string]time.Duration{
		"wait=3":                     3 * time.Second,
		"WAIT=3":                     3 * time.Second,
		`wait="3"`:                   3 * time.Second,
		"respond-async, wait = 3":    3 * time.Second,
		"wait=3;x=5":                 3 * time.Second,
		"wait=0":                     0,
		"wait=3000":                  10 * time.Second,
		"wait=-1":                    10 * time.Second,
		"wait=99999999999999999999":  10 * time.Second,
		"wait":                       10 * time.Second,
		"await=3":                    10 * time.Second,
		"handling=lenient; wait=3":   10 * time.Second,
		"return=minimal,respond=now": 10 * time.Second,
	} {
		bubble(t, prefer, func(t *testing.T) {
			n := start(t, nil)
			async(n, "POST", "/orders/7", nil, "")
			began := time.Now()
			m := n.open().ask("POST", "POST /orders/7 HTTP/1.1\r\nHost: a\r\nPrefer: "+prefer+"\r\nContent-Length: 0\r\n\r\n")
			if m.status() != 503 || time.Since(began) != want {
				t.Errorf("%s after %v, want %v", m.start, time.Since(began), want)
			}
		})
	}
}
