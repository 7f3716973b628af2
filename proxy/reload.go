package proxy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Use is what the lanes of a space hold at this node.
type Use struct {
	Space    string
	Lanes    int // keys
	Requests int // that wait or run
	Halted   int // of the lanes, how many are halted, or held by an operator
}

func (u Use) String() string {
	return fmt.Sprintf("%s: %d lanes, %d requests, %d halted or held", u.Space, u.Lanes, u.Requests, u.Halted)
}

// InUseError refuses a configuration by which requests would go to other lanes than those
// that are before them.
type InUseError struct{ Uses []Use }

func (e *InUseError) Error() string {
	return "the rules by which requests find their lanes change while lanes are in use: " + UsesText(e.Uses)
}

// UsesText says what is in use.
func UsesText(uses []Use) string {
	texts := make([]string, len(uses))
	for i, u := range uses {
		texts[i] = u.String()
	}
	return strings.Join(texts, "; ")
}

// Reload has requests that come from now on served by another configuration. Those that
// are here keep the one that they came under; the upstreams of it that are no more close
// each connection with its last request. Two at once are one after the other.
//
// What belongs to the node stays as it is, whatever config says: Node, Cluster, Locks,
// Records, Marks, MarkStores and Unknowns, and what the server took when it began:
// MaxHeader, HeaderTimeout, IdleTimeout, MaxPerAddress, MaxRequestsPerConnection, TLS,
// ProxyProtocol, Tracer and NativeHistograms.
//
// A request must not find a lane by another rule than those of its key that are still
// here, for two lanes know nothing of each other. So if the rules of a space change, its
// lanes at this node have to be empty; else nothing happens, and the error is an
// *InUseError. With force it happens all the same, and in is what was in use: there the
// order across the change is not promised. Nor is it for lanes of other nodes, of which
// this one knows nothing.
func (p *Proxy) Reload(config Config, force bool) (in []Use, err error) {
	p.reloads.Lock()
	defer p.reloads.Unlock()
	old := p.setup.Load()
	c := &old.config
	config.Node, config.Cluster, config.Locks, config.Records, config.Marks, config.MarkStores, config.Unknowns = c.Node, c.Cluster, c.Locks, c.Records, c.Marks, c.MarkStores, c.Unknowns
	config.TLS, config.ProxyProtocol, config.MaxPerAddress, config.Tracer = c.TLS, c.ProxyProtocol, c.MaxPerAddress, c.Tracer
	config.MaxHeader, config.HeaderTimeout, config.IdleTimeout, config.MaxRequestsPerConnection, config.NativeHistograms = c.MaxHeader, c.HeaderTimeout, c.IdleTimeout, c.MaxRequestsPerConnection, c.NativeHistograms
	next, err := p.newSetup(config)
	if err != nil {
		return nil, err
	}
	if in, err = p.replace(old, next, force); err != nil {
		return nil, err
	}
	if p.started {
		p.startUpstreams()
	}
	for _, u := range old.upstreams {
		if !slices.Contains(next.upstreams, u) {
			u.Close()
		}
	}
	return in, nil
}

// replace installs next, unless lanes whose rules it changes are in use.
func (p *Proxy) replace(old, next *setup, force bool) (in []Use, err error) {
	rules := old.changed(next)
	next.since = make(map[string]uint64)
	maps.Copy(next.since, old.since)
	for _, space := range rules {
		next.since[space] = next.number
	}
	defer p.decide(rules)()
	for _, space := range rules {
		if use := p.use(space); use.Lanes > 0 {
			in = append(in, use)
		}
	}
	if len(in) > 0 && !force {
		return nil, &InUseError{in}
	}
	p.metrics.know(next)
	// Only what is needed of the one before the last goes on: see agree and routeName.
	last := *old
	last.before = nil
	next.before = &last
	p.install(next)
	return in, nil
}

// use is what a space's lanes hold.
func (p *Proxy) use(space string) Use {
	u := p.lanes.InUse(space + ":")
	return Use{Space: space, Lanes: u.Lanes, Requests: u.Waiting + u.Running, Halted: u.Halted}
}

// RouteOf is the newest route whose requests' tickets have a tag, even if it is no more.
func (p *Proxy) RouteOf(tag int) *Route { return &p.setup.Load().named[tag].Route }

// TagOf is the tag of a route, or if there is none of that name, of one with the space,
// or else any.
func (p *Proxy) TagOf(route, space string) int {
	now := p.setup.Load()
	if r := now.routeNamed(route); r != nil {
		return r.index
	}
	for _, r := range now.routes {
		if r.Key.Space == space {
			return r.index
		}
	}
	return 0
}

// Config is the one of requests that come now.
func (p *Proxy) Config() *Config { return &p.setup.Load().config }
