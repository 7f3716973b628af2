package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// certificates are what a listener shows of itself and whom it believes, as the
// files of a tls section hold it. watch reads the files again when they change,
// so that a renewed certificate needs no restart: every connection gets what is
// there when it begins, and those that exist go on.
//
// The files are looked at, and not subscribed to, since that also sees what
// Kubernetes does, which renames a link to their directory. What is read is taken
// as a whole or not at all: between the writing of a certificate and that of its
// key the pair before stays in use.
type certificates struct {
	listener string // in the log and the metrics
	path     string // of the section
	files    TLSConfig

	current atomic.Pointer[material]
	seen    [3]os.FileInfo // when current was read; watch's own, as the next
	refused string         // why the files as they are were not taken, as the log says
	quit    chan struct{}
	watcher sync.WaitGroup
}

// material is what a set of files holds.
type material struct {
	own         tls.Certificate
	authorities *x509.CertPool // nil: clients need no certificate
	server      *tls.Config
}

// certificatesEvery is how often the files are looked at: three calls of stat.
const certificatesEvery = 5 * time.Second

// httpOnly keeps clients from asking for HTTP/2.
var httpOnly = []string{"http/1.1"}

// loadCertificates reads the files of the section at path; nil if there are none.
// An error names the setting and the file, and never what is in it.
func loadCertificates(listener, path string, files TLSConfig) (*certificates, error) {
	if files == (TLSConfig{}) {
		return nil, nil
	}
	c := &certificates{listener: listener, path: path, files: files, quit: make(chan struct{})}
	c.seen = c.look()
	first, err := c.read()
	if err != nil {
		return nil, err
	}
	c.current.Store(first)
	return c, nil
}

// watch begins to look for changes, until close.
func (c *certificates) watch(log *slog.Logger) {
	if err := c.exposed(); err != nil {
		log.Warn("a private key is not private", "listener", c.listener, "error", err)
	}
	c.watcher.Go(func() { // ends with close
		ticker := time.NewTicker(certificatesEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				c.renew(log)
			case <-c.quit:
				return
			}
		}
	})
}

// close ends watch. What was read can still be used.
func (c *certificates) close() {
	close(c.quit)
	c.watcher.Wait()
}

// renew reads the files if they have changed, or if they could not be used when
// they last had.
func (c *certificates) renew(log *slog.Logger) {
	seen := c.look()
	if c.refused == "" && same(seen, c.seen) {
		return
	}
	next, err := c.read()
	switch {
	case err != nil:
		if c.refused != err.Error() {
			c.refused = err.Error()
			log.Warn("changed certificates are not taken: those before stay in use", "listener", c.listener, "error", err)
		}
	case same(seen, c.look()): // else somebody is writing: the next time
		c.seen, c.refused = seen, ""
		c.current.Store(next)
		log.Info("certificates were read again", "listener", c.listener, "not_after", next.own.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
}

// look is what can be seen of the files without reading them; nil for one that is
// not there.
func (c *certificates) look() (seen [3]os.FileInfo) {
	for i, file := range []string{c.files.CertFile, c.files.KeyFile, c.files.ClientCAFile} {
		if info, err := os.Stat(file); err == nil {
			seen[i] = info
		}
	}
	return seen
}

func same(a, b [3]os.FileInfo) bool {
	for i := range a {
		if (a[i] == nil) != (b[i] == nil) {
			return false
		}
		if a[i] != nil && !(os.SameFile(a[i], b[i]) && a[i].Size() == b[i].Size() && a[i].ModTime().Equal(b[i].ModTime())) {
			return false
		}
	}
	return true
}

// read reads the files.
func (c *certificates) read() (*material, error) {
	chain, err := readPEM(c.files.CertFile, "CERTIFICATE", "certificate")
	if err != nil {
		return nil, settingError{c.path + ".cert_file", err}
	}
	key, err := readPEM(c.files.KeyFile, "PRIVATE KEY", "private key")
	if err != nil {
		return nil, settingError{c.path + ".key_file", err}
	}
	m := &material{}
	if m.own, err = tls.X509KeyPair(chain, key); err != nil {
		return nil, settingError{c.path + ".key_file", fmt.Errorf("%s does not go with %s: %w", c.files.KeyFile, c.files.CertFile, err)}
	}
	if end := m.own.Leaf.NotAfter; time.Now().After(end) {
		return nil, settingError{c.path + ".cert_file", fmt.Errorf("%s has expired, on %s", c.files.CertFile, end.UTC().Format(time.RFC3339))}
	}
	m.server = &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: httpOnly, Certificates: []tls.Certificate{m.own}}
	if c.files.ClientCAFile == "" {
		return m, nil
	}
	authorities, err := readPEM(c.files.ClientCAFile, "CERTIFICATE", "certificate")
	if err != nil {
		return nil, settingError{c.path + ".client_ca_file", err}
	}
	m.authorities = x509.NewCertPool()
	if !m.authorities.AppendCertsFromPEM(authorities) {
		return nil, settingError{c.path + ".client_ca_file", fmt.Errorf("%s holds no certificate that can be read", c.files.ClientCAFile)}
	}
	m.server.ClientAuth, m.server.ClientCAs = tls.RequireAndVerifyClientCert, m.authorities
	// A session that is resumed would rest on the authorities of its beginning.
	m.server.SessionTicketsDisabled = true
	return m, nil
}

// pemMax is far more than a chain of certificates takes.
const pemMax = 4 << 20

// readPEM reads a file with at least one block of a kind, which has a name for people.
func readPEM(path, kind, name string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, pemMax+1))
	switch {
	case err != nil:
		return nil, err
	case len(content) > pemMax:
		return nil, fmt.Errorf("%s is larger than %s", path, Size(pemMax))
	}
	for rest := content; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, fmt.Errorf("%s holds no %s in PEM", path, name)
		}
		if strings.HasSuffix(block.Type, kind) {
			return content, nil
		}
	}
}

// exposed says whether everybody on this machine can read the key.
func (c *certificates) exposed() error {
	info, err := os.Stat(c.files.KeyFile)
	if err != nil || info.Mode().Perm()&0o004 == 0 {
		return nil
	}
	return settingError{c.path + ".key_file", fmt.Errorf("every user of this machine can read %s: chmod 600", c.files.KeyFile)}
}

// serverTLS is for those that connect to the listener; nil without certificates.
func (c *certificates) serverTLS() *tls.Config {
	if c == nil {
		return nil
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: httpOnly,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.current.Load().server, nil },
	}
}

// Own implements peer.Certificates.
func (c *certificates) Own() *tls.Certificate { return &c.current.Load().own }

// Authorities implements peer.Certificates.
func (c *certificates) Authorities() *x509.CertPool { return c.current.Load().authorities }

// collector tells when the certificate in use ends.
func (c *certificates) collector() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "lanekeeper_tls_cert_not_after_timestamp_seconds", Help: "When the certificate that a listener shows expires, Unix time.",
		ConstLabels: prometheus.Labels{"listener": c.listener},
	}, func() float64 { return float64(c.current.Load().own.Leaf.NotAfter.Unix()) })
}

// certificateFiles reads the files of the listeners' certificates, which are where
// the nodes run.
func (c *checker) certificateFiles() {
	c.certificateFilesOf("server", "server.tls", c.cfg.Server.TLS)
	c.certificateFilesOf("admin", "admin.tls", c.cfg.Admin.TLS)
	if c.cfg.Cluster.Enabled {
		c.certificateFilesOf("peer", "cluster.peer.tls", TLSConfig(c.cfg.Cluster.Peer.TLS))
	}
}

func (c *checker) certificateFilesOf(listener, path string, files TLSConfig) {
	loaded, err := loadCertificates(listener, path, files)
	var wrong settingError
	switch {
	case errors.As(err, &wrong):
		c.errorf(wrong.path, "%v", wrong.err)
	case loaded != nil && errors.As(loaded.exposed(), &wrong):
		c.warnf(wrong.path, "%v", wrong.err)
	}
}
