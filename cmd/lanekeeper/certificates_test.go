package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	dto "github.com/prometheus/client_model/go"
)

// handshake connects to c's listener, and returns the name in the certificate that
// it shows.
func handshake(c *certificates, client *tls.Config) (string, error) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	go tls.Server(a, c.serverTLS()).Write([]byte("x")) //nolint:errcheck // ends with the pipe
	secure := tls.Client(b, client)
	secure.SetDeadline(time.Now().Add(10 * time.Second))    //nolint:errcheck // a test that would hang fails
	if _, err := secure.Read(make([]byte, 1)); err != nil { // of TLS 1.3 a client is told late that it is refused
		return "", err
	}
	return secure.ConnectionState().PeerCertificates[0].Subject.CommonName, nil
}

// believing is a client that believes a, and shows the certificate of a name, or none.
func (a *authority) believing(name string) *tls.Config {
	a.t.Helper()
	config := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "edge"}
	root, err := os.ReadFile(a.file("ca.crt"))
	if err != nil || !config.RootCAs.AppendCertsFromPEM(root) {
		a.t.Fatal(err)
	}
	if name != "" {
		own, err := tls.LoadX509KeyPair(a.file(name+".crt"), a.file(name+".key"))
		if err != nil {
			a.t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{own}
	}
	return config
}

// certify is sign for a listener called edge.
func (a *authority) certify(names ...string) {
	for _, name := range names {
		a.sign(name, x509.Certificate{DNSNames: []string{"edge"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}})
	}
}

// put makes to what from is, as one who copies a file does.
func (a *authority) put(from, to string) {
	a.t.Helper()
	content, err := os.ReadFile(a.file(from))
	if err != nil {
		a.t.Fatal(err)
	}
	if err := os.WriteFile(a.file(to), content, 0o600); err != nil {
		a.t.Fatal(err)
	}
}

func (a *authority) load(files TLSConfig) *certificates {
	a.t.Helper()
	c, err := loadCertificates("server", "server.tls", files)
	if err != nil {
		a.t.Fatal(err)
	}
	return c
}

// A certificate is written before its key, or the other way round, and somebody may
// connect in between.
//
// Mutants: what was refused is said at each look; an expired one is taken.
func TestCertificatesAreReadAgainWhenTheyChange(t *testing.T) {
	a := newAuthority(t)
	a.certify("old", "new")
	a.sign("late", x509.Certificate{NotAfter: time.Now().Add(-time.Minute)})
	a.put("old.crt", "tls.crt")
	a.put("old.key", "tls.key")
	c := a.load(TLSConfig{CertFile: a.file("tls.crt"), KeyFile: a.file("tls.key")})
	var said bytes.Buffer
	log := slog.New(slog.NewTextHandler(&said, nil))
	for _, step := range []struct {
		name  string
		do    func()
		shows string
		lines int    // that are said
		why   string // among them
	}{
		{name: "nothing", do: func() {}, shows: "old"},
		{name: "a certificate without its key", do: func() { a.put("new.crt", "tls.crt") }, shows: "old", lines: 1, why: "does not go with"},
		{name: "its key", do: func() { a.put("new.key", "tls.key") }, shows: "new", lines: 1, why: "read again"},
		{name: "the key is gone", do: func() { os.Remove(a.file("tls.key")) }, shows: "new", lines: 1, why: "no such file"},
		{name: "the key is back, and another", do: func() { a.put("old.key", "tls.key") }, shows: "new", lines: 1, why: "does not go with"},
		{name: "the certificate is, too", do: func() { a.put("old.crt", "tls.crt") }, shows: "old", lines: 1, why: "read again"},
		{name: "an expired pair", do: func() { a.put("late.crt", "tls.crt"); a.put("late.key", "tls.key") }, shows: "old", lines: 1, why: "has expired, on "},
		{name: "no certificate at all", do: func() { os.WriteFile(a.file("tls.crt"), []byte("soon"), 0o600) }, shows: "old", lines: 1, why: "holds no certificate in PEM"},
		{name: "a good one", do: func() { a.put("new.crt", "tls.crt"); a.put("new.key", "tls.key") }, shows: "new", lines: 1, why: "read again"},
	} {
		said.Reset()
		step.do()
		for range 3 {
			c.renew(log)
		}
		if have, err := handshake(c, a.believing("")); err != nil || have != step.shows {
			t.Errorf("%s: it shows %q, %v, want %q", step.name, have, err, step.shows)
		}
		if have := said.String(); strings.Count(have, "\n") != step.lines || !strings.Contains(have, step.why) {
			t.Errorf("%s: want %d lines, with %q, got\n%s", step.name, step.lines, step.why, have)
		}
	}
}

// Kubernetes makes a new directory and renames a link to it.
//
// Mutant: Lstat looks at the link that never changes.
func TestCertificatesAreReadAgainWhenALinkMoves(t *testing.T) {
	a := newAuthority(t)
	a.certify("old", "new")
	for _, name := range []string{"old", "new"} {
		if err := os.Mkdir(a.file(".."+name), 0o700); err != nil {
			t.Fatal(err)
		}
		a.put(name+".crt", ".."+name+"/tls.crt")
		a.put(name+".key", ".."+name+"/tls.key")
	}
	link := func(target string) {
		if err := os.Symlink(target, a.file("..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(a.file("..data_tmp"), a.file("..data")); err != nil {
			t.Fatal(err)
		}
	}
	link("..old")
	for _, file := range []string{"tls.crt", "tls.key"} {
		if err := os.Symlink(filepath.Join("..data", file), a.file(file)); err != nil {
			t.Fatal(err)
		}
	}
	c := a.load(TLSConfig{CertFile: a.file("tls.crt"), KeyFile: a.file("tls.key")})
	link("..new")
	c.renew(slog.New(slog.DiscardHandler))
	if have, err := handshake(c, a.believing("")); err != nil || have != "new" {
		t.Errorf("it shows %q, %v", have, err)
	}
}

// Mutants: clients need no certificate; any will do.
func TestClientsNeedACertificate(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	a.certify("edge", "client")
	other.certify("client")
	a.put("ca.crt", "clients.crt")
	c := a.load(TLSConfig{CertFile: a.file("edge.crt"), KeyFile: a.file("edge.key"), ClientCAFile: a.file("clients.crt")})
	strange := other.believing("client")
	strange.RootCAs = a.believing("").RootCAs
	for name, test := range map[string]struct {
		client *tls.Config
		want   bool
	}{"theirs": {a.believing("client"), true}, "none": {a.believing(""), false}, "another authority's": {strange, false}} {
		if _, err := handshake(c, test.client); (err == nil) != test.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The authorities change.
	content, err := os.ReadFile(other.file("ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(a.file("clients.crt"), append(content, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
	c.renew(slog.New(slog.DiscardHandler))
	if _, err := handshake(c, strange); err != nil {
		t.Error(err)
	}
	if _, err := handshake(c, a.believing("client")); err == nil {
		t.Error("whoever the authorities of before have signed is let in")
	}
}

// Mutant: watch looks once.
func TestCertificatesAreWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t)
		a.certify("old", "new")
		a.put("old.crt", "tls.crt")
		a.put("old.key", "tls.key")
		c := a.load(TLSConfig{CertFile: a.file("tls.crt"), KeyFile: a.file("tls.key")})
		c.watch(slog.New(slog.DiscardHandler))
		for _, name := range []string{"new", "old"} {
			a.put(name+".crt", "tls.crt")
			a.put(name+".key", "tls.key")
			time.Sleep(certificatesEvery + time.Millisecond)
			if have := c.Own().Leaf.Subject.CommonName; have != name {
				t.Errorf("it has %q, want %q", have, name)
			}
			var metric dto.Metric
			if err := c.collector().(interface{ Write(*dto.Metric) error }).Write(&metric); err != nil || int64(metric.Gauge.GetValue()) != c.Own().Leaf.NotAfter.Unix() {
				t.Errorf("the metric is %v, %v", metric.Gauge, err)
			}
		}
		c.close()
	})
}

// Mutants: an expired certificate is good; exposed looks at the group's bit.
func TestValidateReadsCertificatesOnline(t *testing.T) {
	a := newAuthority(t)
	a.certify("good", "other")
	a.sign("late", x509.Certificate{NotAfter: time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)})
	a.put("good.key", "open.key")
	if err := os.Chmod(a.file("open.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	a.put("good.key", "group.key")
	if err := os.Chmod(a.file("group.key"), 0o640); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ cert, key, ca, want string }{
		{"good.crt", "good.key", "ca.crt", ""},
		{"good.crt", "group.key", "", ""},
		{"good.crt", "open.key", "", "lk.yaml:4:5: warning: server.tls.key_file: every user of this machine can read DIR/open.key: chmod 600"},
		{"none.crt", "good.key", "", "lk.yaml:3:5: error: server.tls.cert_file: open DIR/none.crt: no such file or directory"},
		{"good.crt", "none.key", "", "lk.yaml:4:5: error: server.tls.key_file: open DIR/none.key: no such file or directory"},
		{"good.key", "good.key", "", "lk.yaml:3:5: error: server.tls.cert_file: DIR/good.key holds no certificate in PEM"},
		{"good.crt", "good.crt", "", "lk.yaml:4:5: error: server.tls.key_file: DIR/good.crt holds no private key in PEM"},
		{"good.crt", "other.key", "", "lk.yaml:4:5: error: server.tls.key_file: DIR/other.key does not go with DIR/good.crt: tls: private key does not match public key"},
		{"late.crt", "late.key", "", "lk.yaml:3:5: error: server.tls.cert_file: DIR/late.crt has expired, on 2020-01-02T03:04:05Z"},
		{"good.crt", "good.key", "good.key", "lk.yaml:5:5: error: server.tls.client_ca_file: DIR/good.key holds no certificate in PEM"},
		{"good.crt", "good.key", "none", "lk.yaml:5:5: error: server.tls.client_ca_file: open DIR/none: no such file or directory"},
	} {
		t.Run(test.cert+" "+test.key+" "+test.ca, func(t *testing.T) {
			t.Chdir(t.TempDir())
			source := fmt.Sprintf("server:\n  tls:\n    cert_file: %s\n    key_file: %s\n", a.file(test.cert), a.file(test.key))
			if test.ca != "" {
				source += "    client_ca_file: " + a.file(test.ca) + "\n"
			}
			if err := os.WriteFile("lk.yaml", []byte(source+someApp), 0o600); err != nil {
				t.Fatal(err)
			}
			_, out, _ := runArgs(t, "validate", "--online", "lk.yaml")
			if first, _, _ := strings.Cut(out, "\n"); strings.ReplaceAll(first, a.dir, "DIR") != test.want && test.want != "" || test.want == "" && !strings.HasPrefix(first, "0 errors, 0 warnings") {
				t.Errorf("got %s\nwant %s", out, test.want)
			}
			if _, out, _ := runArgs(t, "validate", "lk.yaml"); !strings.Contains(out, "0 errors, 0 warnings") {
				t.Errorf("offline: %s", out)
			}
		})
	}
}

// TestServeOverTLS runs the whole program with certificates at both listeners, and
// asks it as clients, operators and Prometheus do.
func TestServeOverTLS(t *testing.T) {
	a := newAuthority(t)
	loopback := x509.Certificate{DNSNames: []string{"edge"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	a.sign("edge", loopback)
	a.sign("admin", loopback)
	a.certify("operator")
	token := strings.Repeat("t0ken", 5)
	tokenFile := secretFile(t, "token", token)
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.Header.Get("X-Forwarded-Proto")+" "+r.Header.Get("X-Forwarded-For"))
	}))
	defer upstream.Close()
	file := secretFile(t, "lanekeeper.yaml", fmt.Sprintf(`
server:
  listen: "127.0.0.1:0"
  proxy_protocol: optional
  trusted_proxies: [127.0.0.0/8]
  tls: {cert_file: %[1]s/edge.crt, key_file: %[1]s/edge.key}
observe: {listen: "127.0.0.1:0"}
admin:
  listen: "127.0.0.1:0"
  token_file: %[2]s
  pprof: true
  tls: {cert_file: %[1]s/admin.crt, key_file: %[1]s/admin.key, client_ca_file: %[1]s/ca.crt}
upstreams: [{name: app, targets: [%[3]q]}]
routes: [{name: order, match: {path: "/orders/{id}"}, upstream: app, key: {space: order, from: [{path: id}]}}]
`, a.dir, tokenFile, upstream.URL))
	p := launch(t, file)
	line := p.log("serving")

	conn, err := net.Dial("tcp", line["listen"].(string))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second)) //nolint:errcheck // a test that would hang fails
	io.WriteString(conn, "PROXY TCP4 203.0.113.7 203.0.113.8 1 2\r\n")
	secure := tls.Client(conn, a.believing(""))
	io.WriteString(secure, "GET /orders/7 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	if answer, err := io.ReadAll(secure); err != nil || !strings.HasSuffix(string(answer), "https 203.0.113.7") {
		t.Errorf("got %q, %v", answer, err)
	}

	address := "https://" + line["admin"].(string)
	certificate := " --cert-file " + a.file("operator.crt") + " --key-file " + a.file("operator.key")
	for args, want := range map[string]string{
		"members --admin " + address + " --token-file " + tokenFile + " --ca-file " + a.file("ca.crt") + certificate: "",
		"members --admin " + address + " --ca-file " + a.file("ca.crt") + certificate:                                "the node asks for a token: give --token-file",
		"members --admin " + address + certificate:                                                                   "give its authority as --ca-file",
		"members --admin " + address + " --ca-file " + a.file("ca.crt"):                                              "certificate required",
		"members --admin " + address + " --ca-file " + a.file("ca.key"):                                              "--ca-file: " + a.file("ca.key") + " holds no certificate in PEM",
	} {
		code, _, errs := runArgs(t, strings.Fields(args)...)
		if want == "" && code != exitOK || want != "" && (code != exitAdmin || !strings.Contains(errs, want)) {
			t.Errorf("%s: got %d, %s, want %q", args, code, errs, want)
		}
	}

	response, err := http.Get("http://" + line["observe"].(string) + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	metrics, _ := io.ReadAll(response.Body)
	for _, listener := range []string{"server", "admin"} {
		if !strings.Contains(string(metrics), `lanekeeper_tls_cert_not_after_timestamp_seconds{listener="`+listener+`"} `) {
			t.Errorf("no metric of %s", listener)
		}
	}
	p.signal(syscall.SIGTERM)
	if code := p.wait(); code != exitOK {
		t.Errorf("it ends with %d", code)
	}
}
