package redis

import (
	"strings"
	"testing"
	"time"

	"lanekeeper/lock/locktest"
	"lanekeeper/proxy/sequence"
	"lanekeeper/proxy/sequence/sequencetest"
)

// TestMarks: the suite, on a real server.
//
// Mutants: a mark falls; epochs are ignored; a time is shortened; nothing expires; what is
// not there is an error.
func TestMarks(t *testing.T) {
	server := locktest.Redis(t, "--appendonly", "yes", "--appendfsync", "always")
	sequencetest.Run(t, &sequencetest.Place{
		Timeout: testTimeout, Kill: server.Kill, Start: server.Start,
		Open: func(t testing.TB) *sequencetest.Node {
			relay := locktest.NewRelay(t, server.Address)
			store := openStore(t, Config{Address: relay.Address(), Prefix: "{test}:", Timeout: testTimeout})
			return &sequencetest.Node{Store: store, Close: store.Close, LoseReply: func() { relay.CutAt(1) }}
		},
	})
}

// TestMarkKeys: each mark is one key, with the prefix, that expires; one that is somebody
// else's is left alone. A server without room still has some for a mark that rises.
//
// Mutants: the prefix is left out; what is there is written over; what rises finds no room.
func TestMarkKeys(t *testing.T) {
	t.Parallel()
	server := locktest.Redis(t)
	store := openStore(t, Config{Address: server.Address, Prefix: "a:", Timeout: testTimeout})
	key, n := []byte("order:7"), sequence.Number{Producer: "p", Seq: 3}
	save := func(n sequence.Number) error { return store.Save(t.Context(), key, n, time.Hour) }
	if err := save(n); err != nil {
		t.Fatal(err)
	}
	client := ask(t, server)
	keys, err := client.Do(t.Context(), client.B().Keys().Pattern("*").Build()).AsStrSlice()
	const want = "a:seq:90e21d310d197d1cc6b2707106a957c69063fa0b7a511642a4e298b77a1a0c48" // of order:7, NUL, p
	if err != nil || len(keys) != 1 || keys[0] != want {
		t.Fatalf("the keys are %q, %v, want %q", keys, err, want)
	}
	left, err := client.Do(t.Context(), client.B().Pttl().Key(want).Build()).AsInt64()
	if err != nil || left <= 59*time.Minute.Milliseconds() || left > time.Hour.Milliseconds() {
		t.Errorf("it has %d ms left, %v", left, err)
	}
	if err := client.Do(t.Context(), client.B().ConfigSet().ParameterValue().ParameterValue("maxmemory", "1").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	n.Seq++
	if err := save(n); err != nil {
		t.Errorf("without room: %v", err)
	}
	if err := save(sequence.Number{Producer: "q", Seq: 1}); err == nil || !strings.Contains(err.Error(), "OOM") {
		t.Errorf("a new one without room: %v", err)
	}
	if err := client.Do(t.Context(), client.B().ConfigSet().ParameterValue().ParameterValue("maxmemory", "0").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	if err := client.Do(t.Context(), client.B().Set().Key(want).Value("x").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	if err := save(n); err == nil {
		t.Error("a key of somebody else's is written over")
	}
	if _, _, known, err := store.Load(t.Context(), key, "p"); err == nil || known {
		t.Errorf("a key of somebody else's: known %v, %v", known, err)
	}
}
