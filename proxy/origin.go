package proxy

import (
	"bytes"
	"encoding/hex"
	"net/netip"

	"lanekeeper/queue"
)

// Where a request comes from is told to the lanes with it, so that an operator who looks at
// a lane sees who waits. It is written before the ticket is taken, and stays until the turn ends.

// comesFrom is a request's that came to this node.
func (c *call) comesFrom() *queue.Origin {
	c.origin = queue.Origin{Client: c.client()}
	if value := c.fields.trace; value != nil {
		c.origin.Trace, _ = traceOf(value)
	}
	return &c.origin
}

// cameFrom is a forwarded request's. Its ingress has written the client's address into the head
// for the upstream, unless its configuration says otherwise.
func (c *call) cameFrom(ingress string, head []byte) *queue.Origin {
	c.origin = queue.Origin{Ingress: ingress}
	if chain := lineOf(head, "\r\nX-Forwarded-For: "); chain != nil {
		last := chain[bytes.LastIndexByte(chain, ',')+1:]
		c.origin.Client, _ = netip.ParseAddr(string(bytes.TrimSpace(last)))
	}
	c.origin.Trace, _ = traceOf(lineOf(head, "\r\nTraceparent: "))
	return &c.origin
}

// lineOf is the value of the first line of a head that begins so, or nil.
func lineOf(head []byte, name string) []byte {
	at := bytes.Index(head, []byte(name))
	if at < 0 {
		return nil
	}
	value, _, _ := bytes.Cut(head[at+len(name):], []byte("\r\n"))
	return value
}

// traceOf is the trace-id of a traceparent (W3C Trace Context, section 3.2).
func traceOf(value []byte) (id [16]byte, ok bool) {
	const from, to = 3, 3 + 32
	if len(value) < to+1 || value[from-1] != '-' || value[to] != '-' {
		return id, false
	}
	if _, err := hex.Decode(id[:], value[from:to]); err != nil {
		return [16]byte{}, false
	}
	return id, id != [16]byte{}
}
