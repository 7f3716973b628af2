//go:build linux

package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// wires is a second network, by which the nodes reach each other and nobody else: every
// packet on it, of gossip and of the hop, passes through this process, which knows for
// each direction of each pair of nodes what the network does to it. It works on IP
// packets, so what it loses, TCP sends again, and no protocol need be understood.
type wires struct {
	devices  []*os.File
	queues   [][]chan packet // by sender and receiver: what is to arrive late, in order
	waiting  [][]atomic.Int64
	troubles atomic.Pointer[[]*trouble]
	mu       sync.Mutex // guards changes of troubles
	ended    chan struct{}
	work     sync.WaitGroup

	dropped, delayed, twice, passed atomic.Int64
}

// trouble is what the network does to packets in one direction for a while.
type trouble struct {
	from, to int
	cut      bool          // nothing arrives
	until    time.Time     // nothing arrives before that time; then all does, in order. Zero: at once
	delay    time.Duration // everything is that late, in order
	lose     float64       // shares of datagrams that are lost, doubled, and as late as up to jitter, out of order
	double   float64
	disorder float64
	jitter   time.Duration
}

type packet struct {
	data []byte
	due  time.Time
}

// wireMTU lets a frame of the hop be few packets.
const wireMTU = 9000

// wiresMax is how many late packets of one direction are kept. What comes after them is
// lost, as in any router.
const wiresMax = 4096

func wireAddress(i int) string { return fmt.Sprintf("10.78.0.%d", i+1) }

// newWires lays them to all hosts of a network.
func newWires(t testing.TB, n *network) *wires {
	t.Helper()
	w := &wires{ended: make(chan struct{})}
	w.troubles.Store(&[]*trouble{})
	t.Cleanup(func() {
		close(w.ended)
		for _, device := range w.devices {
			device.Close()
		}
		w.work.Wait()
	})
	for i, host := range n.hosts {
		device, err := openTun(n, host)
		if errors.Is(err, os.ErrNotExist) && os.Getenv("CI") == "" {
			t.Skip("this system has no /dev/net/tun")
		}
		if err != nil {
			t.Fatal(err)
		}
		w.devices = append(w.devices, device)
		n.ip(host, "addr add "+wireAddress(i)+"/24 dev wire")
		n.ip(host, fmt.Sprintf("link set wire up mtu %d", wireMTU))
	}
	for range n.hosts {
		var queues []chan packet
		for range n.hosts {
			queues = append(queues, make(chan packet, wiresMax))
		}
		w.queues = append(w.queues, queues)
		w.waiting = append(w.waiting, make([]atomic.Int64, len(n.hosts)))
	}
	for i := range n.hosts {
		w.work.Go(func() { w.read(i) }) // ends with the device
		for j := range n.hosts {
			w.work.Go(func() { w.deliver(i, j) }) // ends with w.ended
		}
	}
	return w
}

// openTun makes a device in a host, of which this process has the other end.
func openTun(n *network, host string) (file *os.File, err error) {
	err = n.in(host, func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
		}
		request, err := unix.NewIfreq("wire")
		if err == nil {
			request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
		}
		if err != nil {
			unix.Close(fd)
			return fmt.Errorf("TUNSETIFF: %w", err)
		}
		file = os.NewFile(uintptr(fd), "wire")
		return nil
	})
	return file, err
}

func (w *wires) read(from int) {
	buffer := make([]byte, 1<<16)
	for {
		n, err := w.devices[from].Read(buffer)
		if err != nil {
			return
		}
		const ipv4, headerBytes = 4, 20
		if n < headerBytes || buffer[0]>>4 != ipv4 {
			continue // what hosts ask of IPv6 routers
		}
		if to := int(buffer[19]) - 1; to >= 0 && to < len(w.devices) && to != from {
			w.carry(from, to, buffer[:n])
		}
	}
}

// carry brings a packet to its receiver, or does not.
func (w *wires) carry(from, to int, data []byte) {
	var late time.Duration
	var until time.Time
	copies, disorder := 1, time.Duration(0)
	for _, t := range *w.troubles.Load() {
		if t.from != from || t.to != to {
			continue
		}
		if t.cut {
			w.dropped.Add(1)
			return
		}
		late = max(late, t.delay)
		if t.until.After(until) {
			until = t.until
		}
		if data[9] != unix.IPPROTO_UDP {
			continue
		}
		switch draw := rand.Float64(); {
		case draw < t.lose:
			w.dropped.Add(1)
			return
		case draw < t.lose+t.double:
			copies = 2
			w.twice.Add(1)
		case draw < t.lose+t.double+t.disorder:
			disorder = time.Duration(rand.Int64N(int64(t.jitter)))
		}
	}
	if disorder > 0 {
		w.delayed.Add(1)
		data = slices.Clone(data)
		w.work.Add(1)
		time.AfterFunc(disorder, func() { defer w.work.Done(); w.write(to, data) })
		return
	}
	for range copies {
		if late == 0 && until.IsZero() && w.waiting[from][to].Load() == 0 {
			w.passed.Add(1)
			w.write(to, data)
			continue
		}
		due := time.Now().Add(late)
		if until.After(due) {
			due = until
		}
		w.waiting[from][to].Add(1)
		select {
		case w.queues[from][to] <- packet{slices.Clone(data), due}:
			w.delayed.Add(1)
		default:
			w.waiting[from][to].Add(-1)
			w.dropped.Add(1)
		}
	}
}

func (w *wires) deliver(from, to int) {
	for {
		select {
		case p := <-w.queues[from][to]:
			if wait := time.Until(p.due); wait > 0 {
				select {
				case <-time.After(wait):
				case <-w.ended:
					return
				}
			}
			w.write(to, p.data)
			w.waiting[from][to].Add(-1)
		case <-w.ended:
			return
		}
	}
}

// write hands a packet to a host. One whose queue is full loses it.
func (w *wires) write(to int, data []byte) { w.devices[to].Write(data) } //nolint:errcheck // networks lose packets

// suffer begins troubles, and returns what ends them.
func (w *wires) suffer(troubles ...*trouble) (end func()) {
	change := func(f func(all []*trouble) []*trouble) {
		w.mu.Lock()
		defer w.mu.Unlock()
		all := f(slices.Clone(*w.troubles.Load()))
		w.troubles.Store(&all)
	}
	change(func(all []*trouble) []*trouble { return append(all, troubles...) })
	return func() {
		change(func(all []*trouble) []*trouble {
			return slices.DeleteFunc(all, func(t *trouble) bool { return slices.Contains(troubles, t) })
		})
	}
}
