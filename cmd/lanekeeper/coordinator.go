package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"lanekeeper/lock"
	"lanekeeper/lock/etcd"
	"lanekeeper/lock/redis"
	"lanekeeper/lock/zk"
)

// newCoordinator is the coordinator of a configuration that Load found no error in, nil
// if there is none. An error is about the files that it names. What the store finds
// wrong, such as a password, is known when it is opened, and may be put right there: the
// log and /readyz say it until then.
func newCoordinator(config *Config, log *slog.Logger) (lock.Coordinator, error) {
	store, ok := config.Coordinator.store()
	if !ok || !store.fences() {
		return nil, nil
	}
	settings, err := config.Coordinator.settings(store)
	if err != nil {
		return nil, err
	}
	c := &lateCoordinator{ttl: time.Duration(config.Coordinator.LeaseTTL)}
	c.timeout, c.open = c.ttl, func(ctx context.Context) (lock.Coordinator, error) {
		opened, err := settings.open(ctx, log)
		if err != nil {
			return nil, settingError{store.path(), err}
		}
		return opened, nil
	}
	return c, nil
}

// coordinatorSettings is the coordinator section as those need it who open the
// store: plain values, with what its files hold.
type coordinatorSettings struct {
	storeSection
	password string
	tls      *tls.Config // nil: none
	prefix   string
	ttl      time.Duration
	margin   time.Duration
}

// settings reads the files of a store's section. Load leaves them alone, as it
// does those of clusterSettings.
func (c *CoordinatorConfig) settings(store storeSection) (*coordinatorSettings, error) {
	s := &coordinatorSettings{storeSection: store, prefix: c.KeyPrefix, ttl: time.Duration(c.LeaseTTL), margin: time.Duration(c.SafetyMargin)}
	var err error
	if file := store.access.PasswordFile; file != "" {
		if s.password, err = readPassword(file); err != nil {
			return nil, settingError{store.path() + ".password_file", err}
		}
	}
	if s.tls, err = store.access.TLS.load(store.path() + ".tls"); err != nil {
		return nil, err
	}
	if s.tls == nil && store.kind == "etcd" && schemeOf(store.addresses[0]) == "https" {
		s.tls = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return s, nil
}

// open opens the store. Of redlock's masters it takes the first as if it were the
// only one, which is what can be asked of each.
func (s *coordinatorSettings) open(ctx context.Context, log *slog.Logger) (lock.Coordinator, error) {
	switch s.kind {
	case "etcd":
		return opened(etcd.Open(ctx, etcd.Config{
			Endpoints: s.addresses, Username: s.access.Username, Password: s.password, TLS: s.tls,
			Prefix: directory(s.prefix), TTL: s.ttl, Margin: s.margin, Log: log,
		}))
	case "zookeeper":
		return opened(zk.Open(ctx, zk.Config{
			Servers: s.addresses, Username: s.access.Username, Password: s.password, TLS: s.tls,
			Prefix: s.prefix, TTL: s.ttl, Margin: s.margin, Log: log,
		}))
	case "redis", "redlock":
		return opened(redis.Open(ctx, redis.Config{
			Address: s.addresses[0], Username: s.access.Username, Password: s.password, DB: s.db, TLS: s.tls,
			Prefix: s.prefix, TTL: s.ttl, Margin: s.margin, Grace: s.grace, Log: log,
		}))
	}
	panic("coordinator: unknown type " + s.kind)
}

// directory ends a prefix as a path ends: in etcd a prefix is of bytes, and who is
// let into /lanekeeper is not to be let into /lanekeeper-two.
func directory(prefix string) string { return strings.TrimSuffix(prefix, "/") + "/" }

// opened keeps a nil pointer from becoming a Coordinator that is not nil.
func opened[C lock.Coordinator](coordinator C, err error) (lock.Coordinator, error) {
	if err != nil {
		return nil, err
	}
	return coordinator, nil
}

// settingError is an error of which the setting is known that it comes from.
type settingError struct {
	path string
	err  error
}

func (e settingError) Error() string { return e.path + ": " + e.err.Error() }
func (e settingError) Unwrap() error { return e.err }

// load makes TLS of what is configured, nil if nothing is.
func (t StoreTLSConfig) load(path string) (*tls.Config, error) {
	if t == (StoreTLSConfig{}) {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, settingError{path + ".ca_file", err}
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, settingError{path + ".ca_file", fmt.Errorf("%s holds no certificate in PEM", t.CAFile)}
		}
	}
	if t.CertFile == "" {
		return config, nil
	}
	if _, err := t.certificate(); err != nil {
		return nil, settingError{path + ".cert_file", err}
	}
	// Read again for each connection: certificates are renewed while nodes run.
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return t.certificate() }
	return config, nil
}

func (t StoreTLSConfig) certificate() (*tls.Certificate, error) {
	certificate, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("%s and %s: %w", t.CertFile, t.KeyFile, err)
	}
	return &certificate, nil
}
