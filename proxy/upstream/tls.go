package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// material is the files of TLS. They are looked at whenever a connection is made, and read
// again when one has changed, so that a renewed certificate needs no restart. If
// that fails, as it does half-way through a renewal, what was read before stays.
type material struct {
	files TLS
	log   *slog.Logger

	mu     sync.Mutex // guards the rest
	stamp  [3]stamp
	pool   *x509.CertPool // nil: the system's
	cert   *tls.Certificate
	resume tls.ClientSessionCache
}

// stamp tells whether a file has changed.
type stamp struct {
	size int64
	time time.Time
}

func newMaterial(files TLS, log *slog.Logger) (*material, error) {
	m := &material{files: files, log: log}
	m.stamp = m.stamps()
	return m, m.read()
}

func (m *material) stamps() (all [3]stamp) {
	for i, name := range []string{m.files.CAFile, m.files.CertFile, m.files.KeyFile} {
		if info, err := os.Stat(name); err == nil {
			all[i] = stamp{info.Size(), info.ModTime()}
		}
	}
	return all
}

func (m *material) read() error {
	var pool *x509.CertPool
	var cert *tls.Certificate
	if m.files.CAFile != "" {
		text, err := os.ReadFile(m.files.CAFile)
		if err != nil {
			return fmt.Errorf("tls.ca_file: %w", err)
		}
		if pool = x509.NewCertPool(); !pool.AppendCertsFromPEM(text) {
			return errors.New("tls.ca_file: " + m.files.CAFile + " has no certificate in PEM")
		}
	}
	if m.files.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(m.files.CertFile, m.files.KeyFile)
		if err != nil {
			return fmt.Errorf("tls.cert_file: %w", err)
		}
		cert = &pair
	}
	m.pool, m.cert = pool, cert
	m.resume = tls.NewLRUClientSessionCache(0) // a session was agreed under the old files
	return nil
}

// config is for one connection.
func (m *material) config(serverName string) *tls.Config {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := m.stamps(); now != m.stamp {
		m.stamp = now
		if err := m.read(); err != nil {
			m.log.Error("changed TLS files cannot be used; those that were read before stay", "event", "upstream-tls", "error", err)
		}
	}
	config := &tls.Config{
		ServerName: serverName, RootCAs: m.pool, MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"}, ClientSessionCache: m.resume,
	}
	if m.cert != nil {
		config.Certificates = []tls.Certificate{*m.cert}
	}
	return config
}
