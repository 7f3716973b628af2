package membership

import (
	"log/slog"
	"slices"
	"time"

	"lanekeeper/ring"
)

// kick tells publishLoop that the table has changed. It never blocks.
func (m *Membership) kick() {
	select {
	case m.kicked <- struct{}{}:
	default:
	}
}

// publishLoop turns what the table says into views. The first one waits for
// company, or for the decision to go on without (promise 1).
func (m *Membership) publishLoop() {
	alone, looked, seen, ready := m.alone, m.looked, false, false
	var settle, forget <-chan time.Time
	// A seed may be silent for long.
	patience := time.NewTimer(lookMax)
	defer patience.Stop()
	for {
		changed := false
		select {
		case <-m.ctx.Done():
			return
		case <-alone:
			alone, ready, changed = nil, true, true
		case <-looked:
			looked = nil
			ready, changed = ready || seen, seen
		case <-patience.C:
			looked = nil
			ready, changed = ready || seen, seen
		case <-m.kicked:
			if !seen && m.accompanied() {
				seen = true
				close(m.company)
			}
			if looked != nil && m.foundAll() {
				looked = nil
			}
			ready = ready || seen && looked == nil
			changed = ready
		case <-settle:
			settle = nil
			forget = m.publish()
		case <-forget:
			forget = m.publish()
		}
		// The first change opens the window, and later ones do not prolong it:
		// a death waits for Settle at most, whoever else comes and goes.
		if changed && settle == nil {
			settle = time.After(m.config.Settle)
		}
	}
}

// lookMax is how long a node that has company waits for the rest of the seeds. Two
// newcomers that find each other first would make a cluster of their own.
const lookMax = 3 * time.Second

// foundAll reports whether there is a live member at every seed.
func (m *Membership) foundAll() bool {
	m.mu.Lock()
	sought := m.sought
	m.mu.Unlock()
	return len(sought) > 0 && len(m.unknown(sought)) == 0
}

// accompanied reports whether another node is alive.
func (m *Membership) accompanied() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for member := range m.table.live {
		if member.Name != m.config.Self.Name {
			return true
		}
	}
	return false
}

// publish makes the present table the view, and returns when to call it again
// for somebody to be forgotten.
func (m *Membership) publish() (forget <-chan time.Time) {
	m.mu.Lock()
	m.table.forget(time.Now().Add(-m.config.ForgetAfter))
	members, dead := m.table.members(), m.table.dead(true)
	m.mu.Unlock()

	before := m.View()
	next := *before
	next.Dead = dead
	// Whoever was declared dead and refuted it within the window is the same
	// member, though gossip counts its life anew.
	changed := before.Version == 0 || !slices.EqualFunc(members, before.Members, func(a, b Node) bool {
		a.Since = b.Since
		return a == b
	})
	if changed {
		next.Version++
		next.Members = members
		next.Enough = len(members) >= m.config.MinMembers
		next.Ring = m.ringOver(members, before.Ring)
		next.changed = make(chan struct{})
	}
	m.view.Store(&next)
	if changed {
		m.logChange(before, &next)
		close(before.changed)
	}
	if len(dead) == 0 {
		return nil
	}
	return time.After(time.Until(dead[len(dead)-1].Since.Add(m.config.ForgetAfter)))
}

// ringOver returns the ring of the active members, the one there is if they
// are the same.
func (m *Membership) ringOver(members []Node, before *ring.Ring) *ring.Ring {
	var active []ring.Member
	for _, n := range members {
		if n.State == Active {
			active = append(active, n.Member)
		}
	}
	if slices.Equal(active, before.Members()) {
		return before
	}
	r, err := ring.New(m.config.Layout, active)
	if err != nil {
		m.relay.say(slog.LevelError, "the ring cannot be built, the last one is kept", "error", err)
		return before
	}
	return r
}

// logChange tells what became of whom.
func (m *Membership) logChange(before, now *View) {
	for _, n := range now.Members {
		was, known := before.Member(n.Name)
		switch {
		case !known:
			m.relay.say(slog.LevelInfo, "member joined", "event", "member-joined", "member", n.Member.String(), "state", n.State.String(), "gossip", n.GossipAddress, "peer", n.PeerAddress)
		case was.Incarnation != n.Incarnation:
			m.relay.say(slog.LevelInfo, "member is back in another incarnation", "event", "member-returned", "member", n.Member.String(), "state", n.State.String(), "gossip", n.GossipAddress, "peer", n.PeerAddress)
		case was.State != n.State:
			m.relay.say(slog.LevelInfo, "member is "+n.State.String(), "event", "member-changed", "member", n.Member.String(), "state", n.State.String())
		}
		if n.Name == m.config.Self.Name && n.Incarnation != m.config.Self.Incarnation {
			m.relay.sayOnce(n.Member.String(), slog.LevelError, "another live node has this node's name and a later incarnation, and takes its place: give each node a name of its own",
				"event", "name-taken", "member", n.Member.String(), "gossip", n.GossipAddress)
		}
	}
	for _, n := range before.Members {
		if _, alive := now.Member(n.Name); alive {
			continue
		}
		if i := slices.IndexFunc(now.Dead, func(d Node) bool { return d.Member == n.Member }); i >= 0 && now.Dead[i].State == Left {
			m.relay.say(slog.LevelInfo, "member left", "event", "member-left", "member", n.Member.String())
			continue
		}
		m.relay.say(slog.LevelWarn, "member died", "event", "member-died", "member", n.Member.String(), "gossip", n.GossipAddress)
	}
	if before.Enough && !now.Enough {
		m.relay.say(slog.LevelError, "too few members are alive", "event", "members-too-few", "members", len(now.Members), "min_members", m.config.MinMembers)
	}
	if before.Version > 0 && !before.Enough && now.Enough {
		m.relay.say(slog.LevelInfo, "enough members are alive", "event", "members-enough", "members", len(now.Members), "min_members", m.config.MinMembers)
	}
	m.relay.say(slog.LevelInfo, "view changed", "event", "view-changed", "version", now.Version, "members", len(now.Members), "active", len(now.Ring.Members()))
}
