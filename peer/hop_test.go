package peer

import (
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestHopOrder sends closely spaced requests of a few keys and looks at the
// order in which they ran.
func TestHopOrder(t *testing.T) {
	ingress, owner := pair(t, nil)
	send(t, ingress, 5000, func(i int) int { return 100 * (i % 3) })
	checkRan(t, owner.log, 5000)
}

// TestHopLargeBodies has every tenth body travel apart.
func TestHopLargeBodies(t *testing.T) {
	ingress, owner := pair(t, nil)
	send(t, ingress, 500, func(i int) int {
		if i%10 == 0 {
			return inlineMax + 100000
		}
		return 10
	})
	checkRan(t, owner.log, 500)
}

// TestReconnectKeepsOrder breaks connections while requests are sent: those that
// have a ticket are none the worse, and nothing runs twice.
func TestReconnectKeepsOrder(t *testing.T) {
	ingress, owner := pair(t, nil)
	broken := 0
	send(t, ingress, 5000, func(i int) int {
		if i%300 == 299 {
			ingress.conns.Range(func(c, _ any) bool {
				c.(net.Conn).Close() //nolint:errcheck // it may have ended
				ingress.conns.Delete(c)
				broken++
				return true
			})
		}
		return 10
	})
	if broken < 10 {
		t.Errorf("only %d connections were broken", broken)
	}
	checkRan(t, owner.log, 5000)
}

// window is how many requests send has on their way at most.
const window = 200

// send sends requests of a few keys, closely spaced, with bodies of the given
// lengths, and expects an echo for each.
func send(t testing.TB, n *testNode, count int, body func(i int) int) {
	t.Helper()
	ended := make([]chan struct{}, count)
	errors := make([]string, count)
	for i := range count {
		if i >= window {
			<-ended[i-window]
		}
		key, size := fmt.Sprint("order:", i%7), body(i)
		c := NewCall(i%7, noLocal{}, testRequest(key, size), time.Now().Add(10*time.Second))
		n.hop.Send(c)
		ended[i] = make(chan struct{})
		go func() {
			defer close(ended[i])
			want := fmt.Sprintf("%s %d", key, size)
			if !c.Wait(time.Now().Add(20 * time.Second)) {
				errors[i] = "no answer"
			} else if got := string(c.Response.Body); got != want {
				errors[i] = fmt.Sprintf("got %q (%s %s), want %q", got, c.Response.Problem, c.Response.Detail, want)
			}
		}()
	}
	failed := 0
	for i := range count {
		if <-ended[i]; errors[i] == "" {
			continue
		}
		if failed++; failed <= 5 {
			t.Errorf("request %d: %s", i, errors[i])
		}
	}
}

func checkRan(t testing.TB, log *ranLog, want int) {
	t.Helper()
	log.mu.Lock()
	defer log.mu.Unlock()
	total := 0
	for key, ids := range log.ran {
		total += len(ids)
		for i := 1; i < len(ids); i++ {
			if ids[i-1].String() >= ids[i].String() {
				t.Fatalf("%s: ticket %s ran after %s", key, ids[i], ids[i-1])
			}
		}
	}
	if total != want || log.overlap > 0 {
		t.Errorf("%d ran, %d beside another; want %d and 0", total, log.overlap, want)
	}
}

// processorTime is what this process has used: on a machine with others, the only
// figure that can be compared.
func processorTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u) //nolint:errcheck // it can't fail
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkHop sends requests of 1 KiB over loopback, both ends in this process,
// from 64 goroutines that each wait for their answer.
func BenchmarkHop(b *testing.B) {
	for _, secure := range []bool{false, true} {
		b.Run(fmt.Sprintf("tls=%v", secure), func(b *testing.B) {
			ingress, _ := pair(b, func(c *Config) {
				if secure {
					var err error
					if c.TLS, err = SecretTLS([][]byte{[]byte("a secret of thirty-two bytes. ok")}); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.ReportAllocs()
			began := processorTime()
			defer func() { b.ReportMetric(float64(processorTime()-began)/float64(b.N), "cpu-ns/op") }()
			var n atomic.Int64
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				key := fmt.Sprint("order:", n.Add(1))
				for pb.Next() {
					c := NewCall(3, noLocal{}, testRequest(key, 1024), time.Now().Add(10*time.Second))
					ingress.hop.Send(c)
					if !c.Wait(time.Now().Add(10*time.Second)) || c.Response.Problem != "" {
						b.Errorf("no answer: %+v", c.Response)
						return
					}
				}
			})
		})
	}
}
