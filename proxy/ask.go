package proxy

import (
	"errors"
	"net"
	"os"
	"syscall"
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
	step  func(fd uintptr) (done bool) // take
	look  bool                         // first whether the connection is open, and silent
	waits bool                         // for the answer
	b     []byte                       // nil: it is done
	n     int                          // bytes of it that were written
	err   error                        // that kept all of them from being so
	peek  [1]byte
}

// take is called once, and once more when something has come.
func (a *asking) take(fd uintptr) (done bool) {
	if a.b == nil {
		return true
	}
	b := a.b
	a.b = nil
	if a.look {
		if _, err := ignoringEINTR(int(fd), a.peek[:]); err != syscall.EAGAIN { //nolint:errorlint // straight from the system
			a.err = errStale
			return true
		}
	}
	a.n, a.err = writing(int(fd), b)
	return !a.waits || a.n < len(b)
}

func writing(fd int, b []byte) (int, error) {
	for {
		switch n, err := syscall.Write(fd, b); err {
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

// ask sends the first bytes of a request. If they are all of it, and it was sent whole, it
// returns when there is something to read, or when reading will tell why there is not. A
// connection that was idle, and that nobody has looked at, may turn out to be stale.
func (w *wire) ask(b []byte, waits bool) error {
	if w.raw == nil || w.secure != nil {
		if w.unseen && !w.Usable() {
			return errStale
		}
		_, err := w.Write(b)
		return err
	}
	a := &w.asking
	idle := w.unseen
	a.look, a.waits, a.b, a.n, a.err = idle, waits, b, 0, nil
	w.unseen = false
	err := w.raw.Read(a.step)
	for a.b != nil && w.read.premature(err) { // of a request before this one
		err = w.raw.Read(a.step)
	}
	if a.b == nil {
		err = a.err // another tells of the wait, and so will who reads
	}
	a.b = nil
	w.sent += a.n
	switch {
	case err != nil && idle && !isTimeout(err):
		return errStale
	case err != nil:
		return &net.OpError{Op: "write", Net: "tcp", Source: w.LocalAddr(), Addr: w.RemoteAddr(), Err: err}
	case a.n < len(b):
		_, err := w.Write(b[a.n:])
		return err
	}
	return nil
}
