package main

import (
	"context"
	"os"
	"strings"
	"time"

	"lanekeeper/proxy/idempotency"
	"lanekeeper/proxy/idempotency/postgres"
	"lanekeeper/proxy/idempotency/redis"
)

// recordTimeoutMax bounds a question to a store of records, which a request waits for in
// its turn.
const recordTimeoutMax = 2 * time.Second

// newRecordStores are the stores of records that routes name, but the memory. Errors are
// as newCoordinator's.
func newRecordStores(config *Config) (map[string]idempotency.Store, error) {
	leases := make(map[string]time.Duration) // the shortest of each store
	for _, r := range config.Routes {
		if i := r.Idempotency; i.Mode != "none" && i.Store != storeOwner {
			lease := time.Duration(i.ClaimLease)
			if shortest, known := leases[i.Store]; known {
				lease = min(lease, shortest)
			}
			leases[i.Store] = lease
		}
	}
	stores := make(map[string]idempotency.Store)
	for kind, lease := range leases {
		// A claim is renewed thrice in its lease, if each renewal is over by the next.
		store, err := config.Stores.open(kind, min(recordTimeoutMax, lease/4))
		if err != nil {
			return nil, err
		}
		stores[kind] = store
	}
	return stores, nil
}

func (s *StoresConfig) open(kind string, timeout time.Duration) (idempotency.Store, error) {
	var open func(context.Context) (*idempotency.Remote, error)
	var err error
	switch kind {
	case "redis":
		open, err = s.Redis.opener(timeout)
	case "postgres":
		open, err = s.Postgres.opener(timeout)
	default:
		panic("records: unknown store " + kind)
	}
	if err != nil {
		return nil, err
	}
	l := new(lateRecords)
	l.timeout, l.open = recordTimeoutMax, func(ctx context.Context) (idempotency.Store, error) {
		store, err := open(ctx)
		if err != nil {
			return nil, settingError{"stores." + kind, err}
		}
		return store, nil
	}
	return l, nil
}

func (c RecordRedisConfig) opener(timeout time.Duration) (func(context.Context) (*idempotency.Remote, error), error) {
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
	return func(ctx context.Context) (*idempotency.Remote, error) { return redis.Open(ctx, config) }, nil
}

func (c RecordPostgresConfig) opener(timeout time.Duration) (func(context.Context) (*idempotency.Remote, error), error) {
	dsn, err := os.ReadFile(c.DSNFile)
	if err != nil {
		return nil, settingError{"stores.postgres.dsn_file", err}
	}
	config := postgres.Config{
		DSN: strings.TrimSpace(string(dsn)), Table: c.Table, CreateTable: c.CreateTable, MaxConnections: c.MaxConnections, Timeout: timeout,
	}
	return func(ctx context.Context) (*idempotency.Remote, error) { return postgres.Open(ctx, config) }, nil
}

// lateRecords is a store of records that need not be there when the node starts. Until it
// is, it is away.
type lateRecords struct {
	late[idempotency.Store]
}

// Begin implements idempotency.Store.
func (l *lateRecords) Begin(ctx context.Context, r *idempotency.Request) (idempotency.Run, idempotency.Record, error) {
	store, err := l.get(ctx)
	if err != nil {
		return nil, idempotency.Record{}, err
	}
	return store.Begin(ctx, r)
}

// Close implements idempotency.Store.
func (l *lateRecords) Close() error {
	if store := l.close(); store != nil {
		return store.Close()
	}
	return nil
}
