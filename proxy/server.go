package proxy

import (
	"cmp"
	"fmt"
	"log/slog"
	"math"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

// newServer sets every option that matters; what is not set has been looked at
// and is right.
func (p *Proxy) newServer() *fasthttp.Server {
	config := p.Config()
	return &fasthttp.Server{
		Handler:        p.serve,
		HeaderReceived: p.headReceived,
		ExpectHandler:  p.expects,
		ErrorHandler:   p.refuseUnread,
		ConnState:      p.connState,
		Logger:         serverLog{p.log},

		// Buffers are given back while a request waits, and a finished
		// response is never kept back until the next pipelined one is done.
		ReduceMemoryUsage:  true,
		ReadBufferSize:     config.MaxHeader,
		MaxRequestBodySize: config.MaxBody, // headReceived has the present one
		// The listener counts: it refuses with a problem, fasthttp with a line of
		// text.
		Concurrency:        math.MaxInt32,
		MaxRequestsPerConn: config.MaxRequestsPerConnection,

		ReadTimeout:  config.HeaderTimeout,                // of the body: headReceived
		IdleTimeout:  cmp.Or(config.IdleTimeout, forever), // 0 would mean the header's
		WriteTimeout: config.IdleTimeout,                  // a client takes its response within this
		TCPKeepalive: true,

		// The upstream's own stand, or nothing.
		NoDefaultServerHeader: true,
		NoDefaultDate:         true,
		NoDefaultContentType:  true,

		DisablePreParseMultipartForm: true, // a body is bytes
		CloseOnShutdown:              true,
		SecureErrorLogMessage:        true, // no bytes of requests in logs
	}
}

// connState counts the connections that are closed, and keeps those that are
// fasthttp's, for Stop. One that is taken over is counted when that is over.
func (p *Proxy) connState(conn net.Conn, state fasthttp.ConnState) {
	switch state {
	case fasthttp.StateNew:
		p.clients.add(conn)
	case fasthttp.StateActive:
		entryOf(conn).touch()
	case fasthttp.StateClosed:
		p.open.Add(-1)
		p.clients.remove(conn)
	case fasthttp.StateHijacked:
		p.clients.remove(conn)
	}
}

// clients are the connections that the server has.
type clients struct {
	mu    sync.Mutex // guards conns
	conns map[net.Conn]struct{}
}

func (s *clients) add(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[conn] = struct{}{}
}

func (s *clients) remove(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, conn)
}

// await waits until there are none left, but not for longer than d.
func (s *clients) await(d time.Duration) {
	for deadline := time.Now().Add(d); time.Now().Before(deadline) && s.count() > 0; {
		time.Sleep(5 * time.Millisecond)
	}
}

func (s *clients) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// close closes the connections, or only those that have not sent a byte.
func (s *clients) close(all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.conns {
		switch {
		case all:
			below(conn).Close() // no good-bye of TLS, which a full socket would hold up
		case !entryOf(conn).touched.Load():
			conn.Close()
		}
	}
}

// serverLog takes the lines fasthttp prints: about connections that broke, and
// heads that could not be parsed.
type serverLog struct{ log *slog.Logger }

func (l serverLog) Printf(format string, args ...any) {
	l.log.Debug(strings.TrimSpace(fmt.Sprintf(format, args...)))
}

// limitedListener refuses connections above MaxConnections, with an answer.
type limitedListener struct {
	net.Listener
	proxy *Proxy
	once  sync.Once
}

// Close may be called again, as both Stop and the server do.
func (l *limitedListener) Close() (err error) {
	l.once.Do(func() { err = l.Listener.Close() })
	return err
}

// listeners are those that Serve accepts from.
type listeners struct {
	mu     sync.Mutex // guards the rest
	open   []net.Listener
	closed bool
}

// add reports false if they have been closed.
func (l *listeners) add(listener net.Listener) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = append(l.open, listener)
	return !l.closed
}

func (l *listeners) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, listener := range l.open {
		listener.Close()
	}
}

func (l *listeners) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if !l.proxy.admits(conn) {
			conn.Close()
			continue
		}
		leave, ok := l.proxy.joins(conn)
		if !ok {
			l.proxy.refuseConnection(conn, fmt.Sprintf("the address has its %d connections", l.proxy.crowd.max))
			continue
		}
		if l.proxy.open.Add(1) <= int64(l.proxy.Config().MaxConnections) {
			return l.proxy.admit(l.proxy.dress(conn), leave), nil
		}
		l.proxy.open.Add(-1)
		leave()
		l.proxy.refuseConnection(conn, fmt.Sprintf("the node has its %d connections", l.proxy.Config().MaxConnections))
	}
}

// refuseConnection answers before anything is read. It never blocks: a new
// connection has room for so little. Below TLS the answer costs a handshake, for
// which others do not wait; when many are refused at once, some are not told why.
func (p *Proxy) refuseConnection(conn net.Conn, why string) {
	if p.Config().TLS == nil {
		p.sayRefused(conn, why)
		return
	}
	select {
	case p.refusing <- struct{}{}:
	default:
		conn.Close()
		return
	}
	leave := p.background.enter(conn)
	go func() { // ends with the deadline, or when stop closes conn
		defer func() { <-p.refusing }()
		defer leave()
		conn := p.dress(conn)
		conn.SetDeadline(time.Now().Add(refusalTime)) //nolint:errcheck // a dead connection fails the handshake
		p.sayRefused(conn, why)
	}()
}

const (
	refusalsMax = 64
	refusalTime = 2 * time.Second
)

func (p *Proxy) sayRefused(conn net.Conn, why string) {
	var response fasthttp.Response
	problem := overloaded.because(why)
	problem.write(&response, document{})
	response.SetConnectionClose()
	p.metrics.refused(problem)
	conn.SetWriteDeadline(time.Now().Add(refusalTime)) //nolint:errcheck // a dead connection fails the write
	response.WriteTo(conn)                             //nolint:errcheck // best effort
	conn.Close()
}
