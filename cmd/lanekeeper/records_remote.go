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

// recordTimeouts are those of the stores that routes name, but the memory.
func (c *Config) recordTimeouts() map[string]time.Duration {
	timeouts := make(map[string]time.Duration)
	name := func(mode, store string, lease time.Duration) {
		if mode == "none" || store == storeOwner {
			return
		}
		// A claim is renewed thrice in its lease, if each renewal is over by the next.
		timeout := min(recordTimeoutMax, lease/4)
		if shortest, known := timeouts[store]; known {
			timeout = min(timeout, shortest)
		}
		timeouts[store] = timeout
	}
	for _, r := range c.Routes {
		lease := time.Duration(r.Idempotency.ClaimLease)
		name(r.Idempotency.Mode, r.Idempotency.Store, lease)
		name(r.Sequence.Mode, r.Sequence.Store, lease) // claims of numbers whose answers are replayed
	}
	return timeouts
}

// newRecordStores are the stores that routes name, but the memory. Errors are as
// newCoordinator's.
func newRecordStores(config *Config) (map[string]recordStore, error) {
	stores := make(map[string]recordStore)
	for kind, timeout := range config.recordTimeouts() {
		store, err := config.Stores.open(kind, timeout)
		if err != nil {
			return nil, err
		}
		stores[kind] = store
	}
	return stores, nil
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
