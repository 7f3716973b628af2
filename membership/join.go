package membership

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	joinPause     = 500 * time.Millisecond // after the first failed look at the seeds
	joinPauseMax  = 5 * time.Second
	complainAfter = 5 * time.Second // of looking in vain; doubles each time
	complainMax   = 5 * time.Minute
	resolveTime   = 5 * time.Second // for all seeds
	joinsAtOnce   = 3
	reasonsMax    = 5 // named in a message
	lookSoonest   = time.Second
	lookers       = 5 // members of a large cluster that look, on average, each time
)

// joinLoop looks for the cluster until there is company, and from then on goes
// back to the seeds, and to where members died, for ever: only that makes one
// cluster of a split that healed, for gossip forgets the other half after half
// a minute. After a death it looks more often for a while: most splits are
// short, and while one lasts both sides do the same work.
func (m *Membership) joinLoop() {
	if len(m.seeds) > 0 {
		m.joinFirst()
		m.problem.Store(nil)
	}
	for m.wait(jitter(m.nextLook()), m.death) {
		// In a large cluster not everybody: a node that is back should not have
		// to talk to hundreds at once.
		if _, members := m.state(); rand.N(max(members, lookers)) >= lookers {
			continue
		}
		addresses, _ := m.candidates()
		m.tryEach(addresses[:min(len(addresses), joinsAtOnce)])
	}
}

// nextLook is half as long as the last death is past, and at most Rejoin.
func (m *Membership) nextLook() time.Duration {
	last, _ := m.state()
	if last.IsZero() {
		return m.config.Rejoin
	}
	return min(max(time.Since(last)/2, lookSoonest), m.config.Rejoin)
}

// state returns when a member died last, and how many incarnations live.
func (m *Membership) state() (lastDeath time.Time, members int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lastDeath, len(m.table.live)
}

// joinFirst returns when another node is alive, or seeds are not wanted any more.
func (m *Membership) joinFirst() {
	started := time.Now()
	pause, complaint := joinPause, complainAfter
	waiting := m.config.JoinTimeout > 0 // for it to pass
	first := true
	for {
		addresses, problems := m.candidates()
		own := len(addresses)+len(problems) == 0
		if own {
			problems = []string{"they hold no address but this node's own"}
		}
		if first {
			m.mu.Lock()
			m.sought = addresses
			m.mu.Unlock()
		}
		refused := false
		for batch := range slices.Chunk(addresses, joinsAtOnce) {
			for _, f := range m.tryEach(m.unknown(batch)) {
				refused = refused || f.refused
				problems = append(problems, f.String())
			}
			// Company may be a newcomer too: the first time it is no reason to stop.
			if first && m.accompanied() {
				m.tryEach(m.unknown(addresses))
			}
			if m.accompanied() || m.seek.Err() != nil {
				break
			}
		}
		if first {
			first = false
			close(m.looked)
		}
		if m.accompanied() || m.seek.Err() != nil {
			return
		}
		looked := time.Since(started)
		problem := complain(problems, looked)
		m.problem.Store(&problem)
		// Nobody there is a reason to begin alone. Somebody who speaks and is
		// not of this cluster is none: two clusters would do the same work.
		if waiting && !refused && (own || !m.config.Wary) && looked >= m.config.JoinTimeout {
			waiting = false
			close(m.alone)
			m.relay.say(slog.LevelWarn, "going on alone: "+problem)
		} else if looked >= complaint {
			m.relay.say(slog.LevelWarn, problem)
		}
		for complaint <= looked {
			complaint += min(complaint, complainMax)
		}
		next := jitter(pause)
		if waiting && !refused && looked < m.config.JoinTimeout {
			next = min(next, m.config.JoinTimeout-looked)
		}
		pause = min(2*pause, joinPauseMax)
		if !m.wait(next, m.company) || m.accompanied() {
			return
		}
	}
}

// unknown returns the addresses where no live member is.
func (m *Membership) unknown(addresses []netip.AddrPort) []netip.AddrPort {
	m.mu.Lock()
	defer m.mu.Unlock()
	known := make(map[string]bool, len(m.table.live))
	for _, e := range m.table.live {
		known[e.node.GossipAddress] = true
	}
	return slices.DeleteFunc(slices.Clone(addresses), func(a netip.AddrPort) bool { return known[a.String()] })
}

// complain makes one sentence of what is wrong with the seeds.
func complain(problems []string, looked time.Duration) string {
	if more := len(problems) - reasonsMax; more > 0 {
		problems = append(problems[:reasonsMax:reasonsMax], fmt.Sprintf("and %d more", more))
	}
	return fmt.Sprintf("no other member was found through the seeds for %v: %s", looked.Round(time.Second), strings.Join(problems, "; "))
}

// candidates are the addresses worth joining, in random order: those of the
// seeds, as they resolve now, and those of members that died, without those of
// live members. problems are the seeds that cannot be resolved.
func (m *Membership) candidates() (addresses []netip.AddrPort, problems []string) {
	ctx, cancel := context.WithTimeout(m.seek, resolveTime)
	defer cancel()
	addresses, problems = resolveAll(ctx, m.config.Resolver, m.seeds)

	m.mu.Lock()
	addresses = append(addresses, m.lost.since(time.Now().Add(-lostFor))...)
	known := make(map[string]bool, len(m.table.live))
	for _, e := range m.table.live {
		known[e.node.GossipAddress] = true
	}
	m.mu.Unlock()

	slices.SortFunc(addresses, netip.AddrPort.Compare)
	addresses = slices.Compact(addresses)
	own := m.own()
	addresses = slices.DeleteFunc(addresses, func(a netip.AddrPort) bool { return own(a) || known[a.String()] })
	rand.Shuffle(len(addresses), func(i, j int) { addresses[i], addresses[j] = addresses[j], addresses[i] })
	return addresses, problems
}

// own returns what tells this node's own addresses: a seed is often a name for
// all members.
func (m *Membership) own() func(netip.AddrPort) bool {
	var local []netip.Addr
	if m.bound.IsValid() && m.bound.Addr().IsUnspecified() {
		addresses, _ := net.InterfaceAddrs() // without them, joining oneself is only in vain
		for _, a := range addresses {
			if prefix, err := netip.ParsePrefix(a.String()); err == nil {
				local = append(local, prefix.Addr().Unmap())
			}
		}
	}
	return func(a netip.AddrPort) bool {
		return a == m.advertised || a == m.bound ||
			len(local) > 0 && a.Port() == m.bound.Port() && (a.Addr().IsUnspecified() || slices.Contains(local, a.Addr()))
	}
}

// failure is an address that could not be joined.
type failure struct {
	address netip.AddrPort
	why     string
	refused bool // somebody is there and does not belong here, or we do not
}

func (f failure) String() string { return f.address.String() + ": " + f.why }

// tryEach joins all of addresses at once and returns those that failed.
func (m *Membership) tryEach(addresses []netip.AddrPort) []failure {
	failures := make([]failure, len(addresses))
	var wg sync.WaitGroup
	for i, a := range addresses {
		// Ends with the stream's deadline, or when the transport is shut down.
		wg.Go(func() { failures[i] = m.try(a) })
	}
	wg.Wait()
	return slices.DeleteFunc(failures, func(f failure) bool { return f.why == "" })
}

// try exchanges members with whoever is at address.
func (m *Membership) try(address netip.AddrPort) failure {
	_, err := m.list.Join([]string{address.String()})
	if err == nil {
		if !m.accompanied() {
			// Through an address that own cannot know, a balancer's for example.
			return failure{address: address, why: "it is this node itself"}
		}
		return failure{}
	}
	why := err.Error()
	if _, rest, found := strings.Cut(why, "failed to join "+address.String()+": "); found {
		why = strings.TrimSpace(rest)
	}
	m.relay.say(slog.LevelDebug, "join failed", "address", address.String(), "error", why)
	switch {
	case strings.Contains(why, refusedMark):
		return failure{address, "it does not fit this node: " + after(why, refusedMark), true}
	case strings.Contains(why, "crypt"):
		// All of memberlist's errors of encryption, of either side.
		return failure{address, "it has another gossip key, or one of both has none", true}
	case strings.Contains(why, "EOF"), strings.Contains(why, "reset by peer"):
		return failure{address: address, why: "it hangs up: it belongs to a cluster of another name, or is no lanekeeper"}
	}
	return failure{address: address, why: why}
}

// wait pauses for d, or until early has something to say, and reports whether seeds are
// still wanted.
func (m *Membership) wait(d time.Duration, early <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-early:
	case <-m.seek.Done():
	}
	return m.seek.Err() == nil
}

// jitter spreads d over half to one and a half of it, so that members that
// started together do not act together.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d) }
