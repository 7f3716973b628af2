package loadtest

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

var (
	errStopped = errors.New("stopped")
	errStarted = errors.New("already started")
)

// host runs a fasthttp.Server on one listener and owns every goroutine of it.
// The server's own Serve isn't used: it leaves a cleaner asleep for seconds,
// and its Shutdown waits for connections that never sent a byte.
type host struct {
	server fasthttp.Server
	quit   chan struct{} // closed when running handlers must give up

	mu       sync.Mutex // guards listener, conns, killed, and writing stopping
	listener net.Listener
	conns    map[net.Conn]struct{}
	killed   bool
	stopping atomic.Bool // read without mu after each request

	wg sync.WaitGroup // the accept loop and one goroutine per connection
}

func (h *host) init(handler fasthttp.RequestHandler) {
	h.quit = make(chan struct{})
	h.conns = make(map[net.Conn]struct{})
	h.server = fasthttp.Server{
		Handler: func(ctx *fasthttp.RequestCtx) {
			handler(ctx)
			if h.stopping.Load() {
				ctx.SetConnectionClose()
			}
		},
		ErrorHandler:                 h.refuse,
		Concurrency:                  connectionsMax,
		ReadBufferSize:               16 << 10,
		MaxRequestBodySize:           16 << 20,
		DisablePreParseMultipartForm: true,
		NoDefaultServerHeader:        true,
		NoDefaultDate:                true,
		NoDefaultContentType:         true,
		Logger:                       silent{},
		// No timeouts: stop interrupts an idle connection by a read deadline
		// in the past, which a timeout would overwrite.
	}
}

// refuse answers what could not be read. While stopping that is only a
// connection that stop interrupted: it gets no answer to what it never asked.
func (h *host) refuse(ctx *fasthttp.RequestCtx, err error) {
	if h.stopping.Load() {
		ctx.Conn().Close()
		return
	}
	status := fasthttp.StatusBadRequest
	if tooLong := (*fasthttp.ErrSmallBuffer)(nil); errors.As(err, &tooLong) {
		status = fasthttp.StatusRequestHeaderFieldsTooLarge
	} else if errors.Is(err, fasthttp.ErrBodyTooLarge) {
		status = fasthttp.StatusRequestEntityTooLarge
	}
	ctx.SetStatusCode(status)
	ctx.SetContentType("text/plain; charset=utf-8")
	ctx.SetBodyString(err.Error())
}

const connectionsMax = 16384 // of one witness or plain proxy

// silent drops fasthttp's log lines about clients that hung up.
type silent struct{}

func (silent) Printf(string, ...any) {}

// start serves ln, which it owns from now on, also if it fails.
func (h *host) start(ln net.Listener) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopping.Load() || h.listener != nil {
		ln.Close()
		if h.stopping.Load() {
			return errStopped
		}
		return errStarted
	}
	h.listener = ln
	h.wg.Go(func() { h.accept(ln) }) // ends when ln is closed
	return nil
}

func (h *host) accept(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			if h.stopping.Load() || errors.Is(err, net.ErrClosed) || err == io.EOF || !isTemporary(err) {
				return
			}
			time.Sleep(5 * time.Millisecond) // out of file descriptors, say
			continue
		}
		if !h.enter(conn) {
			conn.Close()
			return
		}
		// Ends when the connection does; stop interrupts it.
		h.wg.Go(func() {
			_ = h.server.ServeConn(conn) // closes conn; a client that hung up is no error of ours
			h.leave(conn)
		})
	}
}

func isTemporary(err error) bool {
	var temporary interface{ Temporary() bool }
	return errors.As(err, &temporary) && temporary.Temporary()
}

func (h *host) enter(conn net.Conn) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopping.Load() {
		return false
	}
	h.conns[conn] = struct{}{}
	return true
}

func (h *host) leave(conn net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.conns, conn)
}

// stop accepts nothing more, lets running requests be answered and closes their
// connections. When ctx ends first it closes them as they are and returns
// ctx's cause. Either way no goroutine is left.
func (h *host) stop(ctx context.Context) error {
	h.mu.Lock()
	if !h.stopping.Load() {
		h.stopping.Store(true)
		if h.listener != nil {
			h.listener.Close()
		}
		for conn := range h.conns {
			conn.SetReadDeadline(time.Unix(1, 0)) // an idle one ends now, a busy one after its answer
		}
	}
	h.mu.Unlock()

	done := make(chan struct{})
	go func() { // ends with the last connection, which both branches wait for
		h.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	h.mu.Lock()
	if !h.killed {
		h.killed = true
		close(h.quit)
	}
	for conn := range h.conns {
		conn.Close()
	}
	h.mu.Unlock()
	<-done
	return context.Cause(ctx)
}
