package redis

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"lanekeeper/lock/locktest"
	"lanekeeper/proxy/idempotency"
	"lanekeeper/proxy/idempotency/idempotencytest"
)

const testTimeout = time.Second

func openStore(t testing.TB, config Config) *Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	store, err := Open(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

// TestRedis: the suite, on a real server.
//
// Mutants: Again takes whatever print, or is ignored; a claim isn't looked at; is not
// known by its nonce when it comes again; a lease doesn't end; is free when it has;
// nothing expires; a claim expires with its lease; with its TTL; renewal doesn't
// prolong the record. Finish, Lose, Forget and Renew don't compare the nonce; Finish
// and Lose don't succeed twice; nor Forget; they do after another one; Renew does
// nothing. A Run asks after Close; all claims have one nonce.
func TestRedis(t *testing.T) {
	server := locktest.Redis(t)
	idempotencytest.Run(t, &idempotencytest.Place{
		Lease: time.Second, Timeout: testTimeout,
		Server: &idempotencytest.Server{Kill: server.Kill, Start: server.Start, Freeze: server.Freeze, Thaw: server.Thaw},
		Open: func(t testing.TB) *idempotencytest.Node {
			relay := locktest.NewRelay(t, server.Address)
			store := openStore(t, Config{Address: relay.Address(), Prefix: "{test}:", Timeout: testTimeout})
			return &idempotencytest.Node{
				Store: store, Cut: relay.Stall, Mend: func() { relay.Cut(); relay.Heal() }, LoseReply: func() { relay.CutAt(1) },
			}
		},
	})
}

// TestOpenRefuses: servers that would forget, that are none, or that don't answer.
//
// Mutants: a replica will do; so will eviction.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	master := locktest.Redis(t, "--requirepass", "right").Address
	host, port, _ := strings.Cut(master, ":")
	deaf := locktest.NewRelay(t, master)
	deaf.Stall()
	for _, test := range []struct {
		want   string
		config Config
	}{
		{"noeviction", Config{Address: locktest.Redis(t, "--maxmemory", "100mb", "--maxmemory-policy", "volatile-ttl").Address}},
		{"records need the master", Config{Address: locktest.Redis(t, "--replicaof", host+" "+port).Address}},
		{"user name and password", Config{Address: master, Password: "wrong"}},
		{"user name and password", Config{Address: master}},
		{"connection refused", Config{Address: "127.0.0.1:1"}},
		{"redis", Config{Address: deaf.Address(), Password: "right"}},
		{"at least 10ms", Config{Address: master, Password: "right", Timeout: time.Millisecond}},
	} {
		if test.config.Timeout == 0 {
			test.config.Timeout = testTimeout
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		begun := time.Now()
		store, err := Open(ctx, test.config)
		cancel()
		if err == nil {
			store.Close()
			t.Errorf("%q is expected, and it opens", test.want)
		} else if !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), test.config.Address) {
			t.Errorf("got %v, want %q", err, test.want)
		}
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("%q took %v", test.want, took)
		}
	}
	openStore(t, Config{Address: master, Password: "right", Timeout: testTimeout})
}

// TestFull: a server that has no room is full for new names. What it knows it knows, and
// what has begun is renewed, and ends.
//
// Mutants: what has begun finds no room; a lack of memory is like any error.
func TestFull(t *testing.T) {
	t.Parallel()
	const lease = 300 * time.Millisecond
	server := locktest.Redis(t)
	store := openStore(t, Config{Address: server.Address, Timeout: testTimeout})
	var requests []*idempotency.Request
	var runs []idempotency.Run
	begin := func(r *idempotency.Request, want idempotency.State) {
		t.Helper()
		run, known, err := store.Begin(t.Context(), r)
		if err != nil || known.State != want {
			t.Fatalf("state %d, %v, want %d", known.State, err, want)
		}
		runs = append(runs, run)
	}
	for i := range 4 {
		requests = append(requests, &idempotency.Request{ID: idempotency.ID{byte(i)}, Lease: lease, TTL: time.Hour, MaxEntry: 1000})
	}
	for _, r := range requests[:3] {
		begin(r, idempotency.New)
	}
	client := ask(t, server)
	if err := client.Do(t.Context(), client.B().ConfigSet().ParameterValue().ParameterValue("maxmemory", "1").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := store.Begin(t.Context(), requests[3]); !errors.Is(err, idempotency.ErrFull) {
		t.Errorf("got %v, want ErrFull", err)
	}
	for end := time.Now().Add(3 * lease); time.Now().Before(end); time.Sleep(lease / 10) {
		begin(requests[0], idempotency.Running)
	}
	for i, err := range []error{
		runs[0].Finish(t.Context(), idempotency.Reply{Status: 200, Body: make([]byte, 1000)}), runs[1].Lose(t.Context()), runs[2].Forget(t.Context()),
	} {
		if err != nil {
			t.Errorf("run %d: %v", i, err)
		}
	}
	begin(requests[0], idempotency.Done)
	begin(requests[1], idempotency.Unknown)
}

// ask is a client for a test's own questions.
func ask(t *testing.T, server *locktest.Server) rueidis.Client {
	t.Helper()
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{server.Address}, ForceSingleClient: true, DisableCache: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// TestKeys: each name is one key, with the prefix, that expires.
//
// Mutants: nothing expires; a claim expires with its lease; the prefix is left out.
func TestKeys(t *testing.T) {
	t.Parallel()
	server := locktest.Redis(t)
	store := openStore(t, Config{Address: server.Address, Prefix: "a:", Timeout: testTimeout})
	r := &idempotency.Request{Lease: time.Minute, TTL: time.Hour}
	r.ID[31] = 0xab
	if _, _, err := store.Begin(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	client := ask(t, server)
	keys, err := client.Do(t.Context(), client.B().Keys().Pattern("*").Build()).AsStrSlice()
	want := "a:idem:" + strings.Repeat("00", 31) + "ab"
	if err != nil || len(keys) != 1 || keys[0] != want {
		t.Fatalf("the keys are %q, %v, want %q", keys, err, want)
	}
	left, err := client.Do(t.Context(), client.B().Pttl().Key(want).Build()).AsInt64()
	if err != nil || left <= time.Minute.Milliseconds() || left > time.Hour.Milliseconds() {
		t.Errorf("it has %d ms left, %v", left, err)
	}
}

func BenchmarkRedis(b *testing.B) {
	idempotencytest.Bench(b, openStore(b, Config{Address: locktest.Redis(b).Address, Timeout: 5 * time.Second}))
}
