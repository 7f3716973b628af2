package locktest

import "testing"

// TestServers starts, kills and starts again each kind of server.
func TestServers(t *testing.T) {
	for name, start := range map[string]func() []*Server{
		"redis":       func() []*Server { return []*Server{Redis(t)} },
		"etcd":        func() []*Server { return Etcd(t, 1) },
		"etcd 3":      func() []*Server { return Etcd(t, 3) },
		"zookeeper":   func() []*Server { return ZooKeeper(t, 1) },
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
