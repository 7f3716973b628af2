package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"net/netip"

	"github.com/valyala/fasthttp"

	"lanekeeper/proxy/screen"
)

// Explanation is what the proxy would do with a request, and why.
type Explanation struct {
	Passed []Passed // routes that the request passes by, first to last
	Route  string   // that takes it; empty = none
	Mode   string   // exclusive, shared, bypass
	Watch  bool     // the route only watches: nothing waits

	Space  string
	Key    []byte   // without its space; nil = no lane
	Source string   // where the key was found, as header:X-Order-Id, or client_ip
	Issued bool     // the key is that of a session which would be issued, so it is not known yet: Key is nil
	Absent []string // sources before it that the request does not have

	Refusal *Refusal // nil = it is taken
}

// Passed is a route that a request passes by, and for what: its path, method,
// host, or headers.
type Passed struct{ Route, For string }

// Refusal is the answer to a request that is not taken.
type Refusal struct {
	Status              int
	Slug, Title, Detail string
}

// Escaped is the key as Lanekeeper-Key shows it.
func (e *Explanation) Escaped() string { return string(appendKey(nil, e.Key)) }

// Explain says what becomes of a request up to its lane, by the code that serves
// requests, and does nothing with it. text is the request as a client at from
// would send it. An error means that text is no request.
func (p *Proxy) Explain(text []byte, from netip.Addr) (*Explanation, error) {
	if kind, detail := p.refusal(text); kind != nil {
		return &Explanation{Refusal: &Refusal{Status: kind.status, Slug: kind.slug, Title: kind.title, Detail: detail}}, nil
	}
	c := &call{proxy: p}
	c.setup = p.setup.Load()
	c.ctx, c.address = new(fasthttp.RequestCtx), from.Unmap()
	reader := bufio.NewReaderSize(bytes.NewReader(text), c.config.MaxHeader)
	head := &c.ctx.Request.Header
	if err := head.Read(reader); err != nil {
		return nil, fmt.Errorf("the request is not valid HTTP/1.1: %w", err)
	}
	p.headReceived(head) // as the server does between the two
	if err := c.ctx.Request.ContinueReadBody(reader, c.config.MaxBody, false); err != nil {
		return nil, fmt.Errorf("the request cannot be read: %w", err)
	}
	return c.explain(), nil
}

// refusal is how a request is refused before anything is looked at but its form.
func (p *Proxy) refusal(text []byte) (*kind, string) {
	var s screen.Screen
	s.Init(&p.limits)
	s.Pass(text)
	if refusal := s.Refusal(); refusal != nil {
		return refused[refusal.Reason], refusal.Detail
	}
	return nil, ""
}

// explain goes the way of run until there is a lane, or none.
func (c *call) explain() *Explanation {
	e := &Explanation{}
	problem := c.gate()
	if problem == nil {
		problem = c.match()
	}
	c.explainRoute(e)
	if problem == nil {
		e.Watch = c.route.Lane.Mode == Observe
		problem = c.explainLane(e)
		e.Mode = c.mode.String()
	}
	if problem != nil {
		e.Refusal = &Refusal{Status: problem.status, Slug: problem.slug, Title: problem.title, Detail: problem.detail}
	}
	return e
}

// explainLane finds the lane of a request that has a route.
func (c *call) explainLane(e *Explanation) *problem {
	switch {
	case c.mode == bypass:
		return nil
	case c.fields.uploads() && e.Watch:
		c.mode = bypass
		return nil
	case c.fields.uploads():
		return malformedRequest.because("the request can be read as one outside its lane")
	}
	problem := c.findKey()
	switch {
	case problem != nil && e.Watch: // a route that only watches refuses nothing for its key
		c.mode = bypass
		return nil
	case problem != nil:
		return problem
	}
	c.explainKey(e)
	if c.mode != bypass && !e.Watch && c.fields.upgrades() {
		return upgradeRefused.because("a switched protocol cannot share a lane; route it with bypass for all methods")
	}
	return nil
}

// explainRoute names the route and those before it.
func (c *call) explainRoute(e *Explanation) {
	if c.path == nil {
		return // it was refused before it had one
	}
	for _, r := range c.routes {
		if r == c.route {
			e.Route = r.Name
			return
		}
		e.Passed = append(e.Passed, Passed{Route: r.Name, For: c.mismatch(r)})
	}
}

// mismatch is the first thing of a route's match that the request does not have.
func (c *call) mismatch(r *route) string {
	var captures captures
	if !r.path.match(c.path, &captures, strictly) {
		return "path"
	}
	only := func(m Match) bool {
		accepted, _ := (&route{Route: Route{Match: m}}).accepts(&c.ctx.Request.Header)
		return accepted
	}
	switch {
	case !only(Match{Methods: r.Match.Methods}):
		return "method"
	case !only(Match{Host: r.Match.Host}):
		return "host"
	}
	return "headers"
}

// explainKey says where the key that findKey has found comes from, if there is
// one: the first source that is present has it.
func (c *call) explainKey(e *Explanation) {
	e.Space = c.route.Key.Space
	e.Issued = c.session.keyed && c.session.fresh
	if c.mode != bypass && !e.Issued {
		e.Key = bytes.Clone(c.key[len(e.Space)+1:])
	}
	for i := range c.route.from {
		s := &c.route.from[i]
		if _, present, _ := c.value(nil, s); present {
			e.Source = s.String()
			return
		}
		e.Absent = append(e.Absent, s.String())
	}
	if c.mode != bypass {
		e.Source = "client_ip"
	}
}
