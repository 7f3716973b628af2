package proxy

import (
	"errors"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// errStale says that the upstream has ended an idle connection, or has said something on it,
// and that nothing was sent.
var errStale = errors.New("the connection was closed, or not silent")

// asking is a request's first write. Where the connection is a socket, it is looked at, written
// to, and waited for in one go, which spares two system calls of each request: a look of its
// own, and a read of what cannot be there yet.
//
// Both need what net.Conn has no words for: whoever waits for a socket first says "tell me of
// what comes from now on", and then has to look whether something was there before. Here the
// look is the one at the idle connection, which is due anyway; what is written after it can
// only be answered later, and that answer is told.
type asking struct {
	step       func(fd uintptr) (done bool) // take
	look       bool                         // first whether the connection is open, and silent
	head, body []byte
	over       bool  // there has been a look, or a write
	n          int   // bytes that were written
	err        error // that kept the rest from being so
	peek       [1]byte
}

// take is called once, and once more when something has come.
func (a *asking) take(fd uintptr) (done bool) {
	if a.over {
		return true
	}
	a.over = true
	if a.look {
		if _, err := ignoringEINTR(int(fd), a.peek[:]); err != syscall.EAGAIN { //nolint:errorlint // straight from the system
			a.err = errStale
			return true
		}
	}
	a.n, a.err = a.write(int(fd))
	return a.n < len(a.head)+len(a.body) || !a.look // or nobody would be told of what came before
}

// write writes what the socket takes. A large body goes with its head: each write of its own
// would wake the service.
func (a *asking) write(fd int) (n int, err error) {
	for {
		if len(a.body) == 0 {
			n, err = syscall.Write(fd, a.head)
		} else {
			n, err = unix.SendmsgBuffers(fd, [][]byte{a.head, a.body}, nil, nil, 0)
		}
		switch err {
		case syscall.EINTR:
		case nil:
			return n, nil
		case syscall.EAGAIN:
			return 0, nil
		default:
			return 0, os.NewSyscallError("write", err)
		}
	}
}

// ask sends a request, as much of it as goes at once, and returns what of the body does not. A
// connection that was idle, and that nobody has looked at, may turn out to be stale; if it is
// not, and nothing is left to be sent, ask has waited until there is something to read, or
// until reading will tell why there is not.
func (w *wire) ask(head, body []byte) (rest []byte, err error) {
	if w.raw == nil || w.secure != nil {
		if w.unseen && !w.Usable() {
			return body, errStale
		}
		_, err := w.Write(head)
		return body, err
	}
	a := &w.asking
	idle := w.unseen
	*a = asking{step: a.step, look: idle, head: head, body: body}
	w.unseen = false
	err = w.raw.Read(a.step)
	for !a.over && w.read.premature(err) { // of a request before this one
		err = w.raw.Read(a.step)
	}
	if a.over {
		err = a.err // another tells of the wait, and so will who reads
	}
	n := a.n
	a.over, a.head, a.body = true, nil, nil
	w.sent += n
	switch {
	case err != nil && idle && !isTimeout(err):
		return body, errStale
	case err != nil:
		return body, &net.OpError{Op: "write", Net: "tcp", Source: w.LocalAddr(), Addr: w.RemoteAddr(), Err: err}
	case n < len(head):
		_, err := w.Write(head[n:])
		return body, err
	}
	return body[n-len(head):], nil
}
