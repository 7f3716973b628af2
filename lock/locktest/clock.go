package locktest

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// clockSource is what a server loads before its C library. libfaketime won't do: the
// memory allocator that Debian's redis-server has asks for the time as libfaketime asks
// for memory, before either is ready, and the two wait for each other.
const clockSource = `
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *shift; // ns; 0 before begin, and then the machine's time it is

__attribute__((constructor)) static void begin(void) {
	int fd = open(getenv("LOCKTEST_CLOCK"), O_RDONLY);
	void *at = fd < 0 ? MAP_FAILED : mmap(0, sizeof *shift, PROT_READ, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED) _exit(99);
	close(fd);
	shift = at;
}

int clock_gettime(clockid_t id, struct timespec *t) {
	int failed = syscall(SYS_clock_gettime, id, t);
	if (!failed && shift && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
		int64_t ns = t->tv_sec * 1000000000LL + t->tv_nsec + *shift;
		t->tv_sec = ns / 1000000000;
		t->tv_nsec = ns % 1000000000;
	}
	return failed;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone) {
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	t->tv_sec = now.tv_sec;
	t->tv_usec = now.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *t) {
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	if (t) *t = now.tv_sec;
	return now.tv_sec;
}
`

// Clock is the wall clock of one server. Its monotonic clock is the machine's, as it is
// where somebody sets a clock.
type Clock struct {
	t    testing.TB
	file *os.File // how far it is ahead, in ns; the server has it mapped
	by   time.Duration
}

// Shift sets the clock forward, or back if d is negative. The server sees it at once.
func (c *Clock) Shift(d time.Duration) {
	c.t.Helper()
	c.by += d
	if _, err := c.file.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(c.by)), 0); err != nil { //nolint:gosec // its bits
		c.t.Fatal(err)
	}
}

// RedisWithClock is Redis with a clock of its own, which survives Kill and Start.
func RedisWithClock(t testing.TB, args ...string) (*Server, *Clock) {
	t.Helper()
	need(t, "redis-server")
	need(t, "gcc")
	if runtime.GOOS != "linux" {
		missing(t, "a loader that puts a library before the system's own, as Linux has it,")
	}
	dir := t.TempDir()
	source, library, shift := filepath.Join(dir, "clock.c"), filepath.Join(dir, "clock.so"), filepath.Join(dir, "shift")
	write(t, source, clockSource)
	if out, err := exec.Command("gcc", "-O1", "-shared", "-fPIC", "-o", library, source).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	write(t, shift, "\x00\x00\x00\x00\x00\x00\x00\x00")
	file, err := os.OpenFile(shift, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	s := newRedis(t, args)
	s.env = []string{"LD_PRELOAD=" + library, "LOCKTEST_CLOCK=" + shift}
	s.begin()
	return s, &Clock{t: t, file: file}
}
