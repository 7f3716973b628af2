package proxy

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// quiet reports whether a socket is open and has nothing to read.
func quiet(fd int) bool {
	fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP}} //nolint:gosec // a descriptor
	n, err := unix.Poll(fds[:], 0)
	return n == 0 && err == nil
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

// hungUp reports whether the other side of a connection has closed it, or its
// sending half, also behind bytes that nobody has read yet. A full close and a
// half-close look the same from here.
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
		fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}} //nolint:gosec // a descriptor
		n, err := unix.Poll(fds[:], 0)
		hungUp = err == nil && n > 0 && fds[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
	})
	return hungUp || err != nil
}
