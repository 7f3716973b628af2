package proxy

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/pires/go-proxyproto"
)

// admits says whether a connection may say anything. Under ProxyRequired only
// trusted proxies connect.
func (p *Proxy) admits(conn net.Conn) bool {
	if p.Config().ProxyProtocol != ProxyRequired || p.setup.Load().trusts(addrOf(conn.RemoteAddr())) {
		return true
	}
	p.stranger(conn, errors.New("the address is not among server.trusted_proxies"))
	return false
}

// announces reports whether conn is one on which a trusted proxy may say whose it is.
func (p *Proxy) announces(conn net.Conn) bool {
	return p.Config().ProxyProtocol != ProxyNone && p.setup.Load().trusts(addrOf(conn.RemoteAddr()))
}

// joins counts a connection for its address, but for those of which it is not known yet
// who the client is.
func (p *Proxy) joins(conn net.Conn) (leave func(), ok bool) {
	if p.announces(conn) {
		return func() {}, true
	}
	return p.crowd.join(conn.RemoteAddr())
}

// dress puts onto a socket what is spoken on it below HTTP. Nothing is read or
// written yet: a client that is slow with it keeps nobody else waiting.
//
// The lazy deadlines are at the bottom, as a connection of TLS is broken once
// an expired deadline has interrupted one of its writes.
func (p *Proxy) dress(conn net.Conn) net.Conn {
	conn = newClientConn(conn)
	if p.announces(conn) {
		conn = &proxiedConn{Conn: conn, proxy: p}
	}
	if p.Config().TLS != nil {
		conn = tls.Server(conn, p.Config().TLS)
	}
	return conn
}

// below is the socket that carries a connection.
func below(conn net.Conn) net.Conn {
	for {
		above, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return conn
		}
		conn = above.NetConn()
	}
}

// stranger tells of a connection that the rules for the PROXY protocol refuse, at
// most once a minute: anybody can cause it.
func (p *Proxy) stranger(conn net.Conn, why error) {
	count, now, last := p.strangers.count.Add(1), time.Now().UnixNano(), p.strangers.said.Load()
	if last != 0 && now-last < int64(time.Minute) || !p.strangers.said.CompareAndSwap(last, now) {
		return
	}
	p.strangers.count.Add(-count)
	p.log.Warn("connections are refused by server.proxy_protocol", "why", why.Error(), "remote", below(conn).RemoteAddr().String(), "since_last", count)
}

// strangers are the connections that stranger was told of.
type strangers struct {
	count atomic.Int64 // since the log's last line
	said  atomic.Int64 // when that was, in Unix nanoseconds
}

// proxiedConn is a connection from a trusted proxy, which says in a header of
// the PROXY protocol, version 1 or 2, whose it is. The header is read when the
// server first reads, under its deadline for the head of a request.
//
// https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt
type proxiedConn struct {
	net.Conn
	proxy *Proxy

	greeted bool     // the header has been read, or there is none
	err     error    // it was refused
	client  net.Addr // nil: the proxy speaks for itself
	rest    []byte   // that was read behind the header

	leave atomic.Pointer[func()] // the client's crowd; nil: it is in none
}

// headerRead is enough for the usual header in one read.
const headerRead = 512

// Read implements net.Conn.
func (c *proxiedConn) Read(b []byte) (int, error) {
	if !c.greeted {
		c.greeted, c.err = true, c.greet()
	}
	if c.err != nil {
		return 0, c.err
	}
	if len(c.rest) > 0 {
		n := copy(b, c.rest)
		if c.rest = c.rest[n:]; len(c.rest) == 0 {
			c.rest = nil
		}
		return n, nil
	}
	return c.Conn.Read(b)
}

func (c *proxiedConn) greet() error {
	reader := bufio.NewReaderSize(c.Conn, headerRead)
	header, err := proxyproto.Read(reader)
	switch {
	case errors.Is(err, proxyproto.ErrNoProxyProtocol) && c.proxy.Config().ProxyProtocol == ProxyOptional:
	case isTimeout(err):
		return err
	case err != nil && reader.Buffered() == 0 && errors.Is(err, proxyproto.ErrNoProxyProtocol):
		return net.ErrClosed // it came and went, as probes do
	case err != nil:
		err = fmt.Errorf("the PROXY header: %w", err)
		c.proxy.stranger(c, err)
		return err
	case header.Command.IsProxy():
		var ok bool
		if c.client, ok = header.SourceAddr.(*net.TCPAddr); !ok {
			c.client = addressless // on a Unix socket, say: it must not be taken for the proxy, which is trusted
		}
	}
	c.rest, _ = reader.Peek(reader.Buffered())
	return c.join()
}

// join counts the connection for its client. Above the limit it is closed, and the client
// is not told why: nobody has asked anything yet.
func (c *proxiedConn) join() error {
	if c.client == nil || c.client == net.Addr(addressless) {
		return nil
	}
	leave, ok := c.proxy.crowd.join(c.client)
	if !ok {
		err := fmt.Errorf("the address %s has its %d connections", addrOf(c.client), c.proxy.crowd.max)
		c.proxy.stranger(c, err)
		return err
	}
	c.leave.Store(&leave)
	return nil
}

// Close implements net.Conn.
func (c *proxiedConn) Close() error {
	if leave := c.leave.Swap(nil); leave != nil {
		(*leave)()
	}
	return c.Conn.Close()
}

var addressless = &net.TCPAddr{IP: net.IPv4zero}

// RemoteAddr is the client's address once the header has been read.
func (c *proxiedConn) RemoteAddr() net.Addr {
	if c.client != nil {
		return c.client
	}
	return c.Conn.RemoteAddr()
}

// CloseWrite ends our half of the connection.
func (c *proxiedConn) CloseWrite() error {
	half, ok := c.Conn.(halfCloser)
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}

// NetConn is the connection below.
func (c *proxiedConn) NetConn() net.Conn { return c.Conn }
