package locktest

import (
	"fmt"
	"net"
	"testing"
	"time"
)

// TestServers starts, kills and starts again each kind of server.
func TestServers(t *testing.T) {
	for name, start := range map[string]func() []*Server{
		"redis":       func() []*Server { return []*Server{Redis(t)} },
		"etcd":        func() []*Server { return Etcd(t, 1) },
		"etcd 3":      func() []*Server { return Etcd(t, 3) },
		"zookeeper":   func() []*Server { return ZooKeeper(t, 1) },
		"postgres":    func() []*Server { return []*Server{Postgres(t)} },
		"zookeeper 3": func() []*Server { return ZooKeeper(t, 3) },
	} {
		t.Run(name, func(t *testing.T) {
			servers := start()
			servers[0].Kill()
			servers[0].Start()
			for _, s := range servers {
				s.Kill()
			}
		})
	}
}

// TestClock: a server has the clock that a test sets, at once, and after it was started
// again.
//
// Mutants: the library is not loaded; Shift does not add up.
func TestClock(t *testing.T) {
	s, clock := RedisWithClock(t)
	ahead := func(want time.Duration) {
		t.Helper()
		conn, err := net.Dial("tcp", s.Address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience)) //nolint:errcheck // then it does not answer
		var length, at int64
		fmt.Fprint(conn, "TIME\r\n") //nolint:errcheck // then it does not answer
		if _, err := fmt.Fscanf(conn, "*2\r\n$%d\r\n%d\r\n", &length, &at); err != nil {
			t.Fatal(err)
		}
		if got := time.Until(time.Unix(at, 0)); (got - want).Abs() > 5*time.Second {
			t.Errorf("its clock is ahead by %v, not %v", got, want)
		}
	}
	ahead(0)
	clock.Shift(time.Hour)
	ahead(time.Hour)
	clock.Shift(-3 * time.Hour)
	ahead(-2 * time.Hour)
	s.Kill()
	s.Start()
	ahead(-2 * time.Hour)
}
