package proxy_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/proxy"
	"lanekeeper/proxy/upstream"
)

// signer signs certificates.
type signer struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newSigner(t *testing.T) *signer {
	s := &signer{t: t}
	s.cert, s.key, s.pem, _ = s.sign("ca", true)
	return s
}

func (s *signer) sign(name string, authority bool) (*x509.Certificate, *ecdsa.PrivateKey, []byte, []byte) {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: authority, BasicConstraintsValid: true,
	}
	parent, by := template, key
	if !authority {
		parent, by = s.cert, s.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		s.t.Fatal(err)
	}
	cert, _ := x509.ParseCertificate(der)
	private, _ := x509.MarshalPKCS8PrivateKey(key)
	return cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
}

func (s *signer) pair(name string) tls.Certificate {
	_, _, cert, key := s.sign(name, false)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		s.t.Fatal(err)
	}
	return pair
}

func writeFile(t *testing.T, name string, text []byte) string {
	t.Helper()
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// startAt runs a node whose upstream is somewhere else than start's.
func startAt(t *testing.T, change func(*upstream.Config)) *socketNode {
	t.Helper()
	return startOnSockets(t, newScript(t, nil), func(c *proxy.Config) {
		c.Upstreams[0].Dial = nil
		change(&c.Upstreams[0])
	})
}

// Targets with TLS are verified, by authority and name, and get the node's certificate;
// requests, uploads and tunnels work as without. A renewed file is read again.
//
// Mutants: any certificate is taken; server_name is not asked for; the node shows no certificate;
// changed files are not read again.
func TestTargetsWithTLS(t *testing.T) {
	dir := t.TempDir()
	authority, other := newSigner(t), newSigner(t)
	var conns atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			conn, buffer, _ := http.NewResponseController(w).Hijack()
			io.WriteString(conn, switched)
			text, _ := io.ReadAll(buffer) // to the client's end
			fmt.Fprintf(conn, "echo %s", text)
			conn.Close()
			return
		}
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%s %d %s %s", r.Proto, n, r.TLS.ServerName, r.TLS.PeerCertificates[0].Subject.CommonName)
	}))
	clients := x509.NewCertPool()
	clients.AddCert(authority.cert)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{authority.pair("app.test")}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients}
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)

	_, _, cert, key := authority.sign("node-1", false)
	files := upstream.TLS{
		CAFile:   writeFile(t, filepath.Join(dir, "ca.pem"), authority.pem),
		CertFile: writeFile(t, filepath.Join(dir, "node.pem"), cert), KeyFile: writeFile(t, filepath.Join(dir, "node.key"), key),
		ServerName: "app.test",
	}
	run := func(change func(*upstream.TLS)) *socketNode {
		return startAt(t, func(c *upstream.Config) {
			c.Targets, c.TLS = []string{server.URL}, files
			change(&c.TLS)
		})
	}
	n := run(func(*upstream.TLS) {})
	c := n.open()
	for i, size := range []int{0, 10, 100_000, 5 << 20} {
		if a := c.send("PUT", "/orders/7", nil, strings.Repeat("x", size)); a.body != fmt.Sprintf("HTTP/1.1 %d app.test node-1", size) {
			t.Errorf("request %d: %d %s %q", i, a.status, a.problem.Detail, a.body)
		}
	}
	if got := conns.Load(); got != 1 {
		t.Errorf("4 requests took %d connections", got)
	}
	upload := n.open()
	if a := upload.send("POST", "/rest", nil, strings.Repeat("x", 3<<20)); a.body != "HTTP/1.1 3145728 app.test node-1" {
		t.Errorf("an upload: %d %q", a.status, a.body)
	}
	tunnel := n.open()
	io.WriteString(tunnel.conn, upgradeRequest)
	if m := tunnel.response("GET"); m.status() != 101 {
		t.Fatalf("%q", m.head)
	}
	io.WriteString(tunnel.conn, "hello")
	tunnel.conn.(*net.TCPConn).CloseWrite()
	if text, err := io.ReadAll(tunnel.reader); string(text) != "echo hello" || err != nil {
		t.Errorf("a tunnel: %q, %v", text, err)
	}

	_, _, cert, key = authority.sign("node-2", false)
	writeFile(t, files.CertFile, []byte("half of a renewal"))
	server.CloseClientConnections()
	if a := c.send("PUT", "/orders/7", nil, ""); !strings.HasSuffix(a.body, "node-1") {
		t.Errorf("amid a renewal: %d %q %s", a.status, a.body, a.problem.Detail)
	}
	writeFile(t, files.CertFile, cert)
	writeFile(t, files.KeyFile, key)
	server.CloseClientConnections()
	if a := c.send("PUT", "/orders/7", nil, ""); !strings.HasSuffix(a.body, "node-2") {
		t.Errorf("after a renewal: %d %q %s", a.status, a.body, a.problem.Detail)
	}

	for name, change := range map[string]func(*upstream.TLS){
		"another name":      func(c *upstream.TLS) { c.ServerName = "other.test" },
		"the target's host": func(c *upstream.TLS) { c.ServerName = "" },
		"another authority": func(c *upstream.TLS) { c.CAFile = writeFile(t, filepath.Join(dir, "other.pem"), other.pem) },
	} {
		if a := run(change).open().send("PUT", "/orders/7", nil, ""); a.status != 502 || a.slug() != "upstream-connect" || a.problem.Executed != "no" {
			t.Errorf("%s: %d %s %q", name, a.status, a.slug(), a.body)
		}
	}
	for name, change := range map[string]func(*upstream.TLS){
		"no such file": func(c *upstream.TLS) { c.CAFile = filepath.Join(dir, "none") },
		"no PEM":       func(c *upstream.TLS) { c.CAFile = writeFile(t, filepath.Join(dir, "text"), []byte("text")) },
		"another key":  func(c *upstream.TLS) { c.KeyFile = writeFile(t, filepath.Join(dir, "ca.key"), key[:20]) },
	} {
		config := upstream.Config{Name: "app", Targets: []string{server.URL}, TLS: files}
		change(&config.TLS)
		if _, err := upstream.New(config, nil, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
}

// Mutant: a socket's path is dialled as a host.
func TestATargetMayBeASocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "app.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Host) })}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	n := startAt(t, func(c *upstream.Config) { c.Targets = []string{"unix://" + path} })
	c := n.open()
	for range 3 {
		if a := c.send("PUT", "/orders/7", nil, "x"); a.status != 200 {
			t.Errorf("%d %s %q", a.status, a.problem.Detail, a.body)
		}
	}
	fmt.Fprintf(c.conn, "PUT /orders/7 HTTP/1.0\r\nContent-Length: 0\r\n\r\n")
	response, err := http.ReadResponse(bufio.NewReader(c.conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if text, _ := io.ReadAll(response.Body); string(text) != "localhost" {
		t.Errorf("a request that names no host: %d %q", response.StatusCode, text)
	}
}

// What a request waits for a place is not of the upstream's time, and ends with what is left of
// the time for its turn. Nothing was sent.
//
// Mutants: upstream_timeout runs while it waits; the wait ends after connect_timeout; who finds the queue full waits.
func TestTheWaitForAPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		s := newScript(t, func(x *exchange) {
			if strings.Contains(x.start, "long") {
				<-release
			}
			time.Sleep(4 * time.Second)
			x.ok("")
		})
		n := start(t, func(c *proxy.Config) {
			c.Upstreams[0].Dial, c.Upstreams[0].Queue = s.dial, 2
			c.Upstreams[0].Limit = upstream.Limit{Mode: upstream.Fixed, Max: 1}
			c.Routes[0].Lane.UpstreamTimeout, c.Routes[0].Lane.QueueTimeout = 5*time.Second, 20*time.Second
		})
		send := func(key string) <-chan *answer {
			got := make(chan *answer, 1)
			go func() { got <- n.open().send("POST", "/orders/"+key, nil, "") }()
			synctest.Wait()
			return got
		}
		a, b, c := send("a"), send("b"), send("c")
		if full := <-send("d"); full.status != 503 || full.slug() != "overloaded" || full.problem.Executed != "no" {
			t.Errorf("beyond the queue: %d %s", full.status, full.slug())
		}
		if got := n.metric("lanekeeper_upstream_waiting_requests"); got != 2 {
			t.Errorf("%v wait", got)
		}
		for name, got := range map[string]<-chan *answer{"a": a, "b": b, "c": c} {
			if answer := <-got; answer.status != 200 {
				t.Errorf("%s: %d %s", name, answer.status, answer.slug())
			}
		}
		began := time.Now()
		first := send("long")
		if waited := <-send("b"); waited.status != 503 || waited.slug() != "no-upstream" || waited.problem.Executed != "no" {
			t.Errorf("who waited: %d %s", waited.status, waited.slug())
		}
		if took := time.Since(began); took != 20*time.Second {
			t.Errorf("it waited for %v", took)
		}
		if late := <-first; late.slug() != "upstream-timeout" {
			t.Errorf("%d %s", late.status, late.slug())
		}
		close(release)
	})
}

// With no target left a request is refused at once, and was not sent; the node stays as ready as it was.
//
// Mutants: it waits; it is sent all the same.
func TestNoTargetIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, func(c *proxy.Config) {
			c.Upstreams[0].Dial = func(string) (net.Conn, error) { return nil, io.ErrUnexpectedEOF }
			c.Upstreams[0].Circuit = upstream.Circuit{Failures: 2, OpenFor: 5 * time.Second}
		})
		c := n.open()
		for _, want := range []string{"upstream-connect", "upstream-connect", "no-upstream", "no-upstream"} {
			if a := c.send("POST", "/orders/7", nil, ""); a.slug() != want || a.problem.Executed != "no" {
				t.Errorf("%s, executed %s, want %s", a.slug(), a.problem.Executed, want)
			}
		}
		if got := n.metric("lanekeeper_upstream_healthy", "upstream", "app", "target", "http://app"); got != 0 {
			t.Errorf("upstream_healthy = %v", got)
		}
		time.Sleep(5 * time.Second)
		if a := c.send("POST", "/orders/7", nil, ""); a.slug() != "upstream-connect" {
			t.Errorf("after open_for: %s", a.slug())
		}
	})
}
