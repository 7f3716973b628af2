package loadtest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

var (
	errStray   = errors.New("the server sent an answer nobody asked for")
	errClosing = errors.New("the server closed the connection before answering")
	errBehind  = errors.New("the server closed the connection with its answer to a request before it")
	errAnswer  = errors.New("no answer in time")
)

// wire is one client's place for a connection, reopened when it breaks. One
// goroutine (keep) dials and reads; others write with send. What is unanswered
// when a connection ends has failed: nothing is sent twice.
type wire struct {
	run       *run
	first     int // which address to prefer
	addresses []string
	host      string
	dialed    chan error    // the first attempt's outcome
	window    chan struct{} // one element per unanswered request; nil: one request at a time, by run.free

	mu      sync.Mutex // guards what follows
	conn    net.Conn   // nil = down
	id      int64      // of conn
	up      chan struct{}
	pending []*Sent // unanswered on conn, in the order sent
	parked  bool    // belongs into run.free as soon as it is up
}

func (w *wire) free() chan *wire { return w.run.free[w.first%len(w.run.free)] }

func (w *wire) address(attempt int) string { return w.addresses[(w.first+attempt)%len(w.addresses)] }

// newWire makes one that is down. With a window, a settled request frees a place
// in it; without, it returns the wire to run.free.
func newWire(r *run, number int, addresses []string) *wire {
	w := &wire{run: r, first: number, addresses: addresses, up: make(chan struct{}), dialed: make(chan error, 1)}
	w.host = w.address(0)
	if r.onSchedule() {
		w.parked = true
	} else {
		w.window = make(chan struct{}, r.Depth)
	}
	return w
}

// keep holds a connection open until ctx ends.
func (w *wire) keep(ctx context.Context) {
	for first := true; ; first = false {
		conn, err := w.dial(ctx, first)
		if first {
			w.dialed <- err
		}
		if err != nil {
			return
		}
		w.open(ctx, conn)
		err = w.read(conn)
		w.close(conn, err)
	}
}

// dial tries the targets in turn until one answers or ctx ends, but only each
// once the first time.
func (w *wire) dial(ctx context.Context, first bool) (net.Conn, error) {
	backoff := 10 * time.Millisecond
	for attempt := 0; ; attempt++ {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		conn, err := w.run.Dial(ctx, w.address(attempt))
		switch {
		case err == nil:
			return conn, nil
		case (attempt+1)%len(w.addresses) != 0:
			continue
		case first:
			return nil, err
		}
		sleepUntil(ctx, time.Now().Add(backoff))
		backoff = min(2*backoff, time.Second)
	}
}

func (w *wire) open(ctx context.Context, conn net.Conn) {
	w.mu.Lock()
	w.conn = conn
	w.id = w.run.connections.Add(1)
	close(w.up)
	parked := w.parked
	w.parked = false
	if ctx.Err() != nil {
		conn.Close() // interrupt came before w.conn was there
	}
	w.mu.Unlock()
	if parked {
		w.free() <- w // has room for all wires
	}
}

// downLocked takes the connection away from senders. It needs w.mu.
func (w *wire) downLocked() {
	if w.conn != nil {
		w.conn = nil
		w.up = make(chan struct{})
	}
}

// close ends a connection and fails what was unanswered on it.
func (w *wire) close(conn net.Conn, reason error) {
	conn.Close()
	w.mu.Lock()
	w.downLocked()
	failed := w.pending
	w.pending = nil
	if w.window == nil && len(failed) > 0 {
		w.parked = true
	}
	w.mu.Unlock()
	for _, s := range failed {
		s.Err = reason.Error()
		w.run.settle(s)
		if w.window != nil {
			<-w.window
		}
	}
}

// interrupt makes the reader return.
func (w *wire) interrupt() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn != nil {
		w.conn.Close()
	}
}

// await returns true when the wire is up, false when ctx ended.
func (w *wire) await(ctx context.Context) bool {
	w.mu.Lock()
	up := w.up
	w.mu.Unlock()
	select {
	case <-up:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// send writes s in one piece, and reports false if the wire is down; then
// nothing was written and s is still the caller's. buffer is reused.
func (w *wire) send(s *Sent, key string, buffer []byte) ([]byte, bool) {
	buffer = w.run.appendRequest(buffer[:0], s, key, w.host)
	w.mu.Lock()
	conn := w.conn
	if conn == nil {
		w.parked = w.window == nil
		w.mu.Unlock()
		return buffer, false
	}
	s.Connection = w.id
	w.pending = append(w.pending, s)
	if len(w.pending) == 1 {
		conn.SetReadDeadline(time.Now().Add(w.run.Timeout))
	}
	w.run.unsettled.Add(1)
	w.run.sent.Add(1)
	s.SentAt = w.run.Clock.Now()
	w.mu.Unlock()

	conn.SetWriteDeadline(time.Now().Add(w.run.Timeout))
	// An error needs no report: the reader sees a broken connection too, and
	// what the server still answered before it broke is read.
	if _, err := conn.Write(buffer); isTimeout(err) {
		conn.Close()
	}
	return buffer, true
}

func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}

// read takes answers until the connection ends, and says why it did.
func (w *wire) read(conn net.Conn) error {
	br := bufio.NewReaderSize(conn, 16<<10)
	var response fasthttp.Response
	for {
		// Watching an idle connection shows its end before a request is lost on it.
		if _, err := br.Peek(1); err != nil {
			return plainReason(err)
		}
		w.mu.Lock()
		if len(w.pending) == 0 {
			w.mu.Unlock()
			w.run.stray.Add(1)
			return errStray
		}
		s := w.pending[0]
		w.mu.Unlock()

		response.Reset()
		response.SkipBody = s.Method == fasthttp.MethodHead
		if err := response.ReadLimitBody(br, answerBytesMax); err != nil {
			return plainReason(err)
		}
		s.AnsweredAt = w.run.Clock.Now()
		s.readAnswer(response.StatusCode(), string(response.Header.ContentType()), string(response.Header.Peek("Lanekeeper-Ticket")), response.Body())
		for _, value := range response.Header.PeekAll("Server-Timing") {
			s.readTimes([]string{string(value)})
		}

		closing := response.ConnectionClose()
		w.mu.Lock()
		w.pending = w.pending[1:]
		switch {
		case closing:
			w.downLocked()
			w.parked = w.parked || w.window == nil
		case len(w.pending) == 0:
			conn.SetReadDeadline(time.Time{})
		default:
			oldest := time.Duration(w.pending[0].SentAt - w.run.Clock.Now())
			conn.SetReadDeadline(time.Now().Add(oldest + w.run.Timeout))
		}
		w.mu.Unlock()
		w.run.settle(s)
		switch {
		case w.window != nil:
			<-w.window
		case !closing:
			w.free() <- w
		}
		if closing {
			return errBehind
		}
	}
}

func plainReason(err error) error {
	switch {
	case isTimeout(err):
		return errAnswer
	case errors.Is(err, io.EOF):
		return errClosing
	}
	return err
}

// readAnswer notes what the answer says about the request.
func (s *Sent) readAnswer(status int, contentType, ticket string, body []byte) {
	s.Status, s.Ticket = status, ticket
	switch {
	case strings.HasPrefix(contentType, "application/problem+json"):
		var problem struct{ Type, Instance, Executed string }
		if json.Unmarshal(body, &problem) == nil {
			s.Executed = problem.Executed
			s.Problem = strings.TrimPrefix(problem.Type, "urn:lanekeeper:problem:")
			if s.Ticket == "" {
				s.Ticket = strings.TrimPrefix(problem.Instance, "urn:uuid:")
			}
		}
	case bytes.HasPrefix(body, []byte(`{"client":`)): // a witness's
		var scratch [256]byte
		own := append(appendAnswer(scratch[:0], s.Client, s.Key, s.Seq), ',')
		s.Crossed = !bytes.HasPrefix(body, own)
	}
}

// readTimes notes where the proxy says that the time went: "lane;dur=12.4, upstream;dur=48.0",
// in milliseconds.
func (s *Sent) readTimes(values []string) {
	for _, value := range values {
		for metric := range strings.SplitSeq(value, ",") {
			name, dur, found := strings.Cut(strings.TrimSpace(metric), ";dur=")
			ms, err := strconv.ParseFloat(dur, 64)
			if !found || err != nil {
				continue
			}
			switch spent := time.Duration(ms * float64(time.Millisecond)); name {
			case "lane":
				s.Lane = spent
			case "upstream":
				s.Upstream = spent
			}
		}
	}
}
