package proxy

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/valyala/fasthttp"

	"lanekeeper/proxy/upstream"
	"lanekeeper/queue"
)

// mode is how a request of a route runs.
type mode uint8

const (
	exclusive mode = iota
	shared
	bypass
	modes // how many there are
)

func (m mode) String() string { return [modes]string{"exclusive", "shared", "bypass"}[m] }

// route is a Route made ready for matching.
type route struct {
	Route
	index    int // of its name, see setup.named; the tag of its tickets
	path     template
	from     []source // Key.From made ready
	fromHead []source // the first of them, which the head alone has
	methods  []methodMode
	others   mode // of methods without an entry
	upstream *upstream.Upstream
	isNew    bool           // the setup before had no route of its name
	issues   bool           // one of the sources issues sessions
	keyed    bool           // some method of it queues
	effects  []queue.Effect // by method, of those that rules of its space name

	ofNumbers Idempotency // of requests whose identity is made of their numbers
	metrics   *routeMetrics
}

type methodMode struct {
	method string
	mode   mode
}

func newRoute(r Route, index int) (*route, error) {
	path, err := parseTemplate(r.Match.Path)
	if err != nil {
		return nil, fmt.Errorf("route %s: %w", r.Name, err)
	}
	from, err := newSources(r.Key.From, &path)
	if err != nil {
		return nil, fmt.Errorf("route %s: %w", r.Name, err)
	}
	ofNumbers := r.Idempotency
	ofNumbers.Mode, ofNumbers.Store, ofNumbers.TTL = IdempotencyOptional, r.Sequence.Store, r.Sequence.TTL
	ofNumbers.StoreAway = RefuseUnrecorded // a number is never judged by a guess
	r.Match.Host = string(bareHost([]byte(r.Match.Host)))
	compiled := &route{Route: r, index: index, path: path, from: from, fromHead: inHead(from), issues: issuing(from) != nil, others: exclusive, ofNumbers: ofNumbers}
	for _, list := range []struct {
		mode    mode
		methods []string
	}{{exclusive, r.Lane.Exclusive}, {shared, r.Lane.Shared}, {bypass, r.Lane.Bypass}} {
		for _, method := range list.methods {
			if method == "*" {
				compiled.others = list.mode
				continue
			}
			compiled.methods = append(compiled.methods, methodMode{method, list.mode})
		}
	}
	compiled.keyed = compiled.others != bypass
	for _, m := range compiled.methods {
		compiled.keyed = compiled.keyed || m.mode != bypass
	}
	return compiled, nil
}

// mode is how requests of a method run. A method in other letters is the same
// one here, as it is to servers that raise them; fetch, for one, sends "patch".
func (r *route) mode(method []byte) mode {
	for i := range r.methods {
		if equalFold(method, r.methods[i].method) {
			return r.methods[i].mode
		}
	}
	return r.others
}

// orders reports whether requests of a method wait for their turn.
func (r *route) orders(method []byte) bool {
	return r.Lane.Mode != Observe && r.mode(method) != bypass
}

// accepts reports whether everything but the path matches. It is doubtful if
// that depends on a header which servers may see differently.
func (r *route) accepts(h *fasthttp.RequestHeader) (accepted, doubtful bool) {
	if m := r.Match.Methods; len(m) > 0 && !slices.ContainsFunc(m, func(method string) bool { return equalFold(h.Method(), method) }) {
		return false, false
	}
	if r.Match.Host != "" && !equalFold(hostname(h.Host()), r.Match.Host) {
		return false, false
	}
	accepted = true
	for _, want := range r.Match.Headers {
		have, _, doubt := field(h, want.Name)
		matches := len(have) > 0 && (want.Value == "" || string(have) == want.Value)
		if !matches && doubt == "" {
			return false, false
		}
		accepted = accepted && matches
		doubtful = doubtful || doubt != ""
	}
	return accepted, doubtful
}

// hostname is a Host field without its port.
func hostname(host []byte) []byte {
	if i := bytes.LastIndexByte(host, ':'); i >= 0 && !bytes.HasSuffix(host, []byte("]")) {
		host = host[:i]
	}
	return bareHost(host)
}

// bareHost is a host without the dot that ends a complete name, or without the
// brackets of an address.
func bareHost(host []byte) []byte {
	return bytes.Trim(bytes.TrimSuffix(host, []byte(".")), "[]")
}

// match finds the first route for the request, and the values of its path
// wildcards, into c.
//
// It looks at the path as sent. A server behind may understand it in another
// way, see readings, and so the request is refused when one of these ways leads
// to another lane: else a second spelling of a key would run beside the first.
func (c *call) match() *problem {
	c.agree()
	h := &c.ctx.Request.Header
	c.route = c.find(h, c.path, &c.captures)
	if problem := c.checkReading(&reading{path: c.path}); problem != nil {
		return problem
	}
	if !plain(c.path) {
		others, ok := readings(c.path)
		if !ok && slices.ContainsFunc(c.routes, func(r *route) bool { return r.orders(h.Method()) }) {
			return malformedRequest.because("the path can be read in too many ways; send it without dot segments, empty segments, backslashes and parameters")
		}
		for i := range others {
			if problem := c.checkReading(&others[i]); problem != nil {
				return problem
			}
		}
	}
	if c.route == nil {
		return noRoute.because("no route matches the method, host, path and headers of this request")
	}
	c.lane, c.mode = &c.route.Lane, c.route.mode(h.Method())
	return nil
}

func (s *setup) find(h *fasthttp.RequestHeader, path []byte, captures *captures) *route {
	for _, r := range s.routes {
		if !r.path.match(path, captures, strictly) {
			continue
		}
		if accepted, _ := r.accepts(h); accepted {
			return r
		}
	}
	return nil
}

// checkReading refuses a request that, if its path is read this way, belongs
// into a lane that it is not in. It looks at every route that some server might
// take, up to the one that none can miss.
func (c *call) checkReading(reading *reading) *problem {
	h := &c.ctx.Request.Header
	var captures captures
	for _, r := range c.routes {
		if !r.path.match(reading.path, &captures, loosely) {
			continue
		}
		accepted, doubtful := r.accepts(h)
		if (accepted || doubtful) && c.misses(r, &captures, reading) {
			return c.otherLane(r, reading, doubtful)
		}
		if accepted && !doubtful && r.path.match(reading.path, &captures, strictly) {
			return nil
		}
	}
	return nil
}

// otherLane says so without the path, which the log must not hold.
func (c *call) otherLane(r *route, reading *reading, doubtful bool) *problem {
	switch {
	case reading.why != "":
		return malformedRequest.because(fmt.Sprintf("some servers read the path with %s: a request of route %s, in another lane; send it in the form that is meant", reading.why, r.Name))
	case doubtful:
		return malformedRequest.because(fmt.Sprintf("route %s depends on a header that is sent twice, in two spellings, or named by Connection", r.Name))
	}
	return malformedRequest.because(fmt.Sprintf("the path is that of route %s but for the case of letters, a bad escape or the last slash, which not all servers look at; send it in the form that is meant", r.Name))
}

// misses reports whether a request of route r, whose wildcards have the given
// values, would be in a lane that c, as sent, is not in. If r orders nothing
// there is no such lane, whatever c's own route does.
func (c *call) misses(r *route, values *captures, reading *reading) bool {
	method, own := c.ctx.Request.Header.Method(), c.route
	switch {
	case !r.orders(method):
		return false
	case own == nil || !own.orders(method):
		return true
	case own == r && reading.slashInValue:
		return false // an encoded slash stays inside the value
	case own != r && !own.sharesLanes(r):
		return true
	case own.mode(method) == shared && r.mode(method) == exclusive:
		return true
	}
	return !samePathValues(own.from, r.from, &c.captures, values)
}

// sharesLanes reports whether two routes find the same key in the same request,
// but for the values of path wildcards.
func (r *route) sharesLanes(other *route) bool {
	a, b := &r.Key, &other.Key
	return a.Space == b.Space && a.Missing == b.Missing && slices.Equal(a.Normalize, b.Normalize) &&
		slices.EqualFunc(a.From, b.From, equalSource)
}

func equalSource(a, b Source) bool {
	return a.Path == b.Path && a.Header == b.Header && a.Query == b.Query && a.Cookie == b.Cookie && a.Issue == b.Issue && a.JSON == b.JSON &&
		slices.EqualFunc(a.All, b.All, equalSource)
}

// samePathValues compares the values, as sent, of the wildcards that two equal
// lists of sources name.
func samePathValues(as, bs []source, ofA, ofB *captures) bool {
	for i := range as {
		a, b := &as[i], &bs[i]
		if !samePathValues(a.parts, b.parts, ofA, ofB) {
			return false
		}
		if a.Path != "" && !bytes.Equal(ofA[a.wildcard], ofB[b.wildcard]) {
			return false
		}
	}
	return true
}
