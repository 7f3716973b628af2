package postgres

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"lanekeeper/lock/locktest"
	"lanekeeper/proxy/idempotency"
	"lanekeeper/proxy/idempotency/idempotencytest"
)

const testTimeout = time.Second

func dsn(address string) string {
	host, port, _ := net.SplitHostPort(address)
	return fmt.Sprintf("host=%s port=%s user=postgres dbname=postgres sslmode=disable", host, port)
}

func openStore(t testing.TB, config Config) *Store {
	t.Helper()
	store, err := tryOpen(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

func tryOpen(config Config) (*Store, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return Open(ctx, config)
}

// TestPostgres is all that needs a server, which takes a while to make.
//
// Mutants: the statement doesn't look before it inserts; a conflict takes no row; what
// has expired counts, or conflicts; Again takes whatever print; is ignored; takes what
// another has just taken; a lease doesn't end; a claim expires with its TTL. Finish,
// Lose, Forget and Renew don't compare the nonce; Finish, Lose and Forget don't succeed
// twice; they do after another one. All rows are swept; none; one batch at a time.
// Names aren't checked; the creation takes no lock, or isn't asked for; the table isn't
// looked at; a standby will do. Deadlines are the client's; cut connections are kept.
func TestPostgres(t *testing.T) {
	server := locktest.Postgres(t)
	asks, err := pgx.Connect(t.Context(), dsn(server.Address))
	if err != nil {
		t.Fatal(err)
	}
	t.Run("Creates", func(t *testing.T) { creates(t, server.Address, asks) })
	t.Run("Refuses", func(t *testing.T) { refuses(t, server.Address, asks) })
	t.Run("Sweeps", func(t *testing.T) { sweeps(t, server.Address, asks) })
	t.Run("ReadsWithoutWriting", func(t *testing.T) { readsWithoutWriting(t, server.Address, asks) })
	asks.Close(t.Context()) //nolint:errcheck // it is not needed any more
	t.Run("Marks", func(t *testing.T) { marks(t, server) })
	idempotencytest.Run(t, &idempotencytest.Place{
		Lease: time.Second, Timeout: testTimeout,
		Server: &idempotencytest.Server{Kill: server.Kill, Start: server.Start, Freeze: server.Freeze, Thaw: server.Thaw},
		Open: func(t testing.TB) *idempotencytest.Node {
			relay := locktest.NewRelay(t, server.Address)
			store := openStore(t, Config{DSN: dsn(relay.Address()), CreateTable: true, Timeout: testTimeout})
			return &idempotencytest.Node{
				Store: store, Cut: relay.Stall, Mend: func() { relay.Cut(); relay.Heal() }, LoseReply: func() { relay.CutAt(1) },
			}
		},
	})
}

func exec(t *testing.T, asks *pgx.Conn, statement string) {
	t.Helper()
	if _, err := asks.Exec(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func number(t *testing.T, asks *pgx.Conn, question string) (n int) {
	t.Helper()
	if err := asks.QueryRow(t.Context(), question).Scan(&n); err != nil {
		t.Fatalf("%s: %v", question, err)
	}
	return n
}

// creates has many nodes create one table at once; and the printed migration does what
// they do, once and again.
func creates(t *testing.T, address string, asks *pgx.Conn) {
	exec(t, asks, `CREATE SCHEMA "Other"`)
	for _, table := range []string{"made", "Made", "Other.made", strings.Repeat("m", 54)} {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				store, err := tryOpen(Config{DSN: dsn(address), Table: table, CreateTable: true, MaxConnections: 1, Timeout: 5 * time.Second})
				if err != nil {
					t.Error(err)
					return
				}
				store.Close()
			})
		}
		wg.Wait()
		for _, table := range []string{table, table + marksSuffix} {
			if n := number(t, asks, "SELECT count(*) FROM pg_index WHERE indrelid = to_regclass('"+quoted(table)+"')"); n != 2 {
				t.Errorf("%s has %d indexes", table, n)
			}
		}
	}
	exec(t, asks, Migration("by_hand"))
	exec(t, asks, Migration("by_hand"))
	openStore(t, Config{DSN: dsn(address), Table: "by_hand", Timeout: 5 * time.Second})
}

// refuses says what is wrong, and what to do.
func refuses(t *testing.T, address string, asks *pgx.Conn) {
	exec(t, asks, "CREATE TABLE wrong (id bytea PRIMARY KEY)")
	exec(t, asks, Migration("half")+"DROP TABLE half_marks")
	exec(t, asks, "CREATE ROLE nobody LOGIN")
	exec(t, asks, "CREATE ROLE secret LOGIN PASSWORD 'right'")
	exec(t, asks, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
	nobody := strings.Replace(dsn(address), "user=postgres", "user=nobody", 1)
	for _, test := range []struct {
		name   string
		config Config
		want   []string
	}{
		{"no table", Config{DSN: dsn(address), Table: "none"}, []string{"there is no table none", Migration("none")}},
		{"no table of marks", Config{DSN: dsn(address), Table: "half"}, []string{"there is no table half_marks", Migration("half")}},
		{"another table", Config{DSN: dsn(address), Table: "wrong", CreateTable: true}, []string{"wrong is not as it should be", Migration("wrong")}},
		{"no right to create", Config{DSN: nobody, Table: "none", CreateTable: true}, []string{"permission denied", Migration("none")}},
		{"a name with a quote", Config{DSN: dsn(address), Table: `a"b`}, []string{"the table's name"}},
		{"a statement", Config{DSN: dsn(address), Table: "a; DROP TABLE b"}, []string{"the table's name"}},
		{"three parts", Config{DSN: dsn(address), Table: "a.b.c"}, []string{"the table's name"}},
		{"a long name", Config{DSN: dsn(address), Table: strings.Repeat("a", 55)}, []string{"the table's name"}},
		{"no server", Config{DSN: dsn("127.0.0.1:1")}, []string{"postgres: ", "connect"}},
		{"a server that only reads", Config{DSN: dsn(address) + " options='-c default_transaction_read_only=on'"}, []string{"read only"}},
		{"no DSN", Config{DSN: "password=geheim port=x"}, []string{"postgres: "}},
		{"no time", Config{DSN: dsn(address), Timeout: time.Millisecond}, []string{"at least 10ms"}},
	} {
		if test.config.Timeout == 0 {
			test.config.Timeout = 5 * time.Second
		}
		store, err := tryOpen(test.config)
		if err == nil {
			store.Close()
			t.Errorf("%s: it opens", test.name)
			continue
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %q", test.name, err, want)
			}
		}
		if strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: the password is told: %v", test.name, err)
		}
	}
}

// sweeps: rows are deleted when they have expired, and no others; in batches, but as many
// as there are.
func sweeps(t *testing.T, address string, asks *pgx.Conn) {
	exec(t, asks, Migration("swept"))
	exec(t, asks, fmt.Sprintf(`INSERT INTO swept (id, print, state, nonce, leased, expires)
		SELECT int4send(i), '', 2, '', now(), now() - interval '1 second' FROM generate_series(1, %d) AS i`, 10*sweepMost+1))
	exec(t, asks, fmt.Sprintf(`INSERT INTO swept_marks (id, epoch, done, expires)
		SELECT int4send(i), 0, 1, now() - interval '1 second' FROM generate_series(1, %d) AS i`, sweepMost+1))
	exec(t, asks, "INSERT INTO swept_marks (id, epoch, done, expires) VALUES ('stays', 0, 1, now() + interval '1 hour')")
	exec(t, asks, "INSERT INTO swept (id, print, state, nonce, leased, expires) VALUES ('stays', '', 2, '', now(), now() + interval '1 hour')")
	openStore(t, Config{DSN: dsn(address), Table: "swept", Timeout: 5 * time.Second, sweepEvery: time.Second})
	for _, table := range []string{"swept", "swept_marks"} {
		for end := time.Now().Add(7 * time.Second); number(t, asks, "SELECT count(*) FROM "+table) > 1; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d rows of %s are left", number(t, asks, "SELECT count(*) FROM "+table), table)
			}
		}
		if number(t, asks, "SELECT count(*) FROM "+table+" WHERE id = 'stays'") != 1 {
			t.Errorf("what has not expired is gone from %s", table)
		}
	}
}

// readsWithoutWriting: what is known is asked for often, and costs no write and no lock.
func readsWithoutWriting(t *testing.T, address string, asks *pgx.Conn) {
	store := openStore(t, Config{DSN: dsn(address), Table: "reads", CreateTable: true, Timeout: 5 * time.Second})
	r := &idempotency.Request{Lease: time.Minute, TTL: time.Hour}
	run, _, err := store.Begin(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	locked, err := asks.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer locked.Rollback(context.Background()) //nolint:errcheck // it may have ended
	if _, err := locked.Exec(t.Context(), "SELECT FROM reads FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	if _, known, err := store.Begin(t.Context(), r); err != nil || known.State != idempotency.Running {
		t.Errorf("state %d, %v", known.State, err)
	}
	if err := locked.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := run.Finish(t.Context(), idempotency.Reply{Status: 200}); err != nil {
		t.Fatal(err)
	}
}

// TestMigrationIsPrinted holds it against what a person would read.
func TestMigrationIsPrinted(t *testing.T) {
	for table, want := range map[string][]string{
		Table: {`CREATE TABLE IF NOT EXISTS "lanekeeper_records" (`, `CREATE INDEX IF NOT EXISTS "lanekeeper_records_expires" ON "lanekeeper_records" (expires);`,
			`CREATE TABLE IF NOT EXISTS "lanekeeper_records_marks" (`, `CREATE INDEX IF NOT EXISTS "lanekeeper_records_mark_end" ON "lanekeeper_records_marks" (expires);`},
		"s.Big": {`CREATE TABLE IF NOT EXISTS "s"."Big" (`, `CREATE INDEX IF NOT EXISTS "Big_expires" ON "s"."Big" (expires);`,
			`CREATE TABLE IF NOT EXISTS "s"."Big_marks" (`, `CREATE INDEX IF NOT EXISTS "Big_mark_end" ON "s"."Big_marks" (expires);`},
	} {
		for _, line := range want {
			if text := Migration(table); !strings.Contains(text, line) {
				t.Errorf("%s is not in\n%s", line, text)
			}
		}
	}
}

func BenchmarkPostgres(b *testing.B) {
	if testing.Short() || os.Getenv("CI") == "true" {
		b.Skip("it makes a server")
	}
	idempotencytest.Bench(b, openStore(b, Config{DSN: dsn(locktest.Postgres(b).Address), CreateTable: true, Timeout: 5 * time.Second}))
}
