package proxy

import (
	"bytes"
	"slices"
	"strings"
)

// Which lane a request is in is said by the first route that matches. So the rule of a
// space is its routes, in their order, and those before them that may take requests which
// would otherwise come to them. It is compared as it is written: two ways to say the same
// are two rules.

// spaces are those of the routes whose requests wait for each other.
func (s *setup) spaces() (names []string) {
	for _, r := range s.routes {
		if r.lanes() && !slices.Contains(names, r.Key.Space) {
			names = append(names, r.Key.Space)
		}
	}
	return names
}

// lanes reports whether any request of the route waits for others.
func (r *route) lanes() bool { return r.keyed && r.Lane.Mode != Observe }

// keysAs reports whether every request that either setup would put into a lane of the
// space is put into the same one by the other.
func (s *setup) keysAs(other *setup, space string) bool {
	a, b := s.ruleOf(space), other.ruleOf(space)
	if !slices.EqualFunc(a, b, func(x, y *route) bool { return sameRule(x, y, space) }) {
		return false
	}
	of := func(has func(*route) bool) bool {
		return slices.ContainsFunc(a, func(r *route) bool { return r.in(space) && has(r) })
	}
	switch {
	case of(func(r *route) bool { return r.Key.Missing == MissingClientIP }) && !slices.Equal(s.config.TrustedProxies, other.config.TrustedProxies):
		return false // who the client is depends on whom one believes
	case of(func(r *route) bool { return r.issues }) && !other.config.Sessions.honours(s.config.Sessions):
		return false
	}
	return true
}

// changed are the spaces whose requests other finds lanes for by another rule.
func (s *setup) changed(other *setup) (names []string) {
	for _, space := range s.spaces() {
		if !s.keysAs(other, space) {
			names = append(names, space)
		}
	}
	return names
}

// in reports whether requests of the route wait in lanes of the space.
func (r *route) in(space string) bool { return r.lanes() && r.Key.Space == space }

// ruleOf is the routes on which it depends what comes into lanes of the space.
func (s *setup) ruleOf(space string) (rule []*route) {
	for i, r := range s.routes {
		if r.in(space) || slices.ContainsFunc(s.routes[i+1:], func(later *route) bool { return later.in(space) && r.meets(later) }) {
			rule = append(rule, r)
		}
	}
	return rule
}

// sameRule reports whether two routes take the same requests, and put them into the same
// lanes of the space, or both into none of it.
func sameRule(a, b *route, space string) bool {
	if a.in(space) != b.in(space) || !a.Match.equals(&b.Match) {
		return false
	}
	return !a.in(space) || a.sharesLanes(b) && a.passesAs(b)
}

func (m *Match) equals(o *Match) bool {
	return strings.EqualFold(m.Host, o.Host) && m.Path == o.Path && slices.Equal(m.Methods, o.Methods) && slices.Equal(m.Headers, o.Headers)
}

// passesAs reports whether the same methods pass by the lanes of both routes.
func (r *route) passesAs(o *route) bool {
	if (r.others == bypass) != (o.others == bypass) {
		return false
	}
	for _, m := range slices.Concat(r.methods, o.methods) {
		if (r.mode([]byte(m.method)) == bypass) != (o.mode([]byte(m.method)) == bypass) {
			return false
		}
	}
	return true
}

// meets reports whether some request may match both routes.
func (r *route) meets(o *route) bool {
	a, b := &r.Match, &o.Match
	if a.Host != "" && b.Host != "" && !strings.EqualFold(a.Host, b.Host) {
		return false
	}
	if len(a.Methods) > 0 && len(b.Methods) > 0 && !slices.ContainsFunc(a.Methods, func(m string) bool { return slices.Contains(b.Methods, m) }) {
		return false
	}
	return r.path.meets(&o.path)
}

// meets reports whether some path may match both templates, in letters of any case.
func (t *template) meets(o *template) bool {
	for i := range min(len(t.segments), len(o.segments)) {
		x, y := t.segments[i].literal, o.segments[i].literal
		if x != "" && y != "" && !strings.EqualFold(x, y) {
			return false
		}
	}
	return !(t.tail == exact && len(t.segments) < len(o.segments) || o.tail == exact && len(o.segments) < len(t.segments))
}

// honours reports whether cookies that o has signed are valid by s. Routes that issue have
// both.
func (s *Sessions) honours(o *Sessions) bool {
	return !slices.ContainsFunc(o.Secrets, func(secret []byte) bool {
		return !slices.ContainsFunc(s.Secrets, func(known []byte) bool { return bytes.Equal(secret, known) })
	})
}
