package proxy

import "time"

// past is a deadline that has passed.
var past = time.Unix(1, 0)

// sendSecure is sendLarge over TLS, where a write that was interrupted could not go on. So
// it goes on while the upstream's side is looked at, and is interrupted if that has spoken,
// when nobody wants the rest.
func (c *call) sendSecure(body []byte) error {
	w := c.link.wire
	longer := w.read.longer
	w.read.longer = nil // or a look at a request whose time is up would last
	defer func() {
		w.read.longer = longer
		w.SetReadDeadline(c.deadline) //nolint:errcheck // a dead connection fails the read
	}()
	var err error
	var sending task
	sending.start(func() { _, err = w.Write(body) })
	tick := time.NewTicker(watchWrite)
	defer tick.Stop()
	for {
		select {
		case <-sending.done:
			return err
		case <-tick.C:
		}
		if !c.spokenBelow() {
			continue
		}
		w.SetWriteDeadline(past) //nolint:errcheck // a dead connection fails the write
		if sending.wait(); err == nil {
			return nil
		}
		return errSpoke
	}
}

// spokenBelow is spoken over TLS, in which not all that comes is the upstream's.
func (c *call) spokenBelow() bool {
	r, w := c.link.reader, c.link.wire
	for {
		until := past // TLS may hold what the socket does not any more
		if !w.silent() {
			until = time.Now().Add(ticketTime)
		}
		w.SetReadDeadline(until) //nolint:errcheck // a dead connection fails the read
		b, err := r.Peek(len("HTTP/1.1 1xx"))
		w.SetReadDeadline(c.deadline) //nolint:errcheck // as above
		switch {
		case isTimeout(err):
			return false // what there is of an answer will be more the next time
		case err != nil, b[len(b)-3] != '1', string(b[len(b)-3:]) == "101", c.receiveInterim() != nil:
			return true
		}
	}
}
