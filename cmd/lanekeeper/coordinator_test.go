package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/lock"
	"lanekeeper/lock/locktest"
)

// authority signs certificates for tests, in files.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// newAuthority makes an authority, whose own certificate is ca.crt.
func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.sign("ca", x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

// sign makes name.crt and name.key.
func (a *authority) sign(name string, template x509.Certificate) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber, template.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: name}
	template.NotBefore = time.Now().Add(-time.Hour)
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	if a.cert == nil {
		a.cert, a.key = &template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{name + ".crt": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(a.file(file), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// Mutants killed: the last line break belongs to the password; blanks do not.
func TestPasswordFiles(t *testing.T) {
	for _, test := range []struct{ name, content, want, wrong string }{
		{"a line", "s3cret\n", "s3cret", ""},
		{"as Windows writes it", "s3cret\r\n", "s3cret", ""},
		{"without a line break", "s3cret", "s3cret", ""},
		{"blanks", " correct horse \n", " correct horse ", ""},
		{"none", "", "", " holds no password: put it into the first line"},
		{"an empty line", "\n", "", " holds no password: put it into the first line"},
		{"two lines", "s3cret\nother\n", "", " has more than one line, and a password is one"},
		{"large", strings.Repeat("s3cret", 20000), "", " is larger than 64KiB"},
	} {
		file := secretFile(t, "password", test.content)
		have, err := readPassword(file)
		if message := strings.TrimPrefix(errorText(err), file); have != test.want || message != test.wrong {
			t.Errorf("%s: got %q, %q, want %q, %q", test.name, have, message, test.want, test.wrong)
		}
		if strings.Contains(errorText(err), "s3cret") {
			t.Errorf("%s: the error shows the password: %v", test.name, err)
		}
	}
	if _, err := readPassword(filepath.Join(t.TempDir(), "missing")); !os.IsNotExist(err) {
		t.Errorf("missing: got %v", err)
	}
}

// coordinatorOf loads a file with one coordinator section.
func coordinatorOf(t *testing.T, section string) *Config {
	t.Helper()
	return mustLoad(t, "coordinator: {"+section+"}\n"+someApp)
}

// Mutants killed: any line of settings or load left out; TLS without being asked
// for it, or not for https.
func TestCoordinatorSettings(t *testing.T) {
	a := newAuthority(t)
	a.sign("node", x509.Certificate{})
	password := secretFile(t, "password", "right\n")
	settings := func(section string) *coordinatorSettings {
		cfg := coordinatorOf(t, section)
		store, _ := cfg.Coordinator.store()
		s, err := cfg.Coordinator.settings(store)
		if err != nil {
			t.Fatalf("%s: %v", section, err)
		}
		return s
	}
	s := settings("type: redis, key_prefix: lk, lease_ttl: 5s, safety_margin: 1s, redis: {addresses: [\"a:1\"], username: u, password_file: " + password +
		", db: 3, grace: false, tls: {ca_file: " + a.file("ca.crt") + ", cert_file: " + a.file("node.crt") + ", key_file: " + a.file("node.key") + ", server_name: r}}")
	if s.access.Username != "u" || s.password != "right" || s.db != 3 || s.grace || s.prefix != "lk" || s.ttl != 5*time.Second || s.margin != time.Second {
		t.Errorf("got %+v", s)
	}
	if s.tls.ServerName != "r" || s.tls.RootCAs == nil || s.tls.MinVersion != tls.VersionTLS12 {
		t.Errorf("got TLS %+v", s.tls)
	}
	if own, err := s.tls.GetClientCertificate(nil); err != nil || len(own.Certificate) != 1 {
		t.Errorf("certificate: %v", err)
	}
	if s := settings("type: redis, redis: {addresses: [\"a:1\"]}"); s.tls != nil || s.password != "" || !s.grace {
		t.Errorf("plain: got %+v", s)
	}
	if s := settings("type: redis, redis: {addresses: [\"a:1\"], tls: {server_name: r}}"); s.tls == nil || s.tls.RootCAs != nil || s.tls.GetClientCertificate != nil {
		t.Errorf("this machine's authorities: got %+v", s.tls)
	}
	for prefix, want := range map[string]string{"/lk": "/lk/", "/lk/": "/lk/", "lk:prod": "lk:prod/"} {
		if have := directory(prefix); have != want {
			t.Errorf("%s: got %s, want %s", prefix, have, want)
		}
	}
	for endpoint, secure := range map[string]bool{"https://a:1": true, "http://a:1": false, "a:1": false} {
		if s := settings("type: etcd, etcd: {endpoints: [\"" + endpoint + "\"]}"); (s.tls != nil) != secure {
			t.Errorf("%s: got TLS %v", endpoint, s.tls)
		}
	}
}

// Mutant killed: an error without the name of its setting or its file.
func TestCoordinatorFilesAreNamed(t *testing.T) {
	a := newAuthority(t)
	a.sign("node", x509.Certificate{})
	a.sign("other", x509.Certificate{})
	empty := secretFile(t, "empty", "")
	missing := a.file("missing")
	for _, test := range []struct{ access, path, file string }{
		{"password_file: " + empty, "password_file", empty + " holds no password"},
		{"password_file: " + missing, "password_file", missing + ": no such file"},
		{"tls: {ca_file: " + missing + "}", "tls.ca_file", missing + ": no such file"},
		{"tls: {ca_file: " + a.file("node.key") + "}", "tls.ca_file", a.file("node.key") + " holds no certificate in PEM"},
		{"tls: {cert_file: " + missing + ", key_file: " + a.file("node.key") + "}", "tls.cert_file", missing + ": no such file"},
		{"tls: {cert_file: " + a.file("node.crt") + ", key_file: " + missing + "}", "tls.cert_file", missing + ": no such file"},
		{"tls: {cert_file: " + a.file("node.crt") + ", key_file: " + a.file("other.key") + "}", "tls.cert_file", a.file("other.key") + ": tls: private key does not match"},
	} {
		cfg := coordinatorOf(t, "type: redis, redis: {addresses: [\"127.0.0.1:1\"], "+test.access+"}")
		_, err := newCoordinator(cfg, slog.New(slog.DiscardHandler))
		if text := errorText(err); !strings.HasPrefix(text, "coordinator.redis."+test.path+": ") || !strings.Contains(text, test.file) {
			t.Errorf("%s: got %q, want %s, %s", test.access, text, test.path, test.file)
		}
	}
}

// Mutant killed: redlock is opened as if it could carry strict routes.
func TestCoordinatorOfNoType(t *testing.T) {
	for _, section := range []string{"type: none", "type: redlock, redlock: {addresses: [\"127.0.0.1:1\", \"127.0.0.1:2\", \"127.0.0.1:3\"]}"} {
		cfg, report := loadText(t, "coordinator: {"+section+"}\n"+someApp)
		if report.Errors() > 0 {
			t.Fatal(report.Problems)
		}
		if c, err := newCoordinator(cfg, slog.New(slog.DiscardHandler)); c != nil || err != nil {
			t.Errorf("%s: got %v, %v", section, c, err)
		}
	}
}

// openSection opens the coordinator of a section and begins a lease, which the
// test ends.
func openSection(t *testing.T, section string) (lock.Coordinator, lock.Session) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := newCoordinator(coordinatorOf(t, section), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatalf("%s: %v", section, err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	s, err := c.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return c, s
}

// Each type opens its store, and what one node takes under a prefix is nobody's
// under another, however alike they are.
//
// Mutants killed: the prefix is not passed on; a type opens another's store.
func TestCoordinatorOfEachType(t *testing.T) {
	for kind, start := range map[string]func(t *testing.T) string{
		"etcd":      func(t *testing.T) string { return "endpoints: [\"" + locktest.Etcd(t, 1)[0].Address + "\"]" },
		"zookeeper": func(t *testing.T) string { return "servers: [\"" + locktest.ZooKeeper(t, 1)[0].Address + "\"]" },
		"redis":     func(t *testing.T) string { return "addresses: [\"" + locktest.Redis(t).Address + "\"]" },
	} {
		t.Run(kind, func(t *testing.T) {
			section := func(prefix string) string {
				return "type: " + kind + ", key_prefix: " + prefix + ", lease_ttl: 2s, safety_margin: 500ms, " + kind + ": {"
			}
			store := start(t)
			records := func(s lock.Session) int {
				t.Helper()
				found, err := s.Records(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				return len(found)
			}
			_, first := openSection(t, section("/lk")+store+"}")
			if taken, err := first.Take(t.Context(), []lock.Take{{Partition: 7}}); err != nil || !taken[0].OK {
				t.Fatalf("got %+v, %v", taken, err)
			}
			if left := first.ValidFor(); left <= 0 || left > 1500*time.Millisecond {
				t.Errorf("valid for %v", left)
			}
			_, second := openSection(t, section("/lk")+store+"}")
			_, other := openSection(t, section("/lk-two")+store+"}")
			_, within := openSection(t, section("/lk/two")+store+"}")
			if have := []int{records(first), records(second), records(other), records(within)}; have[0] != 1 || have[1] != 1 || have[2] != 0 || have[3] != 0 {
				t.Errorf("records: got %v, want 1, 1, 0, 0", have)
			}
		})
	}
}

// tlsRedis starts a server that wants certificates of the authority's clients, or
// of nobody.
func tlsRedis(t *testing.T, a *authority, clients string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	listener.Close()
	locktest.Redis(t, "--tls-port", port, "--tls-cert-file", a.file("server.crt"), "--tls-key-file", a.file("server.key"),
		"--tls-ca-cert-file", a.file("ca.crt"), "--tls-auth-clients", clients)
	return "127.0.0.1:" + port
}

// serverCertificate is for 127.0.0.1, and for the name redis.test.
func serverCertificate() x509.Certificate {
	return x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"redis.test"}}
}

// A store that wants certificates gets those of the files, as they are then.
//
// Mutant killed: the certificate is read once.
func TestCoordinatorOverTLS(t *testing.T) {
	a := newAuthority(t)
	a.sign("server", serverCertificate())
	a.sign("node", x509.Certificate{})
	address := tlsRedis(t, a, "yes")
	section := "type: redis, redis: {addresses: [\"" + address + "\"], tls: {ca_file: " + a.file("ca.crt") + ", cert_file: " + a.file("node.crt") + ", key_file: " + a.file("node.key") + "}}"
	openSection(t, section)

	cfg := coordinatorOf(t, section)
	store, _ := cfg.Coordinator.store()
	settings, err := cfg.Coordinator.settings(store)
	if err != nil {
		t.Fatal(err)
	}
	before, _ := settings.tls.GetClientCertificate(nil)
	a.sign("node", x509.Certificate{})
	after, err := settings.tls.GetClientCertificate(nil)
	if err != nil || string(before.Certificate[0]) == string(after.Certificate[0]) {
		t.Errorf("a renewed certificate is not seen: %v", err)
	}
	if err := settings.try(t.Context(), 5*time.Second); err != nil {
		t.Error(err)
	}
}

// A store that is not there yet is opened when it is, and Close ends the waiting.
//
// Mutants: newCoordinator opens at once; what failed once is not tried again; closed
// is not looked at.
func TestStoreMayComeLate(t *testing.T) {
	server := locktest.Redis(t)
	server.Kill()
	c, err := newCoordinator(coordinatorOf(t, "type: redis, lease_ttl: 2s, safety_margin: 500ms, redis: {grace: false, addresses: [\""+server.Address+"\"]}"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	begin := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := c.Begin(ctx)
		return err
	}
	if err := begin(); err == nil || !strings.HasPrefix(err.Error(), "coordinator.redis: ") {
		t.Fatalf("got %v without a server", err)
	}
	server.Start()
	if err := begin(); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := begin(); !errors.Is(err, lock.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// An opening that takes long holds up nobody: Begin returns when its time is over, with
// what was wrong before if that is known, and Close ends the opening.
//
// Mutants: Begin waits for the opening; Close doesn't end it; each Begin opens anew.
func TestOpeningHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var openings atomic.Int32
		c := &lateCoordinator{late: late[lock.Coordinator]{timeout: time.Hour, open: func(ctx context.Context) (lock.Coordinator, error) {
			if openings.Add(1) == 1 {
				return nil, errors.New("nobody there")
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}}}
		begin := func() (took time.Duration, err error) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			began := time.Now()
			_, err = c.Begin(ctx)
			return time.Since(began), err
		}
		for n, want := range []time.Duration{0, time.Second, time.Second} {
			if took, err := begin(); errorText(err) != "nobody there" || took != want {
				t.Errorf("Begin %d: %v after %v", n, err, took)
			}
		}
		if n := openings.Load(); n != 2 {
			t.Errorf("opened %d times", n)
		}
		began := time.Now()
		if err := c.Close(t.Context()); err != nil || time.Since(began) > 0 {
			t.Errorf("Close: %v after %v", err, time.Since(began))
		}
		if _, err := begin(); !errors.Is(err, lock.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

// A store that lost all its data is used again, whatever its client makes of that: a
// ZooKeeper refuses clients that have seen more of it than it has itself, for ever.
//
// Mutant: a session that is not valid any more is waited for.
func TestStoreThatLostItsDataIsOpenedAnew(t *testing.T) {
	server := locktest.ZooKeeper(t, 1)[0]
	c, s := openSection(t, "type: zookeeper, lease_ttl: 2s, safety_margin: 500ms, zookeeper: {servers: [\""+server.Address+"\"]}")
	for p := range 50 {
		if taken, err := s.Take(t.Context(), []lock.Take{{Partition: p}}); err != nil || !taken[0].OK {
			t.Fatalf("got %+v, %v", taken, err)
		}
	}
	server.Kill()
	server.StartEmpty()
	select {
	case <-s.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("the session has not ended")
	}
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		next, err := c.Begin(ctx)
		cancel()
		if err == nil && next.ID() != s.ID() && next.ValidFor() > 0 {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("no lease again: %v", err)
		}
	}
}
