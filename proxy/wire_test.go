package proxy

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"
)

// selfSigned is a certificate for localhost, and what trusts it.
func selfSigned(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, &tls.Config{RootCAs: pool, ServerName: "localhost", ClientSessionCache: tls.NewLRUClientSessionCache(0)}
}

// secureWire is a wire, the other end of its TLS, and that of its socket.
func secureWire(t *testing.T) (w *wire, secure *tls.Conn, raw *net.TCPConn) {
	t.Helper()
	server, trusting := selfSigned(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	server.ClientAuth = tls.RequestClientCert // then Go's server sends tickets behind the handshake, and not within
	secure = tls.Server(accepted, server)
	done := make(chan error, 1)
	go func() { done <- secure.Handshake() }()
	c, err := wrap(conn, trusting, time.Now().Add(10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); accepted.Close() })
	w = c.(*wire)
	w.SetDeadline(time.Now().Add(10 * time.Second)) // a test that would hang fails
	return w, secure, accepted.(*net.TCPConn)
}

// readable waits until something has come for w.
func readable(t *testing.T, w *wire) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); w.silent(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing comes")
		}
	}
}

// After its handshake a server of TLS 1.3 has sent tickets for the next one, which are no answer
// and no end: a connection that was taken and given back unused, as for a lease that had
// ended, would else be lost each time.
//
// Mutants: whatever can be read ends a connection; whatever TLS reads without a word is taken for
// silence; what TLS has read, and nobody from it, is not looked for; a part of a record is silence.
func TestAnIdleConnectionUnderTLS(t *testing.T) {
	for name, c := range map[string]struct {
		does   func(secure *tls.Conn, raw *net.TCPConn)
		usable bool
	}{
		"tickets":               {nil, true},
		"an answer":             {func(secure *tls.Conn, _ *net.TCPConn) { io.WriteString(secure, "x") }, false},
		"an end":                {func(secure *tls.Conn, _ *net.TCPConn) { secure.Close() }, false},
		"half an end":           {func(secure *tls.Conn, _ *net.TCPConn) { secure.CloseWrite() }, false},
		"an end without notice": {func(_ *tls.Conn, raw *net.TCPConn) { raw.Close() }, false},
		"a reset":               {func(_ *tls.Conn, raw *net.TCPConn) { raw.SetLinger(0); raw.Close() }, false},
		"nonsense":              {func(_ *tls.Conn, raw *net.TCPConn) { io.WriteString(raw, "nonsense") }, false},
		"a part of a record":    {func(_ *tls.Conn, raw *net.TCPConn) { raw.Write([]byte{23, 3, 3, 0, 100, 1, 2}) }, false},
		"a part of its head":    {func(_ *tls.Conn, raw *net.TCPConn) { raw.Write([]byte{23}) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			w, secure, raw := secureWire(t)
			readable(t, w) // tickets
			if !w.Usable() {
				t.Fatal("tickets end a connection")
			}
			if !w.silent() {
				t.Error("the tickets are still there")
			}
			if c.does == nil {
				go io.Copy(secure, secure)
				if _, err := io.WriteString(w, "ping"); err != nil {
					t.Fatal(err)
				}
				b := make([]byte, 4)
				if _, err := io.ReadFull(w, b); err != nil || string(b) != "ping" {
					t.Errorf("afterwards %q, %v", b, err)
				}
				return
			}
			c.does(secure, raw)
			readable(t, w)
			if w.Usable() != c.usable {
				t.Errorf("usable is %t", !c.usable)
			}
		})
	}
	t.Run("what came with the answer", func(t *testing.T) {
		w, secure, _ := secureWire(t)
		io.WriteString(secure, "answer"+strings.Repeat("x", 1000)) // one record
		if _, err := io.ReadFull(w, make([]byte, 6)); err != nil {
			t.Fatal(err)
		}
		if !w.silent() {
			t.Fatal("the socket holds something, so this shows nothing")
		}
		if w.Usable() {
			t.Error("bytes that TLS holds are the next request's answer")
		}
	})
	t.Run("what came behind the answer", func(t *testing.T) {
		w, secure, _ := secureWire(t)
		readable(t, w)
		w.Usable()
		io.WriteString(secure, "answer")
		io.WriteString(secure, "poison")
		reader := bufio.NewReaderSize(w, 6)
		time.Sleep(10 * time.Millisecond) // both have come, or the socket shows it
		if _, err := io.ReadFull(reader, make([]byte, 6)); err != nil {
			t.Fatal(err)
		}
		if w.Usable() {
			t.Error("a second answer is the next request's")
		}
	})
}

// What decides whether a request may have reached the service is what went into the socket.
// Mutant: bytes are counted above TLS.
func TestBytesUnderTLSAreCounted(t *testing.T) {
	w, secure, _ := secureWire(t)
	go io.Copy(io.Discard, secure)
	w.sent = 0
	if n, err := w.Write([]byte("x")); n != 1 || err != nil || w.sent <= 20 {
		t.Errorf("wrote %d (%v), counted %d", n, err, w.sent)
	}
}

// A deadline that is moved while TLS writes does not end the connection: TLS could not go on.
// Mutant: TLS runs over the socket itself, and the deadlines are above it.
func TestDeadlinesUnderTLSMayMove(t *testing.T) {
	w, secure, _ := secureWire(t)
	w.SetDeadline(time.Now().Add(50 * time.Millisecond))
	w.SetDeadline(time.Now().Add(10 * time.Second))
	const size = 16 << 20 // more than the sockets hold
	read := make(chan int64, 1)
	go func() {
		time.Sleep(200 * time.Millisecond) // past the deadline that is armed
		n, _ := io.CopyN(io.Discard, secure, size)
		read <- n
	}()
	if n, err := w.Write(make([]byte, size)); n != size || err != nil {
		t.Errorf("wrote %d: %v", n, err)
	}
	if n := <-read; n != size {
		t.Errorf("%d bytes arrived", n)
	}
}
