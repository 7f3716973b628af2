package proxy

import (
	"bytes"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strconv"

	"lanekeeper/proxy/screen"
	"lanekeeper/proxy/upstream"
)

// setup is a configuration made ready, and all of a Proxy that Reload replaces. It never
// changes once it is in use. A request has the one that it came under until it has been
// answered, with its route, its lane's rules and its upstream.
type setup struct {
	config    Config
	via       string // this node, in the Via field
	routes    []*route
	upstreams []*upstream.Upstream

	number uint64 // 1 for the first, and so on
	before *setup // the one before; nil in the first, and in those that were replaced

	// since has the number of the setup in which a space's rule last changed, if it did.
	since map[string]uint64

	// named has, by index, the newest route of each name that there ever was. An index is
	// the tag of tickets, and these may be older than the setup; a node that still has an
	// older configuration speaks of routes by the names in that.
	named []*route
}

// newSetup makes config ready, to follow the present one, if there is one. It starts
// nothing. An upstream that is as before is the same one, with its connections.
func (p *Proxy) newSetup(config Config) (*setup, error) {
	s := &setup{config: config, via: "1.1 lanekeeper", number: 1}
	if config.ViaNode {
		s.via += " (" + config.Node + ")"
	}
	if before := p.setup.Load(); before != nil {
		s.before, s.number, s.named = before, before.number+1, slices.Clone(before.named)
	}
	for _, u := range config.Upstreams {
		up, err := s.upstream(u, p.wires.wrap, p.log)
		if err != nil {
			return nil, err
		}
		s.upstreams = append(s.upstreams, up)
	}
	for _, r := range config.Routes {
		route, err := newRoute(r, s.indexOf(r.Name))
		if err != nil {
			return nil, err
		}
		if route.issues && config.Sessions == nil {
			return nil, fmt.Errorf("route %s: it issues sessions, and nothing says how", r.Name)
		}
		at := slices.IndexFunc(s.upstreams, func(u *upstream.Upstream) bool { return u.Name == r.Upstream })
		if at < 0 {
			return nil, fmt.Errorf("route %s: there is no upstream %q", r.Name, r.Upstream)
		}
		route.upstream = s.upstreams[at]
		route.isNew = s.before != nil && s.before.routeServed(r.Name) == nil
		s.routes = append(s.routes, route)
		if route.index == len(s.named) {
			s.named = append(s.named, nil)
		}
		s.named[route.index] = route
	}
	learnEffects(s.routes)
	return s, nil
}

// upstream is the one of the setup before if it is the same; how it is dialled and
// looked up is not compared.
func (s *setup) upstream(config upstream.Config, wrap upstream.Wrap, log *slog.Logger) (*upstream.Upstream, error) {
	if s.before != nil {
		for _, old := range s.before.upstreams {
			if reflect.DeepEqual(sameness(old.Config), sameness(config)) {
				return old, nil
			}
		}
	}
	return upstream.New(config, wrap, log)
}

// install has s serve the requests that come from now on.
func (p *Proxy) install(s *setup) {
	p.limits.Store(&screen.Limits{Head: s.config.MaxHeader, URI: s.config.MaxURI, Fields: s.config.MaxHeaders})
	p.setup.Store(s)
}

// sameness is c but for what is no setting.
func sameness(c upstream.Config) upstream.Config {
	c.Dial, c.Resolver = nil, nil
	return c
}

// indexOf is that of a name's routes, or the next one that is free.
func (s *setup) indexOf(name string) int {
	if at := slices.IndexFunc(s.named, func(r *route) bool { return r.Name == name }); at >= 0 {
		return at
	}
	return len(s.named)
}

// routeNamed is the route of a name that another node gave, even one that is no more.
func (s *setup) routeNamed(name string) *route {
	for _, r := range s.named {
		if r.Name == name {
			return r
		}
	}
	return nil
}

// routeServed is the route of a name that new requests may come to.
func (s *setup) routeServed(name string) *route {
	for _, r := range s.routes {
		if r.Name == name {
			return r
		}
	}
	return nil
}

// serves reports whether new requests may come to the route.
func (s *setup) serves(r *route) bool { return slices.Contains(s.routes, r) }

// agree has a request whose body is hidden go on by the setup that hid it, if the other
// one came between that and its handler: it may be one whose route reads bodies.
func (c *call) agree() {
	_, text, hidden := bytes.Cut(c.fields.upload, []byte(" "))
	if !hidden || c.before == nil {
		return
	}
	if number, err := strconv.ParseUint(string(text), 10, 64); err == nil && number == c.before.number {
		c.setup = c.before
	}
}

// routeName is the name of the request's route as the owner of its key knows it. A name
// that the last Reload brought means nothing to a node that has not had that one yet: it is
// told the name that the request's route had before, if that takes it to the same lane.
func (c *call) routeName() string {
	name, before := c.route.Name, c.before
	if !c.route.isNew || before == nil || c.config.Cluster.OwnersConfig(c.place.Partition) != before.config.Hash {
		return name
	}
	var captures captures
	r := before.find(&c.ctx.Request.Header, c.path, &captures)
	if r != nil && r.sharesLanes(c.route) && samePathValues(r.from, c.route.from, &captures, &c.captures) {
		return r.Name
	}
	return name
}
