package proxy_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"

	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"lanekeeper/proxy"
)

// below is what socket nodes and their clients speak below HTTP. Only
// TestSocketsWithWhatIsBelowHTTP changes it, while no other test runs.
var below transport

type transport struct{ tls, proxied bool }

// The address that clients behind a proxy have in tests.
const proxiedClient = "203.0.113.7"

func (e transport) configure(c *proxy.Config) {
	if e.tls {
		c.TLS = serverTLS()
	}
	if e.proxied {
		c.ProxyProtocol, c.TrustedProxies = proxy.ProxyRequired, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	}
}

// greet says what is said before HTTP. The handshake is left to the first byte.
func (e transport) greet(t *testing.T, conn net.Conn) net.Conn {
	t.Helper()
	if e.proxied {
		if _, err := conn.Write(announce(2, proxiedClient)); err != nil {
			t.Fatal(err)
		}
	}
	if e.tls {
		conn = tls.Client(conn, clientTLS())
	}
	return conn
}

func announce(version byte, client string) []byte {
	header := proxyproto.HeaderProxyFromAddrs(version, &net.TCPAddr{IP: net.ParseIP(client), Port: 1}, &net.TCPAddr{IP: net.ParseIP(client), Port: 2})
	text, err := header.Format()
	if err != nil {
		panic(err)
	}
	return text
}

// endHalf ends what the client sends, in TLS and in TCP.
func (c *client) endHalf() {
	conn := c.conn
	if secure, ok := conn.(*tls.Conn); ok {
		secure.CloseWrite()
		conn = secure.NetConn()
	}
	conn.(*net.TCPConn).CloseWrite()
}

// reset ends the connection without a good-bye.
func (c *client) reset() {
	conn := c.conn
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
}

// certificate is one for edge.example that signs itself, and for clients, too.
var certificate = func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"edge.example"}, NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}()

func serverTLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}, NextProtos: []string{"http/1.1"}}
}

func clientTLS() *tls.Config {
	roots := x509.NewCertPool()
	leaf, err := x509.ParseCertificate(certificate.Certificate[0])
	if err != nil {
		panic(err)
	}
	roots.AddCert(leaf)
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: "edge.example", NextProtos: []string{"h2", "http/1.1"}}
}

// TestSocketsWithWhatIsBelowHTTP runs the tests of sockets again, below TLS and
// behind a proxy that announces its clients: whatever the edge does to a
// connection it does through these, too.
//
// Mutants: hungUp does not look below; a proxied connection has no halves.
func TestSocketsWithWhatIsBelowHTTP(t *testing.T) {
	tests := map[string]func(*testing.T){
		"a client that leaves while it waits":        TestAClientThatLeavesWhileItWaits,
		"a client that leaves right before its turn": TestAClientThatLeavesRightBeforeItsTurn,
		"a request without its client":               TestARequestMayRunWithoutItsClient,
		"a client that stays or leaves later":        TestAClientThatStaysOrLeavesLater,
		"timeouts":                                   TestTimeoutsOnSockets,
		"a tunnel carries both ways":                 TestATunnelCarriesBothWays,
		"either side may end a tunnel":               TestEitherSideMayEndATunnel,
		"large bodies":                               TestLargeBodiesTakeNoMemory,
		"an early response to an upload":             TestAnEarlyResponseToAnUpload,
		"an upload that breaks off":                  TestAnUploadThatBreaksOff,
		"the order of pipelined requests":            TestPipelinedRequestsKeepTheirOrder,
	}
	for name, e := range map[string]transport{"TLS": {tls: true}, "PROXY": {proxied: true}, "PROXY and TLS": {true, true}} {
		t.Run(name, func(t *testing.T) {
			below = e
			defer func() { below = transport{} }()
			for name, test := range tests {
				t.Run(name, test)
			}
		})
	}
}

// over is a client that speaks TLS, whatever below says.
func (n *socketNode) over(config *tls.Config, first ...byte) *client {
	c := n.raw(first...)
	secure := tls.Client(c.conn, config)
	return &client{t: n.t, conn: secure, reader: bufio.NewReader(secure)}
}

// raw is a client that begins with some bytes.
func (n *socketNode) raw(first ...byte) *client {
	n.t.Helper()
	conn, err := net.Dial("tcp", n.address)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(10 * time.Second)) // a test that would hang fails
	if _, err := conn.Write(first); err != nil {
		n.t.Fatal(err)
	}
	return &client{t: n.t, conn: conn, reader: bufio.NewReader(conn)}
}

// isCutOff reports whether the other side ends the connection without a word.
func (c *client) isCutOff() bool {
	rest, err := io.ReadAll(c.reader)
	return len(rest) == 0 && (err == nil || !isDeadline(err))
}

func isDeadline(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// echo answers with the head that it got.
func echo(x *exchange) { x.ok(x.head) }

// HTTP/1.1 is all that is promised.
func TestTLSAtTheEdge(t *testing.T) {
	s := newScript(t, echo)
	n := startOnSockets(t, s, func(c *proxy.Config) { c.TLS, c.Forwarded = serverTLS(), proxy.ForwardedBoth })
	for version, max := range map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13} {
		config := clientTLS()
		config.MaxVersion = max
		c := n.over(config)
		m := c.ask("GET", "GET /orders/7 HTTP/1.1\r\nHost: a\r\n\r\n")
		if m.status() != 200 || !strings.Contains(m.body, "X-Forwarded-Proto: https\r\n") || !strings.Contains(m.body, "proto=https\r\n") {
			t.Errorf("TLS %s: %q %q", version, m.head, m.body)
		}
		if state := c.conn.(*tls.Conn).ConnectionState(); state.NegotiatedProtocol != "http/1.1" || state.Version != max {
			t.Errorf("TLS %s: got %x and protocol %q", version, state.Version, state.NegotiatedProtocol)
		}
	}
	old := clientTLS()
	old.MinVersion, old.MaxVersion = tls.VersionTLS11, tls.VersionTLS11
	if err := n.over(old).conn.(*tls.Conn).Handshake(); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
	h2 := clientTLS()
	h2.NextProtos = []string{"h2"}
	if err := n.over(h2).conn.(*tls.Conn).Handshake(); err == nil {
		t.Error("HTTP/2 is promised")
	}
	c := n.raw([]byte("GET /orders/7 HTTP/1.1\r\nHost: a\r\n\r\n")...)
	if rest, _ := io.ReadAll(c.reader); bytes.Contains(rest, []byte("HTTP/1.1 200")) {
		t.Errorf("plain text is answered %q", rest)
	}
	eventually(t, "no connection is left of those", func() bool { return n.metric("lanekeeper_connections") <= 2 })
	if s.executed() != 2 {
		t.Errorf("it ran: %q", s.ran)
	}
}

// A client that does not finish, or even begin, its handshake, keeps nobody from
// being served, and has header_timeout for it.
//
// Mutant: the handshake is made by Accept.
func TestASlowHandshakeHoldsUpNobody(t *testing.T) {
	s := newScript(t, echo)
	n := startOnSockets(t, s, func(c *proxy.Config) { c.TLS, c.HeaderTimeout = serverTLS(), 2*time.Second })
	silent, half := n.raw(), n.raw(0x16, 3, 1, 0, 200, 1)
	if m := n.over(clientTLS()).ask("GET", "GET /orders/7 HTTP/1.1\r\nHost: a\r\n\r\n"); m.status() != 200 {
		t.Errorf("%q", m.head)
	}
	for _, c := range []*client{silent, half} {
		if _, err := io.ReadAll(c.reader); isDeadline(err) {
			t.Error("it is not cut off")
		}
	}
}

// Mutants: the answer is in plain text; the handshakes of those who are refused are made by
// Accept.
func TestConnectionsAboveTheLimitAreToldBelowTLS(t *testing.T) {
	s := newScript(t, echo)
	n := startOnSockets(t, s, func(c *proxy.Config) { c.TLS, c.MaxConnections = serverTLS(), 1 })
	first := n.over(clientTLS())
	if m := first.ask("GET", "GET /orders/7 HTTP/1.1\r\nHost: a\r\n\r\n"); m.status() != 200 {
		t.Fatalf("%q", m.head)
	}
	n.raw() // says nothing
	refused := n.over(clientTLS())
	if err := refused.conn.(*tls.Conn).Handshake(); err != nil {
		t.Fatal(err)
	}
	if m := refused.response("GET"); m.status() != 503 || !strings.Contains(m.body, ":overloaded") {
		t.Errorf("%q %q", m.head, m.body)
	}
	first.conn.Close()
	eventually(t, "there is room again", func() bool { return n.metric("lanekeeper_connections") == 0 })
	if m := n.over(clientTLS()).ask("GET", "GET /orders/7 HTTP/1.1\r\nHost: a\r\n\r\n"); m.status() != 200 {
		t.Errorf("%q", m.head)
	}
}

// Whoever reads a response to the connection's end must see that it broke off.
//
// Mutant: abort closes the connection of TLS, which says good-bye.
func TestABrokenResponseHasNoGoodByeOfTLS(t *testing.T) {
	s := newScript(t, func(x *exchange) {
		x.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
		x.conn.Close()
	})
	n := startOnSockets(t, s, func(c *proxy.Config) { c.TLS = serverTLS() })
	c := n.over(clientTLS())
	io.WriteString(c.conn, "GET /download HTTP/1.0\r\nHost: a\r\n\r\n")
	if got, err := io.ReadAll(c.reader); err == nil {
		t.Errorf("%q looks whole", got)
	}
}

// Mutants: whoever is not trusted may connect; RemoteAddr is the proxy's; a client
// without an address is taken for the proxy; a missing header is none; bytes behind
// the header are lost.
func TestProxyProtocolSaysWhoTheClientIs(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	request := []byte("GET /orders/7 HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 198.51.100.1\r\nLanekeeper-Fence: 9\r\n\r\n")
	v2 := func(command byte, family byte, rest ...byte) []byte {
		return append(append(slices.Clone(proxyproto.SIGV2), command, family, 0, byte(len(rest))), rest...)
	}
	for _, test := range []struct {
		name     string
		use      proxy.ProxyProtocol
		trusted  []netip.Prefix
		first    []byte
		client   string // empty: the connection is cut off
		forwards string // what the upstream is told; empty: the client alone
	}{
		{name: "version 1", use: proxy.ProxyRequired, trusted: trusted, first: announce(1, proxiedClient), client: proxiedClient},
		{name: "version 2", use: proxy.ProxyRequired, trusted: trusted, first: announce(2, proxiedClient), client: proxiedClient},
		{name: "IPv6, version 1", use: proxy.ProxyOptional, trusted: trusted, first: announce(1, "2001:db8::7"), client: "2001:db8::7"},
		{name: "IPv6, version 2", use: proxy.ProxyOptional, trusted: trusted, first: announce(2, "2001:db8::7"), client: "2001:db8::7"},
		{name: "a client that is a trusted proxy", use: proxy.ProxyRequired, trusted: trusted, first: announce(2, "127.9.9.9"), client: "198.51.100.1", forwards: "198.51.100.1, 127.9.9.9"},
		{name: "UNKNOWN", use: proxy.ProxyRequired, trusted: trusted, first: []byte("PROXY UNKNOWN\r\n"), client: "198.51.100.1", forwards: "198.51.100.1, 127.0.0.1"},
		{name: "LOCAL", use: proxy.ProxyRequired, trusted: trusted, first: v2(0x20, 0), client: "198.51.100.1", forwards: "198.51.100.1, 127.0.0.1"},
		{name: "LOCAL with an address", use: proxy.ProxyRequired, trusted: trusted, first: v2(0x20, 0x11, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 0, 2), client: "198.51.100.1", forwards: "198.51.100.1, 127.0.0.1"},
		{name: "a client without an address", use: proxy.ProxyRequired, trusted: trusted, first: v2(0x21, 0x31, make([]byte, 216)...), client: "0.0.0.0"},
		{name: "no header, and it need not", use: proxy.ProxyOptional, trusted: trusted, client: "198.51.100.1", forwards: "198.51.100.1, 127.0.0.1"},
		{name: "no header, and it must", use: proxy.ProxyRequired, trusted: trusted},
		{name: "not trusted, without header", use: proxy.ProxyOptional, client: "127.0.0.1"},
		{name: "not trusted, and it must", use: proxy.ProxyRequired, first: announce(2, proxiedClient)},
		{name: "version 3", use: proxy.ProxyOptional, trusted: trusted, first: append(slices.Clone(proxyproto.SIGV2), 0x31, 0x11, 0, 0)},
		{name: "no such address", use: proxy.ProxyOptional, trusted: trusted, first: []byte("PROXY TCP4 1.2.3.400 1.2.3.4 1 2\r\n")},
		{name: "no end", use: proxy.ProxyOptional, trusted: trusted, first: []byte("PROXY TCP4 " + strings.Repeat("1", 200))},
		{name: "longer than anybody needs", use: proxy.ProxyOptional, trusted: trusted, first: append(slices.Clone(proxyproto.SIGV2), 0x21, 0x11, 0xff, 0xff)},
	} {
		for _, secure := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, TLS %v", test.name, secure), func(t *testing.T) {
				s := newScript(t, echo)
				n := startOnSockets(t, s, func(c *proxy.Config) {
					c.ProxyProtocol, c.TrustedProxies = test.use, test.trusted
					c.Routes[0].Key.From, c.Routes[0].Key.Missing, c.Routes[0].Key.Space = []proxy.Source{{Header: "X-None"}}, proxy.MissingClientIP, "ip"
					c.LogKeys = proxy.KeysPlain
					if secure {
						c.TLS = serverTLS()
					}
				})
				c := n.raw(test.first...)
				if secure {
					c.conn = tls.Client(c.conn, clientTLS())
					c.reader = bufio.NewReader(c.conn)
				}
				c.conn.Write(request)
				if test.client == "" {
					if !c.isCutOff() || s.executed() != 0 {
						t.Error("it is answered")
					}
					if !strings.Contains(n.log.String(), "connections are refused by server.proxy_protocol") {
						t.Errorf("nobody is told: %s", n.log)
					}
					return
				}
				m := c.response("GET")
				want := test.forwards
				if want == "" {
					want = test.client
				}
				if m.status() != 200 || !strings.Contains(m.body, "X-Forwarded-For: "+want+"\r\n") || strings.Contains(m.body, "Fence") {
					t.Errorf("%q %q, want X-Forwarded-For: %s", m.head, m.body, want)
				}
				eventually(t, "the request is logged", func() bool { return strings.Contains(n.log.String(), `"msg":"request"`) })
				if log := n.log.String(); !strings.Contains(log, `"client":"`+test.client+`"`) || !strings.Contains(log, test.client+`"`) {
					t.Errorf("the log says %s", log)
				}
			})
		}
	}
}

// Mutant: the header is read by Accept.
func TestASlowProxyHeaderHoldsUpNobody(t *testing.T) {
	s := newScript(t, echo)
	n := startOnSockets(t, s, func(c *proxy.Config) {
		c.ProxyProtocol, c.TrustedProxies = proxy.ProxyRequired, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		c.HeaderTimeout = 2 * time.Second
	})
	silent, half := n.raw(), n.raw(proxyproto.SIGV2[:7]...)
	quick := n.raw(announce(2, proxiedClient)...)
	if m := quick.ask("GET", "GET /orders/7 HTTP/1.1\r\nHost: a\r\n\r\n"); m.status() != 200 {
		t.Errorf("%q", m.head)
	}
	for _, c := range []*client{silent, half} {
		if !c.isCutOff() {
			t.Error("it is not cut off")
		}
	}
}

// Without proxy_protocol, and from whom nobody trusts, the header is what it looks
// like: no HTTP.
//
// Mutants: ProxyNone is ProxyOptional; anybody is believed.
func TestNobodyIsAnnouncedUnlessAsked(t *testing.T) {
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	for name, change := range map[string]func(*proxy.Config){
		"not asked":   func(c *proxy.Config) { c.TrustedProxies = loopback },
		"not trusted": func(c *proxy.Config) { c.ProxyProtocol = proxy.ProxyOptional },
	} {
		for version := range byte(2) {
			s := newScript(t, echo)
			n := startOnSockets(t, s, change)
			first := append(announce(version+1, proxiedClient), "GET /orders/7 HTTP/1.1\r\nHost: a\r\n\r\n"...)
			got, _ := io.ReadAll(n.raw(first...).reader) // of version 2 it is told nothing: that begins with empty lines
			if len(got) > 0 && !strings.HasPrefix(string(got), "HTTP/1.1 400 ") || len(got) == 0 && version == 0 || s.executed() != 0 {
				t.Errorf("%s, version %d: %q", name, version+1, got)
			}
		}
	}
}

// TestEachAnnouncedClientHasALimitOfItsOwn: a trusted proxy's connections count for its
// clients, and not for itself.
//
// Mutants: they count for the proxy; they do not count; who has left does.
func TestEachAnnouncedClientHasALimitOfItsOwn(t *testing.T) {
	s := newScript(t, echo)
	n := startOnSockets(t, s, func(c *proxy.Config) {
		c.ProxyProtocol, c.TrustedProxies, c.MaxPerAddress = proxy.ProxyRequired, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, 2
	})
	served := func(client string) (*client, bool) {
		c := n.raw(announce(2, client)...)
		a, err := c.try("GET", "/orders/7")
		return c, err == nil && a.status == 200
	}
	first, ok := served("192.0.2.1")
	if !ok {
		t.Fatal("the first was not served")
	}
	for _, client := range []string{"192.0.2.1", "192.0.2.2", "192.0.2.2"} {
		if _, ok := served(client); !ok {
			t.Errorf("%s was not served", client)
		}
	}
	if _, ok := served("192.0.2.1"); ok {
		t.Error("a third of one client was served")
	}
	first.conn.Close()
	for deadline := time.Now().Add(10 * time.Second); ; {
		if _, ok := served("192.0.2.1"); ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody is served after one has left")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// try asks once, and says if there is no answer.
func (c *client) try(method, path string) (*answer, error) {
	fmt.Fprintf(c.conn, "%s %s HTTP/1.1\r\nHost: a\r\n\r\n", method, path)
	return c.read(method)
}
