package main

import (
	"context"
	"os"
	"strings"
	"time"

	"lanekeeper/proxy/idempotency"
	"lanekeeper/proxy/idempotency/postgres"
	"lanekeeper/proxy/idempotency/redis"
	"lanekeeper/proxy/sequence"
)

// recordTimeoutMax bounds a question to a store of records, which a request waits for in
// its turn.
const recordTimeoutMax = 2 * time.Second

// recordStore keeps records of requests, and marks of their producers.
type recordStore interface {
	idempotency.Store
	sequence.Store
}

// newRecordStores are the stores that routes name, but the memory. Errors are as
// newCoordinator's.
func newRecordStores(config *Config) (map[string]recordStore, error) {
	stores := make(map[string]recordStore)
	for kind, lease := range config.recordLeases() {
		store, err := config.Stores.open(kind, recordTimeout(lease))
		if err != nil {
			return nil, err
		}
		stores[kind] = store
	}
	return stores, nil
}

// recordLeases are the stores that routes name, but the memory, with the shortest claim
// that any of these makes there.
func (c *Config) recordLeases() map[string]time.Duration {
	leases := make(map[string]time.Duration)
	for _, r := range c.Routes {
		// Numbers whose answers are replayed are claimed, too.
		for _, store := range []string{r.Idempotency.remote(), r.Sequence.remote()} {
			lease := time.Duration(r.Idempotency.ClaimLease)
			if shortest, known := leases[store]; known {
				lease = min(lease, shortest)
			}
			if store != "" {
				leases[store] = lease
			}
		}
	}
	return leases
}

// recordTimeout is how long a store is waited for. A claim is renewed thrice in its lease,
// if each renewal is over by the next.
func recordTimeout(lease time.Duration) time.Duration { return min(recordTimeoutMax, lease/4) }

// remote is the store that a route's records are in; empty: none, or the memory.
func (i *IdempotencyConfig) remote() string {
	if i.Mode == "none" || i.Store == storeOwner {
		return ""
	}
	return i.Store
}

// remote is the store that a route's marks are in; empty: none, or the memory.
func (s *SequenceConfig) remote() string {
	if s.Mode == "none" || s.Store == storeOwner {
		return ""
	}
	return s.Store
}

func (s *StoresConfig) open(kind string, timeout time.Duration) (recordStore, error) {
	open, err := s.opener(kind, timeout)
	if err != nil {
		return nil, err
	}
	l := new(lateRecords)
	l.timeout, l.open = recordTimeoutMax, func(ctx context.Context) (recordStore, error) {
		store, err := open(ctx)
		if err != nil {
			return nil, settingError{"stores." + kind, err}
		}
		return store, nil
	}
	return l, nil
}

func (s *StoresConfig) opener(kind string, timeout time.Duration) (func(context.Context) (recordStore, error), error) {
	switch kind {
	case "redis":
		return s.Redis.opener(timeout)
	case "postgres":
		return s.Postgres.opener(timeout)
	}
	panic("records: unknown store " + kind)
}

func (c RecordRedisConfig) opener(timeout time.Duration) (func(context.Context) (recordStore, error), error) {
	section := c.section()
	config := redis.Config{Address: c.Addresses[0], Username: c.Username, DB: c.DB, Prefix: c.KeyPrefix, Timeout: timeout}
	var err error
	if c.PasswordFile != "" {
		if config.Password, err = readPassword(c.PasswordFile); err != nil {
			return nil, settingError{section.path() + ".password_file", err}
		}
	}
	if config.TLS, err = c.TLS.load(section.path() + ".tls"); err != nil {
		return nil, err
	}
	return func(ctx context.Context) (recordStore, error) { return redis.Open(ctx, config) }, nil
}

func (c RecordPostgresConfig) opener(timeout time.Duration) (func(context.Context) (recordStore, error), error) {
	dsn, err := os.ReadFile(c.DSNFile)
	if err != nil {
		return nil, settingError{"stores.postgres.dsn_file", err}
	}
	config := postgres.Config{
		DSN: strings.TrimSpace(string(dsn)), Table: c.Table, CreateTable: c.CreateTable, MaxConnections: c.MaxConnections, Timeout: timeout,
	}
	return func(ctx context.Context) (recordStore, error) { return postgres.Open(ctx, config) }, nil
}

// lateRecords is a store of records that need not be there when the node starts. Until it
// is, it is away.
type lateRecords struct {
	late[recordStore]
}

// Begin implements idempotency.Store.
func (l *lateRecords) Begin(ctx context.Context, r *idempotency.Request) (idempotency.Run, idempotency.Record, error) {
	store, err := l.get(ctx)
	if err != nil {
		return nil, idempotency.Record{}, err
	}
	return store.Begin(ctx, r)
}

// Load implements sequence.Store.
func (l *lateRecords) Load(ctx context.Context, key []byte, producer string) (epoch, done uint64, known bool, err error) {
	store, err := l.get(ctx)
	if err != nil {
		return 0, 0, false, err
	}
	return store.Load(ctx, key, producer)
}

// Save implements sequence.Store.
func (l *lateRecords) Save(ctx context.Context, key []byte, n sequence.Number, ttl time.Duration) error {
	store, err := l.get(ctx)
	if err != nil {
		return err
	}
	return store.Save(ctx, key, n, ttl)
}

// Close implements idempotency.Store.
func (l *lateRecords) Close() error {
	if store := l.close(); store != nil {
		return store.Close()
	}
	return nil
}
