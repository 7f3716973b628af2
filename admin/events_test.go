package admin

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener without buffers: what nobody reads, nobody can write.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { close(p.done); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// eventServer is the admin API in a bubble, with a journal.
type eventServer struct {
	t       *testing.T
	journal *Journal
	log     *slog.Logger
	pipes   *pipes
	server  *http.Server
}

// inBubble runs a test with a server of its own, that lives by virtual time.
func inBubble(t *testing.T, test func(t *testing.T, s *eventServer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &eventServer{t: t, journal: NewJournal("lk-0"), pipes: &pipes{make(chan net.Conn), make(chan struct{})}}
		s.log = slog.New(s.journal.Handler(slog.DiscardHandler))
		s.server = &http.Server{Handler: Handler(local, &threeNodes{journal: s.journal}, slog.New(slog.DiscardHandler))} //nolint:gosec // nobody is slow
		served := make(chan error)
		go func() { served <- s.server.Serve(s.pipes) }()
		test(t, s)
		s.server.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}

// say logs n events, and reports how long that took.
func (s *eventServer) say(n int) time.Duration {
	began := time.Now()
	for i := range n {
		s.log.Info("changed", "event", "view-changed", "n", i)
	}
	return time.Since(began)
}

// reader is one that follows.
type reader struct {
	t        *testing.T
	conn     net.Conn
	response *http.Response
	lines    *bufio.Reader
}

// follow asks for a stream and reads its head.
func (s *eventServer) follow(query, header string) *reader {
	s.t.Helper()
	client, server := net.Pipe()
	s.t.Cleanup(func() { client.Close() })
	s.pipes.conns <- server
	fmt.Fprintf(client, "GET /api/v1/events%s HTTP/1.1\r\nHost: localhost\r\nAccept: text/html, text/event-stream;q=0.9\r\n%s\r\n", query, header)
	response, err := http.ReadResponse(bufio.NewReader(client), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	r := &reader{s.t, client, response, bufio.NewReader(response.Body)}
	if response.StatusCode == http.StatusOK {
		if kind := response.Header.Get("Content-Type"); kind != "text/event-stream" || response.Header.Get("Cache-Control") != "no-store" {
			s.t.Errorf("got %v", response.Header)
		}
		if have := r.next(); have != "retry: 2000" {
			s.t.Errorf("begins with %q", have)
		}
	}
	return r
}

// next is the next message, with / in the place of line breaks; empty at the end.
func (r *reader) next() string {
	r.t.Helper()
	var message []string
	for {
		line, err := r.lines.ReadString('\n')
		switch line = strings.TrimSuffix(line, "\n"); {
		case err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
			r.t.Fatal(err)
		case err != nil || line == "":
			return strings.Join(message, "/")
		default:
			message = append(message, line)
		}
	}
}

// want expects a message, and heartbeats before it.
func (r *reader) want(texts ...string) {
	r.t.Helper()
	have := r.next()
	for have == ":" && texts[0] != ":" {
		have = r.next()
	}
	for _, text := range texts {
		if !strings.Contains(have, text) {
			r.t.Errorf("got %s, which does not hold %s", have, text)
		}
	}
}

// Mutants killed: a new reader gets no event of before; Last-Event-ID is not looked at,
// or counts less than since; limit is not looked at; there is no heartbeat.
func TestStreamOfEvents(t *testing.T) {
	inBubble(t, func(t *testing.T, s *eventServer) {
		first := s.journal.first
		s.say(3)
		r := s.follow("", "")
		r.want(fmt.Sprintf(`id: %d/event: view-changed/data: {"id":%d,"time":"2000-01-01T`, first, first), `"node":"lk-0","event":"view-changed","message":"changed","attributes":{"n":0}}`)
		r.want(`{"n":1}`)
		r.want(`{"n":2}`)
		began := time.Now()
		r.want(":")
		if took := time.Since(began); took != Heartbeat {
			t.Errorf("a heartbeat after %v", took)
		}
		s.log.Warn("hostile", "event", "key-hot", "key", "a\nid: 7\r\n\ndata: x")
		r.want(fmt.Sprintf("id: %d/event: key-hot/data: {", first+3), `a\nid: 7\r\n\ndata: x`)

		s.follow(fmt.Sprintf("?since=%d", first), "").want(`{"n":1}`)
		s.follow("?limit=1", "").want(`"key-hot"`)
		s.follow(fmt.Sprintf("?since=%d", first), fmt.Sprintf("Last-Event-ID: %d\r\n", first+1)).want(`{"n":2}`)
		s.follow("", "Last-Event-ID: x\r\n").want(`{"n":0}`)
		quiet := s.follow("?limit=0", "")
		s.log.Info("new", "event", "started")
		quiet.want(`"new"`)
	})
}

// Mutants killed: the logger waits for a reader; missed is not told, or not counted.
func TestLaggingReaderIsTold(t *testing.T) {
	inBubble(t, func(t *testing.T, s *eventServer) {
		r := s.follow("", "")
		s.say(1)
		r.want(`{"n":0}`)
		const more = 3 * journalEvents
		if took := s.say(more); took > 0 {
			t.Errorf("the logger waited for %v", took)
		}
		// One write may have been under way when the reader fell asleep.
		seen, missed, last := 0, 0, s.journal.next-1
		for seen+missed < more {
			message := r.next()
			var id uint64
			var n int
			switch {
			case strings.HasPrefix(message, "event: missed"):
				fmt.Sscanf(message, `event: missed/data: {"missed":%d}`, &n)
				missed += n
			default:
				fmt.Sscanf(message, "id: %d", &id)
				seen++
			}
			if n == 0 && id == 0 {
				t.Fatalf("got %q", message)
			}
			if id == last && seen+missed != more {
				t.Fatalf("%d seen and %d missed of %d", seen, missed, more)
			}
		}
		if missed < more-journalEvents-2*streamBatch || s.journal.dropped.Load() != uint64(missed) { //nolint:gosec // not negative
			t.Errorf("%d seen, %d missed, counted %d", seen, missed, s.journal.dropped.Load())
		}
	})
}

// Mutants killed: no deadline for writing; one for the whole stream; the place of a
// stream is not given back.
func TestStuckReaderIsDropped(t *testing.T) {
	inBubble(t, func(t *testing.T, s *eventServer) {
		var all []*reader
		for range streamsMax {
			all = append(all, s.follow("", ""))
		}
		refused := s.follow("", "")
		if body, _ := io.ReadAll(refused.lines); refused.response.StatusCode != 503 || refused.response.Header.Get("Retry-After") != "5" || !strings.Contains(string(body), "problem:too-many-streams") {
			t.Errorf("got %d, %v, %s", refused.response.StatusCode, refused.response.Header, body)
		}
		lively := all[0]
		for range 10 { // for longer than a reader may be stuck
			time.Sleep(streamWrite / 5)
			s.say(1)
			lively.want(`{"n":0}`)
		}
		synctest.Wait()
		for range streamsMax - 1 { // the places of all that read nothing
			if r := s.follow("?limit=0", ""); r.response.StatusCode != 200 {
				t.Fatalf("got %d: the place of one that reads nothing is taken still", r.response.StatusCode)
			}
		}
		if r := s.follow("?limit=0", ""); r.response.StatusCode != 503 {
			t.Errorf("got %d: the lively one was dropped, too", r.response.StatusCode)
		}
	})
}

// A node that ends waits for nobody who watches it do so; they hear what there is.
//
// Mutants killed: End does not end streams; it ends them before they have told all.
func TestStreamsEndWithTheJournal(t *testing.T) {
	inBubble(t, func(t *testing.T, s *eventServer) {
		r := s.follow("", "")
		synctest.Wait()
		s.log.Info("drained", "event", "drain-done")
		s.journal.End()
		stopped := make(chan error)
		began := time.Now()
		go func() { stopped <- s.server.Shutdown(t.Context()) }()
		r.want("drain-done")
		if have := r.next(); have != "" {
			t.Errorf("got %q after the end", have)
		}
		r.conn.Close()
		// Shutdown looks from time to time.
		if err := <-stopped; err != nil || time.Since(began) > time.Second {
			t.Errorf("%v, after %v", err, time.Since(began))
		}
		s.journal.End() // twice is once
	})
}
