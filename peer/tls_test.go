package peer

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// meet has a hop dial another one over loopback, each with its own TLS, and
// returns what the one that dials hears of it.
func meet(t *testing.T, dials, listens *tls.Config) error {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	owner := newTestHop(t, "b", func(c *Config) { c.TLS = listens })
	served := make(chan error, 1)
	go func() { served <- owner.Serve(listener) }()
	ingress := newTestHop(t, "a", func(c *Config) { c.TLS = dials })
	p := &peer{Member: Member{Address: listener.Addr().String()}, life: t.Context()}
	conn, err := ingress.dial(t.Context(), p)
	if err != nil {
		return err
	}
	defer below(conn).Close()
	h := testHello()
	_, err = greet(conn, bufio.NewReader(conn), &h)
	return err
}

func secretTLS(t *testing.T, secrets ...string) *tls.Config {
	t.Helper()
	var all [][]byte
	for _, s := range secrets {
		all = append(all, []byte(s))
	}
	config, err := SecretTLS(all)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

const (
	oldSecret = "the secret of last year, 32 bytes"
	newSecret = "the secret of this year, 32 bytes"
)

// TestSecretTLS lets in who knows a secret, and nobody else.
//
// Mutants "any certificate is good", "one secret is known".
func TestSecretTLS(t *testing.T) {
	anyCert := secretTLS(t, newSecret).Clone()
	anyCert.Certificates = nil
	anyCert.VerifyConnection = nil
	otherCert := secretTLS(t, oldSecret).Clone()
	otherCert.VerifyConnection = nil
	old12 := secretTLS(t, newSecret).Clone()
	old12.MinVersion, old12.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	for _, test := range []struct {
		name           string
		dials, listens *tls.Config
		want           bool
	}{
		{"the same secret", secretTLS(t, newSecret), secretTLS(t, newSecret), true},
		{"another secret", secretTLS(t, oldSecret), secretTLS(t, newSecret), false},
		{"another secret, and it does not care", otherCert, secretTLS(t, newSecret), false},
		{"whoever listens has another secret", secretTLS(t, newSecret), otherCert, false},
		{"no certificate", anyCert, secretTLS(t, newSecret), false},
		{"no TLS", nil, secretTLS(t, newSecret), false},
		{"TLS, and whoever listens has none", secretTLS(t, newSecret), nil, false},
		{"TLS 1.2", old12, secretTLS(t, newSecret), false},

		// A secret is changed: both are known first, then the new one shown, then the old one forgotten.
		{"not yet, and both", secretTLS(t, oldSecret), secretTLS(t, oldSecret, newSecret), true},
		{"both, and not yet", secretTLS(t, oldSecret, newSecret), secretTLS(t, oldSecret), true},
		{"old first, and new first", secretTLS(t, oldSecret, newSecret), secretTLS(t, newSecret, oldSecret), true},
		{"new first, and old first", secretTLS(t, newSecret, oldSecret), secretTLS(t, oldSecret, newSecret), true},
		{"both, and the new one alone", secretTLS(t, newSecret, oldSecret), secretTLS(t, newSecret), true},
		{"the new one alone, and both", secretTLS(t, newSecret), secretTLS(t, newSecret, oldSecret), true},
		{"too early", secretTLS(t, newSecret), secretTLS(t, oldSecret), false},
	} {
		if err := meet(t, test.dials, test.listens); (err == nil) != test.want {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	if _, err := SecretTLS(nil); err == nil {
		t.Error("no secret is one")
	}
	err := meet(t, secretTLS(t, oldSecret), secretTLS(t, newSecret))
	if err == nil || !strings.Contains(err.Error(), "another cluster secret") {
		t.Errorf("who has another secret is told %v", err)
	}
}

// authority signs certificates for members, in files.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	var der []byte
	a.key, der = a.sign("ca", &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil)
	var err error
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

// sign makes a key and its certificate, signed by its own or by the authority's.
func (a *authority) sign(name string, template *x509.Certificate, by *authority) (*ecdsa.PrivateKey, []byte) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber, template.Subject = big.NewInt(1), pkix.Name{CommonName: name}
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(name+".pem", "CERTIFICATE", der)
	a.write(name+".key", "PRIVATE KEY", private)
	return key, der
}

func (a *authority) write(file, kind string, der []byte) {
	a.t.Helper()
	if err := os.WriteFile(filepath.Join(a.dir, file), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// member is the TLS of a member that this authority has signed, and that trusts
// the given one.
func (a *authority) member(name string, template x509.Certificate, trusts *authority) *tls.Config {
	a.t.Helper()
	a.sign(name, &template, a)
	own, err := tls.LoadX509KeyPair(filepath.Join(a.dir, name+".pem"), filepath.Join(a.dir, name+".key"))
	if err != nil {
		a.t.Fatal(err)
	}
	authorities := x509.NewCertPool()
	authorities.AddCert(trusts.cert)
	return CertificateTLS(&files{&own, authorities})
}

// files are certificates that are there.
type files struct {
	own         *tls.Certificate
	authorities *x509.CertPool
}

func (f *files) Own() *tls.Certificate       { return f.own }
func (f *files) Authorities() *x509.CertPool { return f.authorities }

// TestCertificateTLS lets in whom the authority has signed, as long as that is good.
//
// Mutant "no chain is verified".
func TestCertificateTLS(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	good := ours.member("good", x509.Certificate{}, ours)
	other := ours.member("other", x509.Certificate{DNSNames: []string{"any.name.at.all"}}, ours)
	expired := ours.member("expired", x509.Certificate{NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)}, ours)
	early := ours.member("early", x509.Certificate{NotBefore: time.Now().Add(time.Hour), NotAfter: time.Now().Add(2 * time.Hour)}, ours)
	strange := theirs.member("strange", x509.Certificate{}, ours)
	bare := good.Clone()
	bare.GetCertificate, bare.GetClientCertificate = nil, nil
	for _, test := range []struct {
		name           string
		dials, listens *tls.Config
		want           bool
	}{
		{"two members", good, other, true},
		{"a member and itself", good, good, true},
		{"an expired certificate dials", expired, good, false},
		{"an expired certificate listens", good, expired, false},
		{"a certificate of tomorrow", early, good, false},
		{"another authority's dials", strange, good, false},
		{"another authority's listens", good, strange, false},
		{"no certificate", bare, good, false},
		{"no TLS", nil, good, false},
		{"the secret's way", secretTLS(t, newSecret), good, false},
	} {
		if err := meet(t, test.dials, test.listens); (err == nil) != test.want {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// TestStrangersAreHungUpOn, whatever they say, and harm nobody meanwhile.
func TestStrangersAreHungUpOn(t *testing.T) {
	secure := secretTLS(t, newSecret)
	for _, config := range []*tls.Config{nil, secure} {
		ingress, owner := pair(t, func(c *Config) { c.TLS = config })
		h := testHello()
		for name, says := range map[string][]byte{
			"HTTP":          []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
			"zeros":         make([]byte, 10000),
			"a long frame":  {0xff, 0xff, 0xff, 0xff, 1},
			"no HELLO":      appendBytes(nil, framePing, nil),
			"a short HELLO": appendBytes(nil, frameHello, []byte("LKHOP\x00\x01")),
			"half a HELLO":  h.append(nil)[:20],
			"TLS":           {22, 3, 1, 0, 5, 1, 0, 0, 1, 3},
		} {
			conn, err := net.Dial("tcp", owner.addr)
			if err != nil {
				t.Fatal(err)
			}
			conn.Write(says)                                      //nolint:errcheck // it may be closed by now
			conn.(*net.TCPConn).CloseWrite()                      //nolint:errcheck // as above
			conn.SetReadDeadline(time.Now().Add(2 * time.Second)) //nolint:errcheck // a dead connection fails the read
			b := make([]byte, 1<<10)
			n := 0
			for err == nil {
				var m int
				m, err = conn.Read(b[n:])
				n += m
			}
			if isTimeout(err) || n > 100 {
				t.Errorf("%s, TLS=%v: it is told %q, and then %v", name, config != nil, b[:n], err)
			}
			conn.Close()
		}
		send(t, ingress, 100, func(int) int { return 10 })
		checkRan(t, owner.log, 100)
	}
}

func isTimeout(err error) bool {
	timeout, ok := err.(net.Error)
	return ok && timeout.Timeout()
}
