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
	methods  map[string]mode
	others   mode // of methods without an entry
	upstream *upstream
	keyed    bool // some method of it queues
	metrics  *routeMetrics
}

func newRoute(r Route, index int) (*route, error) {
	path, err := parseTemplate(r.Match.Path)
	if err != nil {
		return nil, fmt.Errorf("route %s: %w", r.Name, err)
	}
	compiled := &route{Route: r, index: index, path: path, methods: map[string]mode{}, others: exclusive}
	for _, list := range []struct {
		mode    mode
		methods []string
	}{{exclusive, r.Lane.Exclusive}, {shared, r.Lane.Shared}, {bypass, r.Lane.Bypass}} {
		for _, method := range list.methods {
			if method == "*" {
				compiled.others = list.mode
				continue
			}
			compiled.methods[method] = list.mode
		}
	}
	compiled.keyed = compiled.others != bypass
	for _, m := range compiled.methods {
		compiled.keyed = compiled.keyed || m != bypass
	}
	return compiled, nil
}

func (r *route) mode(method []byte) mode {
	if m, ok := r.methods[string(method)]; ok {
		return m
	}
	return r.others
}

// accepts reports whether everything but the path matches.
func (r *route) accepts(h *fasthttp.RequestHeader) bool {
	if m := r.Match.Methods; len(m) > 0 && !slices.Contains(m, string(h.Method())) {
		return false
	}
	if r.Match.Host != "" && !strings.EqualFold(r.Match.Host, string(hostname(h.Host()))) {
		return false
	}
	for _, want := range r.Match.Headers {
		have := h.Peek(want.Name)
		if len(have) == 0 || want.Value != "" && string(have) != want.Value {
			return false
		}
	}
	return true
}

// hostname is a Host field without its port.
func hostname(host []byte) []byte {
	if i := bytes.LastIndexByte(host, ':'); i >= 0 && !bytes.HasSuffix(host, []byte("]")) {
		return host[:i]
	}
	return host
}

// match finds the first route for the request, and the values of its path
// wildcards, into c.
//
// It looks at the path as sent. A path that a server behind may read
// differently (with dot segments resolved, slashes merged, or parameters cut)
// is also matched the way such a server would, and refused when that reading
// leads to another lane: else a second spelling of a key would run beside the
// first.
func (c *call) match() *problem {
	h := &c.ctx.Request.Header
	c.route = c.proxy.find(h, c.path, &c.captures)
	if !plain(c.path) {
		for reading := range readings(c.path) {
			var captures captures
			other := c.proxy.find(h, reading.path, &captures)
			if reading.otherLane(h.Method(), c.route, &c.captures, other, &captures) {
				return malformedRequest.because(fmt.Sprintf("the path can also be read as %q (%s), which is another lane; send it in that form", reading.path, reading.why))
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
		if r.path.match(path, captures) && r.accepts(h) {
			return r
		}
	}
	return nil
}

// otherLane reports whether a request that matched route a as sent, and route b
// when read differently, would be in b's lane without being in it. If b queues
// nothing there is no such lane, whatever order a gives the request.
func (reading *reading) otherLane(method []byte, a *route, as *captures, b *route, bs *captures) bool {
	switch {
	case b == nil || b.mode(method) == bypass:
		return false
	case a == nil || a.mode(method) == bypass:
		return true
	case a == b && reading.slashInValue:
		return false // an encoded slash stays inside the value
	case a.Key.Space != b.Key.Space || !slices.EqualFunc(a.Key.From, b.Key.From, equalSource):
		return true
	}
	return !samePathValues(a.Key.From, a, as, b, bs)
}

func equalSource(a, b Source) bool {
	return a.Path == b.Path && a.Header == b.Header && a.Query == b.Query && a.Cookie == b.Cookie && a.JSON == b.JSON &&
		slices.EqualFunc(a.All, b.All, equalSource)
}

func samePathValues(sources []Source, a *route, as *captures, b *route, bs *captures) bool {
	for _, source := range sources {
		if source.All != nil && !samePathValues(source.All, a, as, b, bs) {
			return false
		}
		if source.Path == "" {
			continue
		}
		va, errA := unescape(nil, as[a.path.wildcard(source.Path)])
		vb, errB := unescape(nil, bs[b.path.wildcard(source.Path)])
		if errA != nil || errB != nil || !bytes.Equal(va, vb) {
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

// match reports whether path, as sent, matches, and captures the wildcards.
func (t *template) match(path []byte, captures *captures) bool {
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
			if !equalDecoded(value, s.literal) {
				return false
			}
		case len(value) == 0:
			return false
		default:
			captures[captured] = value
			captured++
		}
	}
	switch t.tail {
	case slash:
		return len(rest) == 1
	case everything:
		if t.rest != "" {
			captures[captured] = bytes.TrimPrefix(rest, []byte("/"))
		}
		return true
	default:
		return len(rest) == 0
	}
}

// equalDecoded compares a segment as sent with a decoded literal.
func equalDecoded(raw []byte, literal string) bool {
	if string(raw) == literal {
		return true
	}
	if bytes.IndexByte(raw, '%') < 0 {
		return false
	}
	decoded, err := unescape(nil, raw)
	return err == nil && string(decoded) == literal
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
