package peer

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"lanekeeper/queue"
	"lanekeeper/ring"
)

// greetOver has a hop with config let a connection in on which h is said, and
// returns what it replies.
func greetOver(t *testing.T, change func(*Config), h hello) (*reply, error) {
	t.Helper()
	owner := newTestHop(t, "b", change)
	here, there := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer there.Close()
		owner.host.let(there) //nolint:errcheck // what it says to the other side is looked at
	}()
	defer func() {
		here.Close()
		<-done
	}()
	return greet(here, bufio.NewReader(here), &h)
}

// newTestHop is a hop that dials nobody and serves everything at once.
func newTestHop(t *testing.T, name string, change func(*Config)) *Hop {
	t.Helper()
	config := Config{
		Self: ring.Member{Name: name, Incarnation: 1}, Cluster: "test", Layout: 7, Stripes: 1,
		NextID:  func() queue.ID { return queue.ID{1} },
		Owner:   func(int) (ring.Member, uint64) { return ring.Member{}, 0 },
		Serve:   func(in *Inbound) (*Response, bool) { return &Response{Problem: "lane-full"}, true },
		Control: func(ring.Member, []byte) {}, Up: func(ring.Member) {},
		MaxCalls: 10, MaxBytes: 1 << 20, Log: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&config)
	}
	h := New(config)
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		h.Stop(ctx) //nolint:errcheck // nobody reads its answers
	})
	return h
}

func testHello() hello {
	return hello{
		versions: spoken, cluster: "test", layout: 7, generation: 1,
		from: ring.Member{Name: "a", Incarnation: 1}, to: ring.Member{Name: "b", Incarnation: 1},
	}
}

// TestGreetingRefuses whoever is not of this cluster, in a sentence that says why.
//
// Mutant "another layout is let in".
func TestGreetingRefuses(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*hello)
		want   string
	}{
		{"another cluster", func(h *hello) { h.cluster = "staging" }, `this is cluster "test", not "staging"`},
		{"another layout", func(h *hello) { h.layout = 8 }, "cluster.partitions, or another part of the layout that all members must share, differs"},
		{"another member", func(h *hello) { h.to.Name = "c" }, "this is b/1, not c/1"},
		{"another incarnation", func(h *hello) { h.to.Incarnation = 2 }, "this is b/1, not b/2"},
		{"too new", func(h *hello) { h.versions = versions{7, 9} }, "this node speaks versions 1 to 2 of the protocol, not 7 to 9"},
		{"too old", func(h *hello) { h.versions = versions{0, 0} }, "this node speaks versions 1 to 2 of the protocol, not 0 to 0"},
	} {
		for _, bulk := range []bool{false, true} {
			h := testHello()
			h.bulk = bulk
			test.change(&h)
			if answer, err := greetOver(t, nil, h); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s, bulk=%v: %+v, %v; want %q", test.name, bulk, answer, err, test.want)
			}
		}
	}
	if _, err := greetOver(t, nil, testHello()); err != nil {
		t.Errorf("a member is refused: %v", err)
	}
}

// TestVersionsMeet: of two builds that are one version apart the lower is spoken,
// and two are too many.
//
// Mutant "the lowest version is spoken".
func TestVersionsMeet(t *testing.T) {
	for _, test := range []struct {
		ingress, owner versions
		want           uint16 // 0: refused
	}{
		{versions{1, 1}, versions{1, 1}, 1},
		{versions{1, 2}, versions{1, 1}, 1},
		{versions{1, 1}, versions{1, 2}, 1},
		{versions{1, 2}, versions{2, 3}, 2},
		{versions{2, 3}, versions{1, 2}, 2},
		{versions{2, 3}, versions{2, 3}, 3},
		{versions{3, 4}, versions{1, 2}, 0},
		{versions{1, 2}, versions{3, 4}, 0},
	} {
		h := testHello()
		h.versions = test.ingress
		answer, err := greetOver(t, func(c *Config) { c.versions = test.owner }, h)
		switch {
		case test.want == 0 && (err == nil || !strings.Contains(err.Error(), "of the protocol, not")):
			t.Errorf("%v meets %v: %+v, %v", test.ingress, test.owner, answer, err)
		case test.want != 0 && (err != nil || answer.version != test.want):
			t.Errorf("%v meets %v: %+v, %v; want version %d", test.ingress, test.owner, answer, err, test.want)
		}
	}
}

// TestVersionsWorkTogether sends requests between a build of this version and one
// of the next.
func TestVersionsWorkTogether(t *testing.T) {
	next := 0
	ingress, owner := pair(t, func(c *Config) {
		if next++; next == 2 {
			c.versions = versions{spoken.least, spoken.most + 1}
		}
	})
	send(t, ingress, 200, func(i int) int { return i * 500 })
	checkRan(t, owner.log, 200)
}

// TestGreetingIsNoSurprise: an owner's reply that is none, or names somebody
// else, or another version, ends the connection.
func TestGreetingIsNoSurprise(t *testing.T) {
	b := ring.Member{Name: "b", Incarnation: 1}
	good, other, later := reply{version: 1, owner: b}, reply{version: 1, owner: ring.Member{Name: "b", Incarnation: 2}}, reply{version: 9, owner: b}
	for _, test := range []struct {
		name string
		says []byte
		want string // "" = it is let in
	}{
		{"a reply", good.append(nil), ""},
		{"another incarnation", other.append(nil), "another incarnation"},
		{"another version", later.append(nil), "speaks version 9"},
		{"no reply", appendNumber(nil, frameAdmitted, 1), "in place of a reply"},
		{"half a reply", good.append(nil)[:9], "unexpected EOF"},
		{"nothing", nil, "EOF"},
		{"HTTP", []byte("HTTP/1.1 400 Bad Request\r\n\r\n"), "malformed frame"},
		{"a reply cut short", appendBytes(nil, frameReply, []byte{0, 1}), "cut off"},
	} {
		conn, h := tape(test.says), testHello()
		_, err := greet(conn, bufio.NewReader(conn), &h)
		if got := err != nil; got != (test.want != "") || got && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}

// rawMember speaks the protocol by hand, as an ingress.
type rawMember struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func dialRaw(t *testing.T, owner *testNode, h hello) (*rawMember, *reply) {
	t.Helper()
	conn, err := net.Dial("tcp", owner.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	r := &rawMember{t, conn, bufio.NewReader(conn)}
	answer, err := greet(conn, r.in, &h)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(5 * time.Second)) //nolint:errcheck // a dead connection fails the read
	return r, answer
}

func (r *rawMember) says(frames ...[]byte) {
	r.t.Helper()
	if _, err := r.conn.Write(bytes.Join(frames, nil)); err != nil {
		r.t.Fatal(err)
	}
}

// hears returns the next frame of a kind, and skips others.
func (r *rawMember) hears(want kind) []byte {
	r.t.Helper()
	for {
		k, payload, err := readFrame(r.in, frameMax)
		if err != nil {
			r.t.Fatalf("waiting for kind %d: %v", want, err)
		}
		if k == want {
			return payload
		}
	}
}

func rawRequest(seq uint64, key string) []byte {
	return appendSending(nil, sending{seq: seq, patience: time.Minute}, appendRequest(nil, testRequest(key, 0)))
}

// TestLaterFramesAreSkipped: kinds that this version does not know, and fields
// behind the ends of frames that it does.
//
// Mutant "an unknown kind is an error".
func TestLaterFramesAreSkipped(t *testing.T) {
	_, owner := pair(t, nil)
	h := testHello()
	h.from.Name = "raw"
	r, _ := dialRaw(t, owner, h)
	longer := func(frame []byte) []byte {
		return end(append(bytes.Clone(frame), "more"...), 0)
	}
	r.says(appendBytes(nil, 77, []byte("unknown")), longer(appendNumber(nil, frameConfirm, 0)), rawRequest(1, "k"), appendBytes(nil, 200, nil), longer(appendNumber(nil, frameCancel, 9)), longer(appendBytes(nil, framePing, nil)))
	var answer Response
	if seq, err := parseResponse(r.hears(frameResponse), &answer); err != nil || seq != 1 || answer.Problem != "" {
		t.Errorf("answer %d: %+v, %v", seq, answer, err)
	}
	r.says(longer(appendBytes(nil, framePing, nil)))
	r.hears(framePong)
}

// TestOldConnectionIsNotReadAnyMore, the frame that had half arrived included.
//
// It is refused twice: the connection is closed, and the session would not hear it.
func TestOldConnectionIsNotReadAnyMore(t *testing.T) {
	_, owner := pair(t, nil)
	h := testHello()
	h.from.Name = "raw"
	old, first := dialRaw(t, owner, h)
	x0 := rawRequest(1, "k")
	old.says(x0[:len(x0)-1])
	h.generation, h.session = 2, first.session
	r, second := dialRaw(t, owner, h)
	if second.session != first.session || second.processed != 0 {
		t.Fatalf("the second connection's reply: %+v, the first one's %+v", second, first)
	}
	old.conn.Write(x0[len(x0)-1:]) //nolint:errcheck // it is closed, perhaps
	if n, err := old.in.ReadByte(); err == nil {
		t.Errorf("the old connection says %d", n)
	}
	r.says(rawRequest(2, "k"))
	var answer Response
	if seq, err := parseResponse(r.hears(frameResponse), &answer); err != nil || seq != 2 {
		t.Errorf("answer %d, %v", seq, err)
	}
	if n := owner.served.Load(); n != 1 {
		t.Errorf("%d requests were served", n)
	}
	h.generation = 1
	conn, err := net.Dial("tcp", owner.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := greet(conn, bufio.NewReader(conn), &h); err == nil {
		t.Error("a HELLO of an earlier generation is let in")
	}
	r.says(appendBytes(nil, framePing, nil)) // and has ended nothing
	r.hears(framePong)
}

// TestLaterIncarnationEndsTheEarlier: what it has waiting leaves, and it is not
// let in any more.
func TestLaterIncarnationEndsTheEarlier(t *testing.T) {
	_, owner := pair(t, nil)
	release := make(chan struct{})
	owner.answer = func(in *Inbound) {
		<-release
		in.Ticket.Done()
		in.Respond(&Response{})
	}
	h := testHello()
	h.from.Name = "raw"
	old, _ := dialRaw(t, owner, h)
	old.says(rawRequest(1, "k"), rawRequest(2, "k"), appendBytes(nil, framePing, nil))
	old.hears(framePong)
	h.from.Incarnation = 2
	r, answer := dialRaw(t, owner, h)
	if answer.processed != 0 || len(answer.open) != 0 {
		t.Errorf("the later incarnation is told of the earlier one's requests: %+v", answer)
	}
	if _, err := io.ReadAll(old.in); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("the earlier incarnation's connection: %v", err)
	}
	r.says(rawRequest(1, "k"), appendBytes(nil, framePing, nil))
	r.hears(framePong)
	close(release)
	r.hears(frameResponse)
	if n := owner.served.Load(); n != 2 { // the one that ran, and the later incarnation's
		t.Errorf("%d requests were served", n)
	}
	h.from.Incarnation, h.generation = 1, 9
	conn, err := net.Dial("tcp", owner.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := greet(conn, bufio.NewReader(conn), &h); err == nil || !strings.Contains(err.Error(), "a later incarnation") {
		t.Errorf("the earlier incarnation comes back: %v", err)
	}
}
