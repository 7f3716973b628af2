package proxy

import (
	"cmp"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

// newServer sets every option that matters; what is not set has been looked at
// and is right.
func (p *Proxy) newServer() *fasthttp.Server {
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
		ReadBufferSize:     p.config.MaxHeader,
		MaxRequestBodySize: p.config.MaxBody,
		// One limit more than ours: the listener refuses with a problem,
		// fasthttp with a line of text.
		Concurrency:        p.config.MaxConnections + 1,
		MaxRequestsPerConn: p.config.MaxRequestsPerConnection,

		ReadTimeout:  p.config.HeaderTimeout,                // of the body: headReceived
		IdleTimeout:  cmp.Or(p.config.IdleTimeout, forever), // 0 would mean the header's
		WriteTimeout: p.config.IdleTimeout,                  // a client takes its response within this
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

func (s *clients) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.conns {
		conn.Close()
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
}

func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.proxy.open.Add(1) <= int64(l.proxy.config.MaxConnections) {
			return newClientConn(conn), nil
		}
		l.proxy.open.Add(-1)
		l.proxy.refuseConnection(conn)
	}
}

// refuseConnection answers before anything is read. It never blocks: a new
// connection has room for so little.
func (p *Proxy) refuseConnection(conn net.Conn) {
	var response fasthttp.Response
	problem := overloaded.because(fmt.Sprintf("the node has its %d connections", p.config.MaxConnections))
	problem.write(&response, document{})
	response.SetConnectionClose()
	p.metrics.refused(problem)
	conn.SetWriteDeadline(time.Now().Add(time.Second)) //nolint:errcheck // a dead connection fails the write
	response.WriteTo(conn)                             //nolint:errcheck // best effort
	conn.Close()
}
