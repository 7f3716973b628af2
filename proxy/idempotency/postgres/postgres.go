// Package postgres keeps what became of requests, and which numbers of their producers are
// done, in two tables of a PostgreSQL database, for all nodes. See the idempotency and
// sequence packages for what such stores promise; this is what they rest on here.
//
// A name is a row, and so is a producer of a lane, with its mark. Each step is one statement on it, judged by the server's clock. Rows
// whose time is over count for nothing, and are deleted by each node, now and then.
//
// It holds as long as the server loses nothing that it has committed. What a failover to
// a replica that lagged loses is forgotten, and may be executed again; synchronous_commit
// off loses, too. A clock that is set forward has leases and records end early. Only a
// server that can be written to is used, so the DSN may name several.
//
// Behind PgBouncer the DSN needs default_query_exec_mode=exec, and PgBouncer
// ignore_startup_parameters = statement_timeout, lock_timeout.
package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"lanekeeper/proxy/idempotency"
)

// Config says which database, and how it is used.
type Config struct {
	// DSN is a URL, or keywords and values, as PostgreSQL's own programs read them. It may
	// hold a password, which no error repeats.
	DSN string

	// Table is the records' table, with a schema and a dot before it or without; "": Table.
	// The marks' is called so too, with _marks behind it.
	Table string
	// CreateTable has Open create the tables if they are not there.
	CreateTable bool

	// MaxConnections bounds the connections of this node; 0: 8.
	MaxConnections int

	// Timeout bounds each call, with its repetitions; at least 10 ms. It should be less
	// than a third of the shortest lease.
	Timeout time.Duration

	// sweepEvery is how often expired rows are deleted; 0: each minute.
	sweepEvery time.Duration
}

// The meaning of zeros.
const (
	defaultConnections = 8
	defaultSweep       = time.Minute
)

// sweepMost bounds the rows of one deletion, so that nobody waits long for it.
const sweepMost = 500

func (c *Config) validate() error {
	switch {
	case c.Timeout < 10*time.Millisecond:
		return fmt.Errorf("a timeout of %v is too short: at least 10ms", c.Timeout)
	case c.MaxConnections < 0 || c.MaxConnections > 10_000:
		return fmt.Errorf("%d connections are too few, or too many", c.MaxConnections)
	}
	return checkTable(c.Table)
}

// Store keeps records and marks, through the same connections. It implements
// idempotency.Store and sequence.Store.
type Store struct {
	*idempotency.Remote
	server *server
}

// Open connects to the database and returns when it can be used. It refuses a database
// without the tables, with an error that says how to create it. ctx bounds Open alone.
func Open(ctx context.Context, config Config) (*Store, error) {
	config.Table = cmp.Or(config.Table, Table)
	config.MaxConnections = cmp.Or(config.MaxConnections, defaultConnections)
	config.sweepEvery = cmp.Or(config.sweepEvery, defaultSweep)
	if err := config.validate(); err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	pool, err := connect(ctx, &config)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	if err := prepare(ctx, pool, &config); err != nil {
		pool.Close()
		return nil, fmt.Errorf("postgres: %w", err)
	}
	s := &server{pool: pool, timeout: config.Timeout, statements: newStatements(config.Table)}
	s.life, s.kill = context.WithCancel(context.Background())
	s.wg.Go(func() { s.sweepAll(config.sweepEvery) }) // ends with life
	return &Store{idempotency.NewRemote(s, config.Timeout), s}, nil
}

func connect(ctx context.Context, config *Config) (*pgxpool.Pool, error) {
	options, err := pgxpool.ParseConfig(config.DSN)
	if err != nil {
		return nil, err
	}
	options.MaxConns, options.MinConns = int32(config.MaxConnections), 0
	connection := options.ConnConfig
	connection.ConnectTimeout, connection.DialFunc = config.Timeout, dial(config.Timeout)
	if connection.ValidateConnect == nil {
		connection.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	// A call that was given up does not go on there.
	for _, name := range []string{"statement_timeout", "lock_timeout"} {
		connection.RuntimeParams[name] = strconv.FormatInt(config.Timeout.Milliseconds(), 10)
	}
	connection.RuntimeParams["application_name"] = cmp.Or(connection.RuntimeParams["application_name"], "lanekeeper")
	return pgxpool.NewWithConfig(ctx, options)
}

// server implements idempotency.Server.
type server struct {
	pool       *pgxpool.Pool
	timeout    time.Duration
	statements statements
	life       context.Context
	kill       context.CancelFunc
	wg         sync.WaitGroup // sweepAll
}

// Claim implements idempotency.Server.
func (s *server) Claim(ctx context.Context, c idempotency.Claim, r *idempotency.Request) (known idempotency.Record, err error) {
	for {
		known, err = s.claim(ctx, c, r)
		if !errors.Is(err, pgx.ErrNoRows) {
			break
		}
		// Another one wrote the row while this statement, which doesn't see that, was
		// under way. The next one sees it.
	}
	if refusal := (*pgconn.PgError)(nil); errors.As(err, &refusal) && refusal.Code == diskFull {
		err = fmt.Errorf("%w: %w", idempotency.ErrFull, err)
	}
	return known, s.wrap(ctx, err)
}

const diskFull = "53100"

func (s *server) claim(ctx context.Context, c idempotency.Claim, r *idempotency.Request) (idempotency.Record, error) {
	var state int16
	var print []byte
	var left int64
	var known idempotency.Record
	reply := &known.Reply
	err := s.pool.QueryRow(ctx, s.statements.claim, c.ID[:], r.Print[:], c.Nonce[:], c.Lease.Microseconds(),
		max(r.TTL, c.Lease).Microseconds(), r.Again).
		Scan(&state, &print, &left, &reply.Status, &reply.Bare, &reply.Head, &reply.Body)
	if err != nil {
		return idempotency.Record{}, err
	}
	if len(print) != len(known.Print) {
		return idempotency.Record{}, fmt.Errorf("a print of %d bytes is none", len(print))
	}
	copy(known.Print[:], print)
	switch known.State = idempotency.State(state); known.State {
	case idempotency.Running:
		known.Until = max(time.Duration(left)*time.Microsecond, 1)
	case idempotency.New, idempotency.Done, idempotency.Unknown:
	default:
		return idempotency.Record{}, fmt.Errorf("a state of %d is none", state)
	}
	return known, nil
}

// Finish implements idempotency.Server.
func (s *server) Finish(ctx context.Context, c idempotency.Claim, reply idempotency.Reply) (idempotency.Answer, error) {
	tag, err := s.pool.Exec(ctx, s.statements.finish, c.ID[:], c.Nonce[:], reply.Status, reply.Bare, filled(reply.Head), filled(reply.Body))
	if err != nil {
		return idempotency.Lost, s.wrap(ctx, err)
	}
	if tag.RowsAffected() == 0 {
		return idempotency.Lost, nil
	}
	return idempotency.Kept, nil
}

// filled is never nil, which would be NULL.
func filled(bytes []byte) []byte {
	if bytes == nil {
		return []byte{}
	}
	return bytes
}

// Lose implements idempotency.Server.
func (s *server) Lose(ctx context.Context, claims []idempotency.Claim) ([]idempotency.Answer, error) {
	return s.each(ctx, s.statements.lose, claims, false)
}

// Forget implements idempotency.Server.
func (s *server) Forget(ctx context.Context, claims []idempotency.Claim) ([]idempotency.Answer, error) {
	return s.each(ctx, s.statements.forget, claims, false)
}

// Renew implements idempotency.Server.
func (s *server) Renew(ctx context.Context, claims []idempotency.Claim) ([]idempotency.Answer, error) {
	return s.each(ctx, s.statements.renew, claims, true)
}

// each runs a statement for all claims. It tells of those that it has changed, and of
// those whose record is there all the same.
func (s *server) each(ctx context.Context, statement string, claims []idempotency.Claim, lease bool) ([]idempotency.Answer, error) {
	ids, nonces, leases := make([][]byte, len(claims)), make([][]byte, len(claims)), make([]int64, len(claims))
	for i := range claims {
		ids[i], nonces[i], leases[i] = claims[i].ID[:], claims[i].Nonce[:], claims[i].Lease.Microseconds()
	}
	args := []any{ids, nonces}
	if lease {
		args = append(args, leases)
	}
	rows, err := s.pool.Query(ctx, statement, args...)
	if err != nil {
		return nil, s.wrap(ctx, err)
	}
	answers := make([]idempotency.Answer, len(claims))
	for i := range answers {
		answers[i] = idempotency.Absent
	}
	var number int64
	var kept bool
	_, err = pgx.ForEachRow(rows, []any{&number, &kept}, func() error {
		answers[number-1] = idempotency.Lost
		if kept {
			answers[number-1] = idempotency.Kept
		}
		return nil
	})
	return answers, s.wrap(ctx, err)
}

// wrap says whose error it is. Where it is the connection's, the others are as bad.
func (s *server) wrap(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if refusal := (*pgconn.PgError)(nil); ctx.Err() == nil && !errors.As(err, &refusal) {
		s.pool.Reset()
	}
	return fmt.Errorf("postgres: %w", err)
}

// sweepAll deletes what has expired, until Close.
func (s *server) sweepAll(every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-s.life.Done():
			return
		}
		for _, statement := range []string{s.statements.sweep, s.statements.sweepMarks} {
			for s.sweep(statement) == sweepMost { // there may be more
			}
		}
	}
}

// sweep deletes some of what has expired, and says how many.
func (s *server) sweep(statement string) int64 {
	ctx, cancel := context.WithTimeout(s.life, s.timeout)
	defer cancel()
	tag, err := s.pool.Exec(ctx, statement, sweepMost)
	if err != nil {
		return 0 // another time; those who need the tables will tell of it
	}
	return tag.RowsAffected()
}

// Close implements idempotency.Server.
func (s *server) Close() {
	s.kill()
	s.wg.Wait()
	s.pool.Close()
}
