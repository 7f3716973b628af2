package upstream

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"
)

// source is an entry of Config.Targets, and the targets that it stands for.
type source struct {
	address Address
	targets []*Target

	known    bool   // the first lookup is done
	failing  bool   // the last lookup failed
	failures uint64 // lookups that failed
}

// follow looks a name up again and again.
func (u *Upstream) follow(s *source) {
	for {
		addresses, err := u.lookUp(s)
		if u.life.Err() != nil {
			return
		}
		next := u.DNSRefresh
		if !u.found(s, addresses, err) {
			next = min(next, time.Second) // there is nothing to go on with
		}
		if !sleep(u.life, jitter(next)) {
			return
		}
	}
}

// lookUp finds the addresses of both families.
func (u *Upstream) lookUp(s *source) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(u.life, max(u.ConnectTimeout, time.Second))
	defer cancel()
	host, _, _ := net.SplitHostPort(s.address.Host)
	var resolver Resolver = net.DefaultResolver
	if u.Resolver != nil {
		resolver = u.Resolver
	}
	addresses, err := resolver.LookupNetIP(ctx, "ip", host)
	if err == nil && len(addresses) == 0 {
		err = errors.New("the name has no address")
	}
	for i := range addresses {
		addresses[i] = addresses[i].Unmap()
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	return slices.Compact(addresses), err
}

// found makes addresses the targets of s. An address that was there stays as it is; one that
// is gone takes no more requests, and ends those that it has. A failed lookup changes nothing:
// a name server that is away says nothing about the service. It reports whether s has targets.
func (u *Upstream) found(s *source, addresses []netip.Addr, err error) bool {
	u.mu.Lock()
	first := !s.known
	if s.known = true; first {
		u.unknown--
	}
	failed := err != nil
	if failed {
		s.failures++
	}
	news := failed != s.failing
	s.failing = failed
	var conns []Conn
	if !failed {
		conns = u.replace(s, addresses, first)
	}
	u.admit()
	some := len(s.targets) > 0
	u.mu.Unlock()
	closeAll(conns)
	name := "dns+" + s.address.scheme() + s.address.Host
	switch {
	case news && failed:
		u.log.Warn("a name of an upstream cannot be looked up; its last addresses stay", "event", "upstream-lookup", "target", name, "error", err)
	case news:
		u.log.Info("a name of an upstream can be looked up again", "event", "upstream-lookup", "target", name)
	}
	return some
}

// replace returns the connections to be closed.
func (u *Upstream) replace(s *source, addresses []netip.Addr, first bool) (conns []Conn) {
	_, port, _ := net.SplitHostPort(s.address.Host)
	old := s.targets
	s.targets = nil
	for _, a := range addresses {
		at := s.address
		at.Dial, at.Lookup = net.JoinHostPort(a.String(), port), false
		name := at.scheme() + at.Dial
		i := slices.IndexFunc(old, func(t *Target) bool { return t.Name == name })
		if i >= 0 {
			s.targets = append(s.targets, old[i])
			continue
		}
		t := newTarget(u, name, at)
		if !first {
			t.warming = time.Now()
		}
		s.targets = append(s.targets, t)
		u.watch(t)
	}
	for _, t := range old {
		if !slices.Contains(s.targets, t) {
			t.gone = true
			conns = t.drop(conns)
			if t.ignore != nil {
				t.ignore()
			}
		}
	}
	u.gather()
	return conns
}

// gather makes the targets of all sources those of the upstream.
func (u *Upstream) gather() {
	u.targets = nil // whoever reads the old ones goes on
	for _, s := range u.sources {
		u.targets = append(u.targets, s.targets...)
	}
	u.version++
}

// jitter is d, a tenth more or less, so that nodes that start together do not ask together.
func jitter(d time.Duration) time.Duration {
	return d - d/10 + time.Duration(rand.Int64N(int64(d/5)+1)) //nolint:gosec // no secret
}

// sleep reports whether d has passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
