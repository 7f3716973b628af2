package peer

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/membership/membertest"
	"lanekeeper/ring"
)

// inBubble runs a test on virtual time, with a network in memory.
func inBubble(t *testing.T, test func(t *testing.T, network inMemory)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		network := inMemory{membertest.New(1)}
		network.SetLink(membertest.Link{Delay: 500 * time.Microsecond})
		test(t, network)
	})
}

// call sends a request and returns it.
func (n *testNode) call(partition int, r *Request) *Call {
	c := NewCall(partition, noLocal{}, r, time.Now().Add(10*time.Second))
	n.hop.Send(c)
	return c
}

// mustEnd waits for a call's answer.
func mustEnd(t testing.TB, c *Call, within time.Duration) *Response {
	t.Helper()
	if !c.Wait(time.Now().Add(within)) {
		t.Fatalf("no answer within %s", within)
	}
	return &c.Response
}

// stuckMember listens as a member that lets everybody in and then reads nothing.
func stuckMember(t *testing.T, network inMemory, name string) Member {
	t.Helper()
	self := ring.Member{Name: name, Incarnation: 1}
	listener, err := network.listen(name)
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			readFrame(bufio.NewReader(conn), helloMax) //nolint:errcheck // a HELLO, or not
			answer := reply{version: 1, owner: self, session: 1}
			conn.Write(answer.append(nil)) //nolint:errcheck // it is as dead as this member
			t.Cleanup(func() { conn.Close() })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		conns.Wait()
	})
	return Member{self, listener.Addr().String()}
}

// TestStuckMemberHarmsNobody has a member that reads nothing. Requests for it
// pile up and are refused; those for another one go their way meanwhile.
//
// Mutant "a stuck member takes all there is".
func TestStuckMemberHarmsNobody(t *testing.T) {
	inBubble(t, func(t *testing.T, network inMemory) {
		const most = 1000
		ingress, owner := pairOver(t, network, func(c *Config) { c.MaxCalls = most })
		stuck := stuckMember(t, network, "c")
		ingress.owner = func(p int) (ring.Member, uint64) {
			if p == 1 {
				return stuck.Member, 1
			}
			return owner.self, 1
		}
		ingress.hop.View([]Member{{owner.self, owner.addr}, stuck})
		time.Sleep(100 * time.Millisecond)
		refused := 0
		for began := time.Now(); time.Since(began) < 8*time.Second; { // longer than any connection to it lasts
			for range 50 {
				if c := ingress.call(1, testRequest("stuck", 5000)); c.Wait(time.Now()) && c.Response.Problem == Overloaded {
					refused++
				}
			}
			sent := time.Now()
			if r := mustEnd(t, ingress.call(0, testRequest("k", 10)), time.Second); r.Problem != "" {
				t.Fatalf("a request for another member: %s (%s)", r.Problem, r.Detail)
			}
			if took := time.Since(sent); took > 10*time.Millisecond {
				t.Fatalf("a request for another member took %s", took)
			}
			time.Sleep(20 * time.Millisecond)
		}
		if pending := ingress.hop.Pending(); refused == 0 || pending > most*share/(share+1)+1 {
			t.Errorf("%d calls for the stuck member are counted, %d were refused", pending, refused)
		}
	})
}

// TestLoadIsBounded refuses exactly what is too much, and counts back all it
// counted, what it refused included.
//
// Mutant "what is refused is counted back".
func TestLoadIsBounded(t *testing.T) {
	nobody := func(int) (ring.Member, uint64) { return ring.Member{}, 0 }
	size := NewCall(0, noLocal{}, testRequest("k", 100), time.Now()).size()
	for _, test := range []struct {
		name     string
		calls    int
		bytes    int64
		admitted int
	}{
		{"calls, and four fifths of them", 5, 1 << 20, 4},
		{"bytes, and four fifths of them", 100, 5 * size, 4},
		{"bytes, one less than four", 100, 4*size - 1, 3},
		{"one call", 1, 1 << 20, 1},
		{"nothing at all", 0, 1 << 20, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := startTestNode(t, loopback{}, "a", newRanLog(), func(c *Config) { c.MaxCalls, c.MaxBytes = test.calls, test.bytes })
			n.owner = nobody
			for round := range 3 {
				var calls []*Call
				for i := range 2*test.admitted + 2 {
					c := n.call(0, testRequest("k", 100))
					if refused := c.Wait(time.Now()); refused != (i >= test.admitted) {
						t.Fatalf("round %d: call %d: refused=%v", round, i, refused)
					}
					calls = append(calls, c)
				}
				for _, c := range calls {
					n.hop.Cancel(c)
				}
				if calls, bytes := n.hop.load.calls.Load(), n.hop.load.bytes.Load(); calls != 0 || bytes != 0 {
					t.Fatalf("round %d: %d calls and %d bytes are counted when all have ended", round, calls, bytes)
				}
			}
		})
	}
}

// TestShareOfOneMember has members take their parts until none may have more.
func TestShareOfOneMember(t *testing.T) {
	var all, a, b load
	take := func(part *load) (n int) {
		for ; all.admits(part, 1, 1000, 1<<40); n++ {
			all.add(1, 1)
			part.add(1, 1)
		}
		return n
	}
	if n := take(&a); n != 800 {
		t.Errorf("one member has %d of 1000, want four times what is free", n)
	}
	if n := take(&b); n != 160 {
		t.Errorf("the next one has %d of 200", n)
	}
	if !all.admits(&load{}, 1, 1000, 1<<40) {
		t.Error("nothing is left for a third")
	}
}

// TestLongHeads: a key and a head of any length arrive whole, or are refused.
func TestLongHeads(t *testing.T) {
	ingress, owner := pair(t, nil)
	key := strings.Repeat("key", 30000)
	owner.answer = func(in *Inbound) {
		in.Ticket.Done()
		in.Respond(&Response{Head: []byte(fmt.Sprint(len(in.Key), string(in.Key) == key, len(in.Head)))})
	}
	r := testRequest(key, 10)
	r.Head = make([]byte, 1<<20)
	if a := mustEnd(t, ingress.call(0, r), 5*time.Second); string(a.Head) != "90000 true 1048576" {
		t.Errorf("%s %s", a.Head, a.Problem)
	}
	r = testRequest("k", 10)
	r.Head = make([]byte, frameMax)
	if a := mustEnd(t, ingress.call(0, r), 0); a.Problem != Overloaded {
		t.Errorf("a head that no frame holds: %q", a.Problem)
	}
}

// TestMembersFloodEachOther fills both directions of both connections at once.
// Nothing that reads waits for anything that writes, so there is no circle. (One
// such wait alone would not close it either: requests of the two directions have
// connections of their own, and who reads answers has nothing to say to them.)
func TestMembersFloodEachOther(t *testing.T) {
	inBubble(t, func(t *testing.T, network inMemory) {
		network.StreamBuffer = 4 << 10
		a, b := pairOver(t, network, nil)
		for p := range testPartitions {
			a.lanes.Open(p)
		}
		b.owner = func(int) (ring.Member, uint64) { return a.self, 1 }
		var calls []*Call
		for i := range 2000 {
			calls = append(calls, a.call(i%7, testRequest(fmt.Sprint("k", i%7), 8000)), b.call(i%7, testRequest(fmt.Sprint("k", i%7), 8000)))
		}
		for _, c := range calls {
			if r := mustEnd(t, c, time.Minute); r.Problem != "" {
				t.Fatal(r.Problem, r.Detail)
			}
		}
	})
}

// countingReader makes bytes up, and counts.
type countingReader struct {
	left int64
	made *atomic.Int64
}

func (r *countingReader) Read(b []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n := int(min(int64(len(b)), r.left))
	for i := range b[:n] {
		b[i] = byte(r.left - int64(i))
	}
	r.left -= int64(n)
	r.made.Add(int64(n))
	return n, nil
}

// streaming has n answer every request with a stream of so many bytes.
func (n *testNode) streaming(size int64) (made *atomic.Int64, closed chan bool) {
	made, closed = new(atomic.Int64), make(chan bool, 100)
	n.answer = func(in *Inbound) {
		in.RespondStream(&Response{Head: []byte("head")}, &countingReader{left: size, made: made}, time.Time{}, func(whole bool) {
			closed <- whole
			in.Ticket.Done()
		})
	}
	return made, closed
}

// TestSlowReaderHoldsTheStream reads a stream of 100 MiB slowly. What is read from
// the upstream is never far ahead: memory does not depend on its length.
//
// Mutant "a stream is read whole".
func TestSlowReaderHoldsTheStream(t *testing.T) {
	inBubble(t, func(t *testing.T, network inMemory) {
		ingress, owner := pairOver(t, network, nil)
		const size = 100 << 20
		made, closed := owner.streaming(size)
		c := ingress.call(0, testRequest("k", 10))
		if r := mustEnd(t, c, time.Second); !r.Stream {
			t.Fatalf("no stream: %+v", r)
		}
		body, err := ingress.hop.Fetch(c)
		if err != nil {
			t.Fatal(err)
		}
		var read, ahead int64
		b := make([]byte, 1<<20)
		for {
			n, err := io.ReadFull(body, b)
			for i := range b[:n] {
				if b[i] != byte(size-read-int64(i)) {
					t.Fatalf("byte %d is another one's", read+int64(i))
				}
			}
			read += int64(n)
			time.Sleep(50 * time.Millisecond)
			ahead = max(ahead, made.Load()-read)
			if err != nil {
				break
			}
		}
		if err := body.Close(); err != nil || read != size || !<-closed {
			t.Errorf("%d bytes read: %v", read, err)
		}
		if most := int64(network.StreamBuffer + 64<<10 + 2*chunk); ahead > most {
			t.Errorf("%d bytes were read ahead of the reader, %d have room", ahead, most)
		}
	})
}

// TestStreamThatNobodyFetchesEnds frees what it holds after fetchMax.
func TestStreamThatNobodyFetchesEnds(t *testing.T) {
	inBubble(t, func(t *testing.T, network inMemory) {
		ingress, owner := pairOver(t, network, nil)
		_, closed := owner.streaming(1 << 20)
		c := ingress.call(0, testRequest("k", 10))
		mustEnd(t, c, time.Second)
		began := time.Now()
		if whole := <-closed; whole || time.Since(began) > fetchMax {
			t.Errorf("closed after %s, whole=%v", time.Since(began), whole)
		}
		body, err := ingress.hop.Fetch(c)
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		if _, err := io.ReadAll(body); err == nil {
			t.Error("a stream that has ended is read to its end")
		}
	})
}

// TestFetchFailsWhenTheOwnerIsGone, instead of waiting for a silent machine.
//
// Mutant "a fetch outlives its owner".
func TestFetchFailsWhenTheOwnerIsGone(t *testing.T) {
	inBubble(t, func(t *testing.T, network inMemory) {
		ingress, owner := pairOver(t, network, nil)
		owner.answer = func(in *Inbound) {
			stop := make(chan struct{})
			in.RespondStream(&Response{}, readerFunc(func([]byte) (int, error) { <-stop; return 0, io.ErrUnexpectedEOF }), time.Time{}, func(bool) { in.Ticket.Done() })
			t.Cleanup(func() { close(stop) })
		}
		c := ingress.call(0, testRequest("k", 10))
		mustEnd(t, c, time.Second)
		body, err := ingress.hop.Fetch(c)
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Second, func() { ingress.hop.View(nil) })
		began := time.Now()
		guard := time.AfterFunc(time.Minute, func() { body.Close() })
		defer guard.Stop()
		if _, err := io.ReadAll(body); err == nil || time.Since(began) > 2*time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		body.Close()
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// TestFetchOutlivesIdleConnections that died unnoticed.
//
// Mutant "an idle connection is trusted".
func TestFetchOutlivesIdleConnections(t *testing.T) {
	inBubble(t, func(t *testing.T, network inMemory) {
		ingress, owner := pairOver(t, network, nil)
		owner.streaming(300 << 10)
		for range 5 {
			c := ingress.call(0, testRequest("k", 10))
			mustEnd(t, c, 5*time.Second)
			body, err := ingress.hop.Fetch(c)
			if err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(body); err != nil || len(b) != 300<<10 {
				t.Fatalf("%d bytes: %v", len(b), err)
			}
			body.Close()
			network.Reset(hostOf("a"), hostOf("b"))
			time.Sleep(50 * time.Millisecond)
		}
	})
}

// TestLongAnswerIsFetched: a response longer than any frame is no poison for the
// connection, and does not hold up the others.
//
// Mutant "every answer is a frame".
func TestLongAnswerIsFetched(t *testing.T) {
	ingress, owner := pair(t, nil)
	long := bytes.Repeat([]byte("0123456789abcdef"), frameMax/16+1)
	owner.answer = func(in *Inbound) {
		in.Ticket.Done()
		if string(in.Key) == "long" {
			in.Respond(&Response{Head: []byte("head"), Body: long})
			return
		}
		in.Respond(&Response{Body: []byte("short")})
	}
	c := ingress.call(0, testRequest("long", 10))
	for i := range 10 {
		if r := mustEnd(t, ingress.call(1, testRequest("k", i)), 5*time.Second); string(r.Body) != "short" {
			t.Fatalf("%+v", r)
		}
	}
	if r := mustEnd(t, c, 5*time.Second); !r.Stream || string(r.Head) != "head" {
		t.Fatalf("%s %s", r.Problem, r.Detail)
	}
	body, err := ingress.hop.Fetch(c)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if b, err := io.ReadAll(body); err != nil || !bytes.Equal(b, long) {
		t.Fatalf("%d bytes: %v", len(b), err)
	}
}

// deafToBulk is a network on which the first connection from a is made, and no
// later one: bodies find no way.
type deafToBulk struct {
	inMemory
	dialled atomic.Int64
}

func (d *deafToBulk) dial(ctx context.Context, node, address string) (net.Conn, error) {
	if node == "a" && d.dialled.Add(1) > 1 {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return d.inMemory.dial(ctx, node, address)
}

// TestBodyThatNeverComes keeps its request's place until the owner's patience
// ends: it is answered as not executed, and nothing has passed it.
func TestBodyThatNeverComes(t *testing.T) {
	inBubble(t, func(t *testing.T, network inMemory) {
		ingress, owner := pairOver(t, &deafToBulk{inMemory: network}, nil)
		time.Sleep(100 * time.Millisecond)
		began := time.Now()
		x0 := ingress.call(0, testRequest("k", inlineMax+1))
		x1 := ingress.call(0, testRequest("k", 10))
		if r := mustEnd(t, x1, 20*time.Second); r.Problem != "" || time.Since(began) < bodyPatience {
			t.Errorf("the one behind: %q after %s", r.Problem, time.Since(began))
		}
		if r := mustEnd(t, x0, 0); r.Problem == "" || r.Executed != NotExecuted {
			t.Errorf("the one without its body: %+v", r)
		}
		checkRan(t, owner.log, 1)
	})
}

// TestBodyIsSentAgain, whole, when its connection breaks. Its request keeps its
// ticket meanwhile.
//
// Mutant "a body is sent once".
func TestBodyIsSentAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, network inMemory) {
		ingress, owner := pairOver(t, network, nil)
		const size = 4 << 20
		x0 := ingress.call(0, testRequest("k", size))
		x1 := ingress.call(0, testRequest("k", 1))
		for range 5 {
			time.Sleep(20 * time.Millisecond) // a tenth of the way
			network.Reset(hostOf("a"), hostOf("b"))
		}
		if r := mustEnd(t, x0, 5*time.Second); string(r.Body) != fmt.Sprint("k ", size) {
			t.Errorf("%q %s", r.Body, r.Problem)
		}
		mustEnd(t, x1, time.Second)
		checkRan(t, owner.log, 2)
	})
}

// TestBulkIsAdmittedAtOnce: a body does not wait for ADMITTED until there is
// something else to say.
//
// Mutant "ADMITTED waits for company".
func TestBulkIsAdmittedAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, network inMemory) {
		ingress, _ := pairOver(t, network, nil)
		mustEnd(t, ingress.call(0, testRequest("k", inlineMax+1)), time.Second) // all connections are there
		for range 5 {
			mustEnd(t, ingress.call(0, testRequest("k", 1)), time.Second)
			began := time.Now()
			mustEnd(t, ingress.call(0, testRequest("k", inlineMax+1)), 5*time.Second)
			if took := time.Since(began); took > 20*time.Millisecond {
				t.Errorf("it took %s", took)
			}
		}
	})
}

// TestAnswersAreBounded keeps no more bytes of answers than fit: what has run
// beyond is answered as unknown, until the ingress has read.
//
// Mutant "answers have no bound".
func TestAnswersAreBounded(t *testing.T) {
	w := newWorld(&scenario{requests: []int{0}})
	s := w.conns[0].hosted.session
	finish := func(seq uint64) Response {
		in := &Inbound{session: s, seq: seq}
		s.open[seq] = in
		taken := s.finish(in, &Response{Body: make([]byte, answersMax/8)})
		var r Response
		if _, err := parseResponse(payloadOf(s.answers[len(s.answers)-1].frame), &r); err != nil {
			t.Fatal(err)
		}
		if taken != (r.Problem == "") {
			t.Fatalf("taken=%v, and the answer is %q", taken, r.Problem)
		}
		return r
	}
	for seq := uint64(1); seq <= 100; seq++ {
		r := finish(seq)
		if full := seq > 8; full && (r.Executed != Unknown || r.Problem != PeerLost) || !full && r.Problem != "" {
			t.Fatalf("answer %d: %q, executed %d", seq, r.Problem, r.Executed)
		}
	}
	if s.bytes > answersMax+100*300 {
		t.Errorf("%d bytes are kept", s.bytes)
	}
	s.drop(100)
	if s.bytes != 0 || len(s.answers) != 0 {
		t.Errorf("%d answers of %d bytes are kept when all have been read", len(s.answers), s.bytes)
	}
	if r := finish(101); r.Problem != "" {
		t.Errorf("then: %s", r.Problem)
	}
}

// TestControlGoesFirst: a message between tables does not wait behind what fills
// the connection.
//
// Mutant "control waits for requests".
func TestControlGoesFirst(t *testing.T) {
	w := newWorld(&scenario{requests: []int{0}})
	l := w.conns[0].link
	for i := range 10 {
		c := NewCall(0, modelLocal{w, 0}, testRequest(fmt.Sprint(i), inlineMax), time.Now())
		w.outbox().enter(c)
	}
	l.controls = append(l.controls, []byte("move"))
	if first := split(l.take(nil, time.Now(), false))[0]; kindOf(first) != frameControl {
		t.Errorf("first comes kind %d", kindOf(first))
	}
}

// TestStopEndsEverything that was sent, or was not.
//
// Mutant "Stop leaves what was held".
func TestStopEndsEverything(t *testing.T) {
	inBubble(t, func(t *testing.T, network inMemory) {
		ingress, owner := pairOver(t, network, nil)
		release := make(chan struct{})
		owner.answer = func(in *Inbound) {
			<-release
			in.Ticket.Done()
			in.Respond(&Response{})
		}
		ingress.owner = func(p int) (ring.Member, uint64) {
			if p == 1 {
				return ring.Member{}, 0
			}
			return owner.self, 1
		}
		sent, waits, held := ingress.call(0, testRequest("k", 1)), ingress.call(0, testRequest("k", 1)), ingress.call(1, testRequest("nobody's", 1))
		time.Sleep(time.Second)
		if err := ingress.hop.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		after := ingress.call(0, testRequest("k", 1))
		close(release)
		for name, test := range map[string]struct {
			call *Call
			want Executed
		}{"sent": {sent, Unknown}, "waiting there": {waits, Unknown}, "held": {held, NotExecuted}, "after Stop": {after, NotExecuted}} {
			if r := mustEnd(t, test.call, 0); r.Problem == "" || r.Executed != test.want {
				t.Errorf("%s: %q, executed %d", name, r.Problem, r.Executed)
			}
		}
		if n := ingress.hop.Pending(); n != 0 {
			t.Errorf("%d calls are counted", n)
		}
	})
}

// TestStopWaitsForAnswersToBeRead: what an owner has answered reaches its ingress,
// streams included, before Stop closes the connection.
func TestStopWaitsForAnswersToBeRead(t *testing.T) {
	inBubble(t, func(t *testing.T, network inMemory) {
		ingress, owner := pairOver(t, network, nil)
		owner.delay = func() time.Duration { return 100 * time.Millisecond }
		var calls []*Call
		for i := range 10 {
			calls = append(calls, ingress.call(0, testRequest("k", i)))
		}
		time.Sleep(50 * time.Millisecond)
		if err := owner.hop.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		for i, c := range calls {
			if r := mustEnd(t, c, 0); r.Problem != "" {
				t.Errorf("call %d: %s %s", i, r.Problem, r.Detail)
			}
		}
	})
}

// TestStopWaitsForWhoIsMissed: an ingress whose connection broke is answered when it
// is back, also for what this node had not read; one that does not come back is not
// waited for longer than what it had waiting.
//
// Mutant "who is missed is no debt".
func TestStopWaitsForWhoIsMissed(t *testing.T) {
	for _, back := range []bool{true, false} {
		inBubble(t, func(t *testing.T, network inMemory) {
			ingress, owner := pairOver(t, network, nil)
			owner.delay = func() time.Duration { return 100 * time.Millisecond }
			var calls []*Call
			for i := range 10 {
				calls = append(calls, ingress.call(0, testRequest("k", i)))
			}
			time.Sleep(250 * time.Millisecond)
			for i := range 10 {
				calls = append(calls, ingress.call(0, testRequest("k", 10+i)))
			}
			network.Split([]string{hostOf("a")}, []string{hostOf("b")})
			network.Reset(hostOf("a"), hostOf("b"))
			stopped := make(chan error, 1)
			began := time.Now()
			go func() { stopped <- owner.hop.Stop(t.Context()) }()
			time.Sleep(3 * time.Second)
			if !back {
				if err := <-stopped; err != nil || time.Since(began) > orphanAfter+time.Second {
					t.Errorf("Stop returned %v, after %s", err, time.Since(began))
				}
				return
			}
			network.Heal()
			for i, c := range calls {
				if r := mustEnd(t, c, 10*time.Second); r.Problem != "" {
					t.Errorf("call %d: %s %s", i, r.Problem, r.Detail)
				}
			}
			if err := <-stopped; err != nil {
				t.Error(err)
			}
		})
	}
}

// TestStopWaitsForTransfers: a body that is being fetched arrives whole.
//
// Mutant "a transfer is no debt".
func TestStopWaitsForTransfers(t *testing.T) {
	inBubble(t, func(t *testing.T, network inMemory) {
		ingress, owner := pairOver(t, network, nil)
		long := bytes.Repeat([]byte("x"), answerMax+1)
		owner.answer = func(in *Inbound) {
			in.Ticket.Done()
			in.Respond(&Response{Body: long})
		}
		c := ingress.call(0, testRequest("k", 1))
		mustEnd(t, c, time.Second)
		body, err := ingress.hop.Fetch(c)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 100<<10)
		read, err := io.ReadFull(body, b)
		time.Sleep(time.Second)
		stopped := make(chan error, 1)
		go func() { stopped <- owner.hop.Stop(t.Context()) }()
		for err == nil {
			time.Sleep(100 * time.Millisecond)
			var n int
			n, err = io.ReadFull(body, b)
			read += n
		}
		body.Close()
		if read != len(long) {
			t.Errorf("%d bytes of %d: %v", read, len(long), err)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

// TestStuckIngressHarmsNobody has one that sends requests and reads no answer. The
// answers are bounded, its connection ends, and others are served meanwhile.
func TestStuckIngressHarmsNobody(t *testing.T) {
	inBubble(t, func(t *testing.T, network inMemory) {
		ingress, owner := pairOver(t, network, nil)
		long := make([]byte, answerMax)
		owner.answer = func(in *Inbound) {
			in.Ticket.Done()
			if string(in.Key) == "stuck" {
				in.Respond(&Response{Body: long})
				return
			}
			in.Respond(&Response{})
		}
		conn, err := network.dial(t.Context(), "z", owner.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		h := testHello()
		h.from.Name = "z"
		if _, err := greet(conn, bufio.NewReader(conn), &h); err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			conn.Write(rawRequest(uint64(i+1), "stuck")) //nolint:errcheck // it may be closed by now
			if r := mustEnd(t, ingress.call(0, testRequest("k", 1)), 10*time.Millisecond); r.Problem != "" {
				t.Fatal(r.Problem, r.Detail)
			}
		}
		s, err := owner.hop.host.find(h.from, 0)
		if err != nil {
			t.Fatal(err)
		}
		s.mu.Lock()
		bytes, connected := s.session.bytes, s.conn != nil
		s.mu.Unlock()
		if bytes < answersMax || bytes > answersMax+answerMax+100*300 || !connected {
			t.Errorf("%d bytes are kept for it, connected=%v", bytes, connected)
		}
		time.Sleep(writeMax + orphanAfter + time.Second)
		if n := len(owner.hop.host.all()); n != 1 { // the other one's
			t.Errorf("%d sessions are kept", n)
		}
	})
}

// TestStrangerSayingNothingIsHungUp on after greetMax.
func TestStrangerSayingNothingIsHungUp(t *testing.T) {
	inBubble(t, func(t *testing.T, network inMemory) {
		_, owner := pairOver(t, network, nil)
		conn, err := network.dial(t.Context(), "z", owner.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		began := time.Now()
		if n, err := conn.Read(make([]byte, 1)); err == nil || time.Since(began) > greetMax+time.Second {
			t.Errorf("%d bytes, %v after %s", n, err, time.Since(began))
		}
	})
}

// TestFreeze ends every connection, reads nothing that was buffered, and loses no
// request that has a ticket.
func TestFreeze(t *testing.T) {
	inBubble(t, func(t *testing.T, network inMemory) {
		ingress, owner := pairOver(t, network, nil)
		owner.delay = func() time.Duration { return 20 * time.Millisecond }
		var calls []*Call
		for i := range 20 {
			calls = append(calls, ingress.call(0, testRequest("k", i)))
		}
		time.Sleep(30 * time.Millisecond)
		owner.hop.Freeze()
		for _, s := range owner.hop.host.all() {
			if err := s.hear(frameRequest, sampleFrames()[frameRequest][frameHeader:], s.session.generation); err != errGeneration {
				t.Errorf("a buffered request is taken: %v", err)
			}
		}
		ingress.hop.Freeze()
		for i, c := range calls {
			if r := mustEnd(t, c, 5*time.Second); r.Problem != "" {
				t.Errorf("call %d: %s %s", i, r.Problem, r.Detail)
			}
		}
		checkRan(t, owner.log, 20)
	})
}

// TestFreezeWaitsForReaders: what a reader has in its hand is finished when Freeze
// returns, and what is buffered behind that is not given to anybody.
//
// Mutants: "Freeze does not wait for readers", "messages survive Freeze", "what was
// buffered survives Freeze".
func TestFreezeWaitsForReaders(t *testing.T) {
	inBubble(t, func(t *testing.T, network inMemory) {
		release := make(chan struct{})
		var given atomic.Int64
		a, b := pairOver(t, network, func(c *Config) {
			c.Control = func(ring.Member, []byte) {
				given.Add(1)
				<-release
			}
		})
		time.Sleep(time.Second)
		for range 3 {
			if !a.hop.Post(b.self, []byte("x")) {
				t.Fatal("no connection")
			}
		}
		time.Sleep(time.Second)
		frozen := make(chan struct{})
		go func() {
			b.hop.Freeze()
			close(frozen)
		}()
		time.Sleep(time.Second)
		select {
		case <-frozen:
			t.Error("it has returned, and a message is still in a reader's hand")
		default:
		}
		close(release)
		<-frozen
		if n := given.Load(); n != 1 {
			t.Errorf("%d messages were given", n)
		}
	})
}

// TestControlsKeepOrder over connections that break: some are lost, none comes
// behind a later one, and Up is told of every new connection.
func TestControlsKeepOrder(t *testing.T) {
	inBubble(t, func(t *testing.T, network inMemory) {
		var got []string
		var ups atomic.Int64
		a, b := pairOver(t, network, func(c *Config) {
			c.Control = func(from ring.Member, payload []byte) { got = append(got, from.Name+string(payload)) }
			c.Up = func(ring.Member) { ups.Add(1) }
		})
		posted := 0
		for i := range 300 {
			if a.hop.Post(b.self, fmt.Appendf(nil, "%04d", i)) {
				posted++
			}
			time.Sleep(time.Millisecond)
			if i%25 == 24 {
				network.Reset(hostOf("a"), hostOf("b"))
			}
		}
		time.Sleep(time.Second)
		for i := 1; i < len(got); i++ {
			if got[i-1] >= got[i] {
				t.Errorf("%s comes behind %s", got[i], got[i-1])
			}
		}
		if len(got) < posted/2 || !strings.HasPrefix(got[0], "a") {
			t.Errorf("%d of %d came", len(got), posted)
		}
		if n := ups.Load(); n < 2*12 {
			t.Errorf("Up was called %d times for 24 connections", n)
		}
	})
}
