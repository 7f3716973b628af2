package main

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// notifySocket is what systemd listens at.
type notifySocket struct {
	t    *testing.T
	conn *net.UnixConn
}

// listenNotify makes this process, and those that it starts, believe that systemd has
// started them, with a watchdog.
func listenNotify(t *testing.T, watchdog time.Duration) *notifySocket {
	t.Helper()
	dir, err := os.MkdirTemp("", "notify") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	name := filepath.Join(dir, "socket")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", name)
	t.Setenv("WATCHDOG_USEC", strconv.FormatInt(watchdog.Microseconds(), 10))
	return &notifySocket{t, conn}
}

// next is the next thing that is told; ok is false if there is none for so long.
func (s *notifySocket) next(within time.Duration) (fields map[string]string, ok bool) {
	s.t.Helper()
	s.conn.SetReadDeadline(time.Now().Add(max(within, time.Millisecond))) // what is there is read in any case
	buffer := make([]byte, 4096)
	n, err := s.conn.Read(buffer)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, false
	}
	if err != nil {
		s.t.Fatal(err)
	}
	fields = map[string]string{}
	for line := range strings.SplitSeq(string(buffer[:n]), "\n") {
		name, value, found := strings.Cut(line, "=")
		if _, twice := fields[name]; !found || twice {
			s.t.Errorf("told %q", buffer[:n])
		}
		fields[name] = value
	}
	return fields, true
}

// until reads on until a field is told, with a value if one is given, and returns what was
// told with it. What must not be told before is not.
func (s *notifySocket) until(name, value string, not ...string) map[string]string {
	s.t.Helper()
	for deadline := time.Now().Add(startTime); ; {
		fields, ok := s.next(time.Until(deadline))
		if !ok || time.Now().After(deadline) {
			s.t.Fatalf("%s=%s is not told", name, value)
		}
		for _, wrong := range not {
			if _, told := fields[wrong]; told {
				s.t.Errorf("%s is told before %s: %v", wrong, name, fields)
			}
		}
		if have, told := fields[name]; told && (value == "" || value == have) {
			return fields
		}
	}
}

func monotonicMicroseconds(t *testing.T) int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	return now.Nano() / 1000
}

// A whole process, from its start to its end, and somebody who listens as systemd does.
//
// Mutants: READY comes before the ports are open, or not at all; a reload that is refused
// is not followed by READY; RELOADING carries the time of day; a status is told but once;
// STOPPING comes after the drain; it asks for no more time than systemd has.
func TestSystemdHearsOfAProcess(t *testing.T) {
	manager := listenNotify(t, 2*time.Second)
	u := newHoldingUpstream(t)
	file := filepath.Join(t.TempDir(), "lanekeeper.yaml")
	text := strings.Replace(reloadable, "http://127.0.0.1:1", u.URL, 1) + "log: {level: warn}\n"
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	writeFile(t, file, strings.Replace(text, `server: {listen: "127.0.0.1:0"}`, `server: {listen: "`+taken.Addr().String()+`"}`, 1))
	if code := launch(t, file).wait(); code != exitFailure {
		t.Errorf("exit code %d, at a port that is another's", code)
	}
	if fields, told := manager.next(0); told {
		t.Errorf("a process that could not start tells %v", fields)
	}
	writeFile(t, file, strings.Replace(text, "level: warn", "level: info", 1))
	p := launch(t, file)
	line := p.log("serving")
	address := "http://" + line["listen"].(string)
	manager.until("READY", "1", "STOPPING", "RELOADING")

	running := post(address+"/orders/7/a", "a")
	u.next(t)
	waiting := post(address+"/orders/7/b", "b")
	manager.until("STATUS", "members=1 queued=1")
	manager.until("WATCHDOG", "1")
	manager.until("WATCHDOG", "1")

	reload := func() {
		t.Helper()
		before := monotonicMicroseconds(t)
		p.signal(syscall.SIGHUP)
		at, err := strconv.ParseInt(manager.until("RELOADING", "1", "READY")["MONOTONIC_USEC"], 10, 64)
		if after := monotonicMicroseconds(t); err != nil || at < before || at > after {
			t.Errorf("the reload began at %d, %v; the signal was sent at %d, and now it is %d", at, err, before, after)
		}
		manager.until("READY", "1", "RELOADING")
	}
	reload()
	writeFile(t, file, text+"nonsense: 1\n")
	reload()
	manager.until("STATUS", "members=1 queued=1 reload=refused")
	writeFile(t, file, text)
	reload()
	manager.until("STATUS", "members=1 queued=1")

	p.signal(syscall.SIGTERM) // while two requests are there
	stopping := manager.until("STOPPING", "1", "READY")
	if micros, err := strconv.ParseInt(stopping["EXTEND_TIMEOUT_USEC"], 10, 64); err != nil || micros < (25*time.Second).Microseconds() {
		t.Errorf("it asks for %v to drain in", stopping)
	}
	for _, answer := range []<-chan string{running, waiting} {
		u.release <- struct{}{}
		if a := <-answer; !strings.HasPrefix(a, "200 ") {
			t.Error(a)
		}
	}
	if code := p.wait(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

// A node whose lanes stand still, since somebody keeps the lock of one part of them, does
// not feed the watchdog, though all else of it goes on: it answers, and would tell of a
// timer. When they move again it does.
//
// Mutant: a ticker of its own feeds it.
func TestTheWatchdogIsFedByTheLanesAlone(t *testing.T) {
	const watchdog = 200 * time.Millisecond
	manager := listenNotify(t, watchdog)
	file := filepath.Join(t.TempDir(), "lanekeeper.yaml")
	writeFile(t, file, reloadable)
	config, report := Load(LoadOptions{File: file})
	if report.Errors() > 0 {
		t.Fatal(report.Problems)
	}
	nodeConfig, err := config.nodeConfig()
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	nodeConfig.source, nodeConfig.manager = configSource{config: config, level: new(slog.LevelVar)}, newServiceManager(log)
	n, err := startNode(nodeConfig, log)
	if err != nil {
		t.Fatal(err)
	}
	now := make(chan struct{})
	close(now)
	defer n.stop(now)
	manager.until("WATCHDOG", "1")
	manager.until("WATCHDOG", "1")

	// Nobody but a bug can make the lanes stand still, so the test takes a lock that is not
	// for others to take.
	shard := reflect.ValueOf(n.lanes).Elem().FieldByName("shards").Index(7)
	mu := (*sync.Mutex)(unsafe.Pointer(shard.FieldByName("mu").UnsafeAddr()))
	mu.Lock()
	release := sync.OnceFunc(mu.Unlock)
	defer release() // before the stop, which needs it
	fed := 0
	for _, told := manager.next(5 * watchdog); told; _, told = manager.next(5 * watchdog) {
		if fed++; fed > 1 { // by a look that was on its way
			t.Fatal("it is fed while the lanes stand still")
		}
	}
	response, err := http.Get("http://" + n.address("observe") + "/livez")
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, response.Body)
	response.Body.Close()
	release()
	manager.until("WATCHDOG", "1")
}

// Who was not started by systemd tells nobody anything, and does not fail.
func TestNobodyWantsToHear(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	m := newServiceManager(slog.New(slog.DiscardHandler))
	if m != nil {
		t.Fatal("somebody does")
	}
	m.ready()
	m.reloading()
	m.looked("members=1 queued=0")
	m.stopping(time.Second)
	if m.every(time.Minute) != time.Minute {
		t.Error("it looks at the lanes at other times than usual")
	}
}
