//go:build !linux

package proxy

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// quiet reports whether a socket is open and has nothing to read.
func quiet(fd int) bool {
	_, err := peek(fd)
	return errors.Is(err, syscall.EAGAIN)
}

// writable reports whether a connection takes a few bytes at once.
func writable(conn net.Conn) (writable bool) {
	if tls, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = tls.NetConn()
	}
	c, ok := conn.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	err = raw.Control(func(fd uintptr) {
		fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}} //nolint:gosec // a descriptor
		n, err := unix.Poll(fds[:], 0)
		writable = err == nil && n > 0 && fds[0].Revents == unix.POLLOUT
	})
	return writable && err == nil
}

// hungUp reports whether the other side of a connection has closed it. Without
// Linux's POLLRDHUP a close behind unread bytes is not seen.
func hungUp(conn net.Conn) (hungUp bool) {
	c, ok := below(conn).(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	err = raw.Control(func(fd uintptr) {
		n, err := peek(int(fd))
		hungUp = err == nil && n == 0 || errors.Is(err, syscall.ECONNRESET)
	})
	return hungUp || err != nil
}

func peek(fd int) (int, error) {
	var b [1]byte
	n, _, err := syscall.Recvfrom(fd, b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	return n, err
}
