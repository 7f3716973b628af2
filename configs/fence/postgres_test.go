//go:build linux

package fence_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	_ "github.com/jackc/pgx/v5/stdlib" // registers itself as pgx
	"go.uber.org/goleak"

	"lanekeeper/configs/fence"
	"lanekeeper/lock/locktest"
)

const (
	startTime = 30 * time.Second // for a server to answer
	stopTime  = 10 * time.Second // then it is killed
	waitTime  = 20 * time.Second // for what happens at once
)

// TestMain stops the one server that the tests share, which the first to need it
// starts, and then looks for what goes on after it.
func TestMain(m *testing.M) {
	code := m.Run()
	if err := stopPostgres(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// postgres is the server of these tests: its own files in a directory of its own, and
// no port, only a socket there, so that it cannot be mistaken for another.
var postgres struct {
	dir string
	cmd *exec.Cmd
}

var startPostgres = sync.OnceValue(func() error {
	dir, err := os.MkdirTemp("", "fence")
	if err != nil {
		return err
	}
	postgres.dir = dir
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	bin, attr, err := locktest.InitPostgres(ctx, dir)
	if err != nil {
		return err
	}
	attr.Pdeathsig = syscall.SIGQUIT // it goes with the test, however that ends
	logFile, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return err
	}
	defer logFile.Close()
	cmd := exec.Command(filepath.Join(bin, "postgres"), "-D", filepath.Join(dir, "data"), "-k", dir, "-c", "listen_addresses=",
		"-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "autovacuum=off", "-c", "max_connections=50")
	cmd.Dir, cmd.SysProcAttr, cmd.Stdout, cmd.Stderr = dir, attr, logFile, logFile
	if err := cmd.Start(); err != nil {
		return err
	}
	postgres.cmd = cmd
	db, err := sql.Open("pgx", dsn("public"))
	if err != nil {
		return err
	}
	defer db.Close()
	for err = db.PingContext(ctx); err != nil; err = db.PingContext(ctx) {
		if ctx.Err() != nil {
			said, _ := os.ReadFile(logFile.Name())
			return fmt.Errorf("postgres does not answer: %w\n%s", err, said)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil
})

func dsn(schema string) string {
	return fmt.Sprintf("host=%s user=postgres dbname=postgres sslmode=disable lock_timeout=%d search_path=%s",
		postgres.dir, waitTime.Milliseconds(), schema)
}

func stopPostgres() error {
	if postgres.dir == "" {
		return nil
	}
	defer os.RemoveAll(postgres.dir)
	if postgres.cmd == nil {
		return nil
	}
	late := time.AfterFunc(stopTime, func() { postgres.cmd.Process.Kill() }) //nolint:errcheck // it may have ended
	defer late.Stop()
	if err := postgres.cmd.Process.Signal(syscall.SIGINT); err != nil { // a fast shutdown: nobody is waited for
		return err
	}
	if err := postgres.cmd.Wait(); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	return nil
}

var schemas atomic.Int32

// open is a database of the test's own: a schema in the server that they share, with
// the table orders, and fences or what else of fence.sql is named.
func open(t *testing.T, tables ...string) *sql.DB {
	t.Helper()
	if err := startPostgres(); errors.Is(err, locktest.ErrNoPostgres) && os.Getenv("CI") != "true" {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	schema := fmt.Sprint("test", schemas.Add(1))
	db, err := sql.Open("pgx", dsn(schema))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	db.SetMaxOpenConns(10)
	exec1(t, db, "CREATE SCHEMA "+schema)
	exec1(t, db, "CREATE TABLE orders (id bigint PRIMARY KEY, status text NOT NULL)")
	for _, section := range tables {
		exec1(t, db, sections(t)[section])
	}
	return db
}

type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// exec1 returns how many rows the statement counts.
func exec1(t *testing.T, db execer, statement string, args ...any) int64 {
	t.Helper()
	result, err := db.ExecContext(t.Context(), statement, args...)
	if err != nil {
		t.Fatalf("%s %v: %v", statement, args, err)
	}
	n, err := result.RowsAffected()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// value is the one value that query finds, "" if there is none.
func value(t *testing.T, db *sql.DB, query string, args ...any) (found string) {
	t.Helper()
	if err := db.QueryRowContext(t.Context(), query, args...).Scan(&found); err != nil && !errors.Is(err, sql.ErrNoRows) {
		t.Fatal(err)
	}
	return found
}

func begin(t *testing.T, db *sql.DB) *sql.Tx {
	t.Helper()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tx.Rollback() }) //nolint:errcheck // it may have ended
	return tx
}

func commit(t *testing.T, tx *sql.Tx) {
	t.Helper()
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
}

// TestFenceTable: the table of fence.sql, with its statement as it stands there.
//
// Mutants: its condition is <; is left out; compares double precision; the column is
// double precision; is text; the fence is deleted with the order; the conflict does
// nothing.
func TestFenceTable(t *testing.T) {
	db := open(t, "fences: once")
	guarded := func(t *testing.T, id, fence string, statement string, args ...any) bool {
		t.Helper()
		tx := begin(t, db)
		if exec1(t, tx, sections(t)[guardSection], "order:"+id, fence) == 0 {
			if err := tx.Rollback(); err != nil {
				t.Fatal(err)
			}
			return false
		}
		exec1(t, tx, statement, args...)
		commit(t, tx)
		return true
	}
	checkStore(t, &store{
		put: func(t *testing.T, id, fence, value string) bool {
			return guarded(t, id, fence, putOrder, id, value)
		},
		remove: func(t *testing.T, id, fence string) bool {
			return guarded(t, id, fence, "DELETE FROM orders WHERE id = $1", id)
		},
		get: func(t *testing.T, id string) string {
			return value(t, db, "SELECT status FROM orders WHERE id = $1", id)
		},
	})
}

// TestFenceColumn: the statements of fence.sql for a column, as they stand there.
//
// Mutants, of each of them: its condition is <; is left out; compares double
// precision; it does not write the fence. The column is double precision; the deletion
// is a DELETE; it does not mark; the insertion does not take back the mark; the update
// takes what is marked.
func TestFenceColumn(t *testing.T) {
	db := open(t, "column: once")
	statements := sections(t)
	get := func(t *testing.T, id string) string {
		return value(t, db, "SELECT status FROM orders WHERE id = $1 AND NOT deleted", id)
	}
	remove := func(t *testing.T, id, fence string) bool {
		return exec1(t, db, statements["column: delete, even what is not there yet"], fence, id) == 1
	}
	put := func(t *testing.T, id, fence, status string) bool {
		return exec1(t, db, statements["column: insert or update"], fence, id, status) == 1
	}
	checkStore(t, &store{put: put, remove: remove, get: get})

	for _, pair := range pairs {
		id, low, high := pair[0], pair[0], pair[1]
		update := func(fence, status string, want int64, stored string) {
			t.Helper()
			if n := exec1(t, db, statements["column: update"], fence, id, status); n != want {
				t.Errorf("fences %s, %s: the update to %s counts %d rows", low, high, status, n)
			}
			if have := get(t, id); have != stored {
				t.Errorf("fences %s, %s: after the update to %s there is %q", low, high, status, have)
			}
		}
		exec1(t, db, "DELETE FROM orders")
		update(low, "a", 0, "")
		exec1(t, db, putOrder, id, "older than fences")
		update(low, "a", 1, "a")
		update(high, "b", 1, "b")
		update(high, "c", 1, "c")
		update(low, "d", 0, "c")
		if !remove(t, id, high) {
			t.Errorf("fences %s, %s: the deletion is refused", low, high)
		}
		update(low, "e", 0, "")
		update(high, "f", 0, "")
	}
}

// TestHandler: the service of README.md, by HTTP. What is refused is answered 409, and
// what fails has written nothing, and its fence does not count.
//
// Mutants: Guard's condition is <; is left out; it rounds the fence to a double; it
// ignores how many rows it counts. Transact does not check; checks after work; does not
// commit; commits what failed.
func TestHandler(t *testing.T) {
	db := open(t, "fences: once")
	mux := http.NewServeMux()
	mux.Handle("/orders/{id}", serveOrder(db))
	server := httptest.NewServer(mux)
	defer server.Close()
	ask := func(t *testing.T, method, id, fenceValue, status string) int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, server.URL+"/orders/"+id+"?"+url.Values{"status": {status}}.Encode(), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set(fence.KeyHeader, "order:"+id)
		r.Header.Set(fence.Header, fenceValue)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		return answer.StatusCode
	}
	accepted := func(t *testing.T, status int) bool {
		t.Helper()
		if status != http.StatusOK && status != http.StatusConflict {
			t.Fatalf("status %d", status)
		}
		return status == http.StatusOK
	}
	get := func(t *testing.T, id string) string {
		return value(t, db, "SELECT status FROM orders WHERE id = $1", id)
	}
	checkStore(t, &store{
		put:    func(t *testing.T, id, fence, value string) bool { return accepted(t, ask(t, "PUT", id, fence, value)) },
		remove: func(t *testing.T, id, fence string) bool { return accepted(t, ask(t, "DELETE", id, fence, "")) },
		get:    get,
	})

	exec1(t, db, "ALTER TABLE orders ADD CHECK (status <> 'bad')")
	for _, step := range []struct {
		fence, value string
		status       int
	}{{"5", "good", 200}, {"9", "bad", 500}, {"7", "better", 200}, {"6", "bad", 409}} {
		if status := ask(t, "PUT", "1", step.fence, step.value); status != step.status {
			t.Errorf("PUT %s with fence %s: %d, want %d", step.value, step.fence, status, step.status)
		}
	}
	if have := get(t, "1"); have != "better" {
		t.Errorf("%q is stored", have)
	}

	// What work wrote before it failed is undone.
	failed := errors.New("failed")
	r := httptest.NewRequest("PUT", "/orders/1", nil)
	r.Header.Set(fence.KeyHeader, "order:1")
	r.Header.Set(fence.Header, "10")
	fence.Require(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		err := fence.Transact(r.Context(), db, func(tx *sql.Tx) error {
			exec1(t, tx, putOrder, 1, "half")
			return failed
		})
		if !errors.Is(err, failed) {
			t.Errorf("got %v, want %v", err, failed)
		}
	})).ServeHTTP(httptest.NewRecorder(), r)
	if have := get(t, "1"); have != "better" {
		t.Errorf("%q is stored after a failure", have)
	}
}

// writers are the ways to write an order in a transaction, and what they need.
var writers = []struct {
	name, table string
	write       func(ctx context.Context, t *testing.T, tx *sql.Tx, fenceValue int64, status string) error
}{
	{"table", "fences: once", func(ctx context.Context, _ *testing.T, tx *sql.Tx, fenceValue int64, status string) error {
		if err := fence.Guard(ctx, tx, "order:7", fenceValue); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, putOrder, 7, status)
		return err
	}},
	{"column", "column: once", func(ctx context.Context, t *testing.T, tx *sql.Tx, fenceValue int64, status string) error {
		result, err := tx.ExecContext(ctx, sections(t)["column: insert or update"], fenceValue, 7, status)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); n == 1 || err != nil {
			return err
		}
		return fence.ErrStale
	}},
}

const older, newer = 3856315959572692992, 3856315959572692993

// TestConcurrentWritersWaitForEachOther has two transactions of a key overlap: the
// second waits for the first, and decides by what that left behind, be the row new or
// not.
//
// Mutants: Guard reads the fence, compares it itself, and then writes it; it inserts
// with ON CONFLICT DO NOTHING and then updates without its condition; its condition is
// left out; >=.
func TestConcurrentWritersWaitForEachOther(t *testing.T) {
	for _, writer := range writers {
		for _, exists := range []bool{false, true} {
			for _, test := range []struct {
				name          string
				first, second int64
				commit        bool
				want          error
				stored        string
			}{
				{"the older comes second", newer, older, true, fence.ErrStale, "first"},
				{"the newer comes second", older, newer, true, nil, "second"},
				{"the newer is rolled back", newer, older, false, nil, "second"},
				{"the same comes twice", newer, newer, true, nil, "second"},
			} {
				t.Run(fmt.Sprintf("%s, exists=%v, %s", writer.name, exists, test.name), func(t *testing.T) {
					db := open(t, writer.table)
					if exists {
						tx := begin(t, db)
						if err := writer.write(t.Context(), t, tx, 1, "before"); err != nil {
							t.Fatal(err)
						}
						commit(t, tx)
					}
					first, second := begin(t, db), begin(t, db)
					pid := backend(t, second)
					if err := writer.write(t.Context(), t, first, test.first, "first"); err != nil {
						t.Fatal(err)
					}
					answer := make(chan error, 1)
					go func() { answer <- writer.write(t.Context(), t, second, test.second, "second") }() // ends with the first transaction
					awaitLock(t, db, pid)
					if test.commit {
						commit(t, first)
					} else if err := first.Rollback(); err != nil {
						t.Fatal(err)
					}
					err := <-answer
					if !errors.Is(err, test.want) {
						t.Fatalf("got %v, want %v", err, test.want)
					}
					if err == nil {
						commit(t, second)
					}
					if have := value(t, db, "SELECT status FROM orders"); have != test.stored {
						t.Errorf("%q is stored, not %q", have, test.stored)
					}
				})
			}
		}
	}
}

func backend(t *testing.T, tx *sql.Tx) (pid int) {
	t.Helper()
	if err := tx.QueryRowContext(t.Context(), "SELECT pg_backend_pid()").Scan(&pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

// awaitLock returns when the server's process pid waits for a lock.
func awaitLock(t *testing.T, db *sql.DB, pid int) {
	t.Helper()
	for end := time.Now().Add(waitTime); ; time.Sleep(time.Millisecond) {
		if value(t, db, "SELECT coalesce(wait_event_type, '') FROM pg_stat_activity WHERE pid = $1", pid) == "Lock" {
			return
		}
		if time.Now().After(end) {
			t.Fatal("it does not wait")
		}
	}
}

// TestNoLowerFenceAfterAHigherOne: many writers of one key, whose fences come in any
// order. Those accepted were accepted in the order of their fences, the highest last.
//
// Mutants: Guard reads the fence, compares it itself, and then writes it; its condition
// is left out; it accepts no fence but the first.
func TestNoLowerFenceAfterAHigherOne(t *testing.T) {
	const count, workers, base = 400, 8, older
	for _, writer := range writers {
		t.Run(writer.name, func(t *testing.T) {
			db := open(t, writer.table)
			exec1(t, db, "CREATE TABLE log (n bigserial, fence bigint NOT NULL)")
			seed := rand.Uint64()
			order := rand.New(rand.NewPCG(seed, 0)).Perm(count)
			var next, refused atomic.Int64
			one := func() (more bool) {
				n := next.Add(1) - 1
				if n >= count || t.Failed() {
					return false
				}
				// Each worker's fences rise for the most part, as they do behind lanekeeper;
				// if every order were as likely, few would be accepted.
				fenceValue := base + n + int64(order[n]%40)*2
				tx, err := db.BeginTx(t.Context(), nil)
				if err != nil {
					t.Error(err)
					return false
				}
				defer tx.Rollback() //nolint:errcheck // it may have ended
				err = writer.write(t.Context(), t, tx, fenceValue, fmt.Sprint(fenceValue))
				if errors.Is(err, fence.ErrStale) {
					refused.Add(1)
					return true
				}
				if err == nil {
					_, err = tx.ExecContext(t.Context(), "INSERT INTO log (fence) VALUES ($1)", fenceValue)
				}
				if err == nil {
					err = tx.Commit()
				}
				if err != nil {
					t.Error(err)
				}
				return true
			}
			var wg sync.WaitGroup
			for range workers {
				wg.Go(func() { // ends with the fences
					for one() {
					}
				})
			}
			wg.Wait()

			rows, err := db.QueryContext(t.Context(), "SELECT fence FROM log ORDER BY n")
			if err != nil {
				t.Fatal(err)
			}
			defer rows.Close()
			var accepted []int64
			for rows.Next() {
				var fenceValue int64
				if err := rows.Scan(&fenceValue); err != nil {
					t.Fatal(err)
				}
				accepted = append(accepted, fenceValue)
			}
			if err := rows.Err(); err != nil {
				t.Fatal(err)
			}
			if !slices.IsSorted(accepted) {
				t.Errorf("seed %d: accepted in the order %d", seed, accepted)
			}
			if int64(len(accepted))+refused.Load() != count || len(accepted) < 10 || refused.Load() < 10 {
				t.Errorf("seed %d: %d accepted, %d refused of %d", seed, len(accepted), refused.Load(), count)
			}
			highest := int64(0)
			for n, p := range order {
				highest = max(highest, base+int64(n)+int64(p%40)*2)
			}
			if have := value(t, db, "SELECT status FROM orders"); have != fmt.Sprint(highest) {
				t.Errorf("seed %d: %s is stored, the highest fence was %d", seed, have, highest)
			}
		})
	}
}

// TestFrozenWriter: a process that stands still in its transaction holds up its key
// until the server ends that, which README.md tells to have it do; it then cannot write
// what it had wanted to.
//
// Mutants: the server is not told to; Guard runs outside of the transaction.
func TestFrozenWriter(t *testing.T) {
	db := open(t, "fences: once")
	frozen := begin(t, db)
	exec1(t, frozen, "SET LOCAL idle_in_transaction_session_timeout = '200ms'")
	if err := fence.Guard(t.Context(), frozen, "order:7", older); err != nil {
		t.Fatal(err)
	}
	next := begin(t, db)
	ctx, cancel := context.WithTimeout(t.Context(), waitTime)
	defer cancel()
	if err := fence.Guard(ctx, next, "order:7", newer); err != nil {
		t.Fatal(err)
	}
	exec1(t, next, putOrder, 7, "newer")
	commit(t, next)
	if _, err := frozen.ExecContext(t.Context(), putOrder, 7, "older"); err == nil {
		t.Error("the frozen transaction goes on")
	}
	if err := frozen.Commit(); err == nil {
		t.Error("the frozen transaction commits")
	}
	if have := value(t, db, "SELECT status FROM orders"); have != "newer" {
		t.Errorf("%q is stored", have)
	}
}

// TestRepeatableRead: above the isolation that is PostgreSQL's default, who had to wait
// fails with 40001, and is accepted, or refused, when the transaction is run again.
//
// Mutants: the condition of the guard is <; is left out.
func TestRepeatableRead(t *testing.T) {
	for _, level := range []sql.IsolationLevel{sql.LevelRepeatableRead, sql.LevelSerializable} {
		for _, test := range []struct {
			first, second int64
			again         error
		}{{older, newer, nil}, {newer, older, fence.ErrStale}} {
			db := open(t, "fences: once")
			run := func(fenceValue int64, between func(pid int)) error {
				tx, err := db.BeginTx(t.Context(), &sql.TxOptions{Isolation: level})
				if err != nil {
					t.Error(err)
					return err
				}
				defer tx.Rollback() //nolint:errcheck // it may have ended
				if between != nil {
					between(backend(t, tx)) // which is what fixes what the transaction sees
				}
				if err := fence.Guard(t.Context(), tx, "order:7", fenceValue); err != nil {
					return err
				}
				return tx.Commit()
			}
			if err := run(1, nil); err != nil {
				t.Fatal(err)
			}
			err := run(test.second, func(int) {
				if err := run(test.first, nil); err != nil {
					t.Fatal(err)
				}
			})
			var failure *pgconn.PgError
			if !errors.As(err, &failure) || failure.Code != "40001" {
				t.Errorf("%v, %d after %d: %v, want 40001", level, test.second, test.first, err)
			}
			if err := run(test.second, nil); !errors.Is(err, test.again) {
				t.Errorf("%v, %d after %d, again: %v, want %v", level, test.second, test.first, err, test.again)
			}
			if err := run(newer, nil); err != nil {
				t.Errorf("%v, the newest again: %v", level, err)
			}
		}
	}
}
