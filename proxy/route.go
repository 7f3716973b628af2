package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/valyala/fasthttp"
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
	index    int // among the routes, first to last; the tag of its tickets
	path     template
	from     []source // Key.From made ready
	methods  []methodMode
	others   mode // of methods without an entry
	upstream *upstream
	keyed    bool // some method of it queues
	metrics  *routeMetrics
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
	r.Match.Host = string(bareHost([]byte(r.Match.Host)))
	compiled := &route{Route: r, index: index, path: path, from: from, others: exclusive}
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
	h := &c.ctx.Request.Header
	c.route = c.proxy.find(h, c.path, &c.captures)
	if problem := c.checkReading(&reading{path: c.path}); problem != nil {
		return problem
	}
	if !plain(c.path) {
		others, ok := readings(c.path)
		if !ok && slices.ContainsFunc(c.proxy.routes, func(r *route) bool { return r.orders(h.Method()) }) {
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
	c.mode = c.route.mode(h.Method())
	return nil
}

func (p *Proxy) find(h *fasthttp.RequestHeader, path []byte, captures *captures) *route {
	for _, r := range p.routes {
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
	for _, r := range c.proxy.routes {
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
	return a.Path == b.Path && a.Header == b.Header && a.Query == b.Query && a.Cookie == b.Cookie && a.JSON == b.JSON &&
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

// A template is a path pattern in the grammar of net/http.ServeMux: literal
// segments, {name} for one whole segment, {name...} for the rest, {$} for the
// end after a slash, and a trailing slash for everything below.
//
// One thing differs: /a/{rest...} and /a/ also match /a, where ServeMux would
// answer with a redirect that a proxy has no business inventing.
type template struct {
	segments []segment
	tail     tail
	rest     string // name of the rest, if it has one
	names    []string
}

type segment struct {
	literal string // decoded
	name    string // of a wildcard
}

type tail uint8

const (
	exact      tail = iota // nothing follows
	everything             // anything may follow
	slash                  // one slash follows: {$}
)

// captures are the raw values of a template's wildcards, in order; they alias the path.
type captures [maxWildcards][]byte

const maxWildcards = 8

// CheckPath reports the wildcard names of a path template, or what is wrong with it.
func CheckPath(text string) (wildcards []string, err error) {
	t, err := parseTemplate(text)
	return t.names, err
}

func parseTemplate(text string) (t template, err error) {
	if text == "" {
		return template{tail: everything}, nil
	}
	if text[0] != '/' {
		return t, fmt.Errorf("path template %q must begin with /", text)
	}
	parts := strings.Split(text[1:], "/")
	for i, part := range parts {
		last := i == len(parts)-1
		if err := t.parseSegment(part, last); err != nil {
			return template{}, fmt.Errorf("path template %q: %w", text, err)
		}
	}
	if len(t.names) > maxWildcards {
		return template{}, fmt.Errorf("path template %q has %d wildcards, at most %d are supported", text, len(t.names), maxWildcards)
	}
	return t, nil
}

func (t *template) parseSegment(part string, last bool) error {
	name, isWildcard := strings.CutPrefix(part, "{")
	switch {
	case part == "" && last:
		t.tail = everything
		return nil
	case part == "":
		return errors.New("an empty segment (//) never matches")
	case part == "{$}":
		if !last {
			return errors.New("{$} must be the last segment")
		}
		t.tail = slash
		return nil
	case !isWildcard:
		if strings.ContainsAny(part, "{}") {
			return fmt.Errorf("segment %q: a wildcard must be the whole segment", part)
		}
		literal, err := url.PathUnescape(part)
		if err != nil {
			return err
		}
		if literal == "." || literal == ".." {
			return fmt.Errorf("segment %q: a dot segment never matches", part)
		}
		t.segments = append(t.segments, segment{literal: literal})
		return nil
	}
	name, closed := strings.CutSuffix(name, "}")
	if !closed {
		return fmt.Errorf("segment %q: a wildcard must be the whole segment, {name}", part)
	}
	name, rest := strings.CutSuffix(name, "...")
	if !isName(name) {
		return fmt.Errorf("segment %q: a wildcard's name is made of letters, digits and _, and begins with no digit", part)
	}
	if slices.Contains(t.names, name) {
		return fmt.Errorf("two wildcards are named %q", name)
	}
	t.names = append(t.names, name)
	if !rest {
		t.segments = append(t.segments, segment{name: name})
		return nil
	}
	if !last {
		return fmt.Errorf("{%s...} must be the last segment", name)
	}
	t.tail, t.rest = everything, name
	return nil
}

func isName(s string) bool {
	for i, r := range s {
		letter := r == '_' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
		if !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != ""
}

// wildcard is the index of name among the captures.
func (t *template) wildcard(name string) int { return slices.Index(t.names, name) }

// How a path is compared with a template.
const (
	strictly = false
	// loosely: without regard to the case of literals and to a last slash, and
	// a bad escape is any literal. Some servers route like that.
	loosely = true
)

// match reports whether a path matches, and captures the wildcards.
func (t *template) match(path []byte, captures *captures, loose bool) bool {
	rest, captured := path, 0
	for i := range t.segments {
		if len(rest) == 0 || rest[0] != '/' {
			return false
		}
		rest = rest[1:]
		value := rest
		if end := bytes.IndexByte(rest, '/'); end >= 0 {
			value = rest[:end]
		}
		rest = rest[len(value):]
		s := &t.segments[i]
		switch {
		case s.name == "":
			if !s.equals(value, loose) {
				return false
			}
		case len(value) == 0:
			return false
		default:
			captures[captured] = value
			captured++
		}
	}
	if loose && (t.tail == exact || t.tail == slash) {
		return len(rest) <= len("/")
	}
	switch t.tail {
	case slash:
		return len(rest) == 1
	case everything:
		// A target in another form is no path; only * may be forwarded.
		if len(rest) > 0 && rest[0] != '/' && string(path) != "*" {
			return false
		}
		if t.rest != "" {
			value := bytes.TrimPrefix(rest, []byte("/"))
			if loose {
				value = bytes.TrimSuffix(value, []byte("/"))
			}
			captures[captured] = value
		}
		return true
	default:
		return len(rest) == 0
	}
}

// equals compares a segment as sent with a literal.
func (s *segment) equals(raw []byte, loose bool) bool {
	if string(raw) == s.literal {
		return true
	}
	if bytes.IndexByte(raw, '%') < 0 {
		return loose && equalFold(raw, s.literal)
	}
	var buffer [64]byte
	decoded, err := unescape(buffer[:0], raw)
	if err != nil {
		return loose
	}
	return string(decoded) == s.literal || loose && equalFold(decoded, s.literal)
}

// equalFold compares ASCII text without regard to case.
func equalFold(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i, c := range b {
		if c != s[i] && lowered(c) != lowered(s[i]) {
			return false
		}
	}
	return true
}

func lowered(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

var errEscape = errors.New("a % that two hexadecimal digits do not follow")

// unescape appends raw to b with each %XX decoded, once.
func unescape(b, raw []byte) ([]byte, error) {
	for i := 0; i < len(raw); i++ {
		if raw[i] != '%' {
			b = append(b, raw[i])
			continue
		}
		if i+2 >= len(raw) {
			return nil, errEscape
		}
		high, ok1 := unhex(raw[i+1])
		low, ok2 := unhex(raw[i+2])
		if !ok1 || !ok2 {
			return nil, errEscape
		}
		b = append(b, high<<4|low)
		i += 2
	}
	return b, nil
}

func unhex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
