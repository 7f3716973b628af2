package proxy

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"

	"lanekeeper/proxy/upstream"
	"lanekeeper/queue"
)

// judge returns a proxy that is asked what it would do, and does nothing.
func judge(t testing.TB, routes ...Route) *Proxy {
	t.Helper()
	for i := range routes {
		routes[i].Upstream = "app"
	}
	config := Config{
		MaxBody: 1 << 20, MaxHeader: 16 << 10, MaxURI: 8 << 10, MaxHeaders: 100, MaxConnections: 1, MaxInflight: 1,
		Upstreams: []Upstream{{Name: "app", Targets: []string{"http://app"}}},
		Routes:    routes,
	}
	p, err := New(config, queue.New(queue.Config{Tags: len(routes)}), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// keyed is a route of exclusive requests with the given sources.
func keyed(path string, from ...Source) Route {
	return Route{Name: "keyed", Match: Match{Path: path}, Key: Key{Space: "order", From: from, MaxLength: 64}}
}

// open is a route of requests that no lane holds.
func open(path string) Route {
	return Route{Name: "open", Match: Match{Path: path}, Lane: Lane{Bypass: []string{"*"}}}
}

// sent is a request as a client writes it.
type sent struct {
	method, target string // POST and / if empty
	header         []string
	body           string
}

func (s sent) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: shop.example\r\n", or(s.method, "POST"), or(s.target, "/"))
	for _, line := range s.header {
		b.WriteString(line + "\r\n")
	}
	if s.body != "" && !strings.Contains(strings.ToLower(b.String()), "transfer-encoding:") {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(s.body))
	}
	return b.String() + "\r\n" + s.body
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// verdict is what becomes of a request: its route and lane, or why it is refused.
type verdict struct {
	route, key   string
	mode         mode
	slug, detail string
}

func (v verdict) laned() bool { return v.slug == "" && v.mode != bypass }

// read makes a call of a request's text, as the server would.
func read(p *Proxy, text string) (*call, error) {
	c := &call{proxy: p}
	c.setup = p.setup.Load()
	c.ctx = new(fasthttp.RequestCtx)
	reader := bufio.NewReaderSize(strings.NewReader(text), 64<<10)
	if err := c.ctx.Request.Header.Read(reader); err != nil {
		return nil, err
	}
	return c, c.ctx.Request.ContinueReadBody(reader, p.Config().MaxBody, false)
}

// decide takes c as far as it gets before its lane.
func (c *call) decide() verdict {
	problem := c.gate()
	if problem == nil {
		problem = c.match()
	}
	if problem == nil && c.mode != bypass {
		problem = c.findKey()
	}
	v := verdict{mode: c.mode}
	if c.route != nil {
		v.route = c.route.Name
	}
	switch {
	case problem != nil:
		v.slug, v.detail = problem.slug, problem.detail
	case c.mode != bypass:
		v.key = string(c.key)
	}
	return v
}

func (p *Proxy) ask(t testing.TB, request sent) verdict {
	t.Helper()
	c, err := read(p, request.String())
	if err != nil {
		t.Fatalf("%q: %v", request, err)
	}
	return c.decide()
}

// keyCase is a request to a route with one key, and its lane or the refusal.
type keyCase struct {
	name    string
	path    string // / if empty
	from    []Source
	request sent
	want    string // the lane; a refusal as !slug; empty = no lane
}

func (k keyCase) check(t *testing.T) {
	t.Helper()
	t.Run(k.name, func(t *testing.T) {
		t.Helper()
		got := judge(t, keyed(or(k.path, "/"), k.from...)).ask(t, k.request)
		have := got.key
		if got.slug != "" {
			have = "!" + got.slug
		}
		if have != k.want {
			t.Errorf("%s\ngot %q (%s), want %q", k.request, have, got.detail, k.want)
		}
	})
}

// Mutants: unescape twice; an escape's second digit unchecked; pathValue on the
// first wildcard.
func TestPathKeys(t *testing.T) {
	id := []Source{{Path: "id"}}
	for _, k := range []keyCase{
		{name: "plain", path: "/orders/{id}", request: sent{target: "/orders/7"}, want: "order:7"},
		{name: "with a query", path: "/orders/{id}", request: sent{target: "/orders/7?id=8"}, want: "order:7"},
		{name: "escaped letters", path: "/orders/{id}", request: sent{target: "/%6frders/%37"}, want: "order:7"},
		{name: "escapes of either case", path: "/orders/{id}", request: sent{target: "/orders/%c3%A9"}, want: "order:é"},
		{name: "bytes as they are", path: "/orders/{id}", request: sent{target: "/orders/\xc3\xa9"}, want: "order:é"},
		{name: "bytes that are no text", path: "/orders/{id}", request: sent{target: "/orders/%ff%00"}, want: "order:\xff\x00"},
		{name: "a slash stays inside", path: "/orders/{id}", request: sent{target: "/orders/a%2Fb"}, want: "order:a/b"},
		{name: "decoded once", path: "/orders/{id}", request: sent{target: "/orders/%2537"}, want: "order:%37"},
		{name: "a plus is a plus", path: "/orders/{id}", request: sent{target: "/orders/a+b"}, want: "order:a+b"},
		{name: "other case is another key", path: "/orders/{id}", request: sent{target: "/orders/A-1"}, want: "order:A-1"},
		{name: "a % at the end", path: "/orders/{id}", request: sent{target: "/orders/7%"}, want: "!malformed-request"},
		{name: "half an escape", path: "/orders/{id}", request: sent{target: "/orders/7%3"}, want: "!malformed-request"},
		{name: "no hexadecimal digits", path: "/orders/{id}", request: sent{target: "/orders/%3g"}, want: "!malformed-request"},
		{name: "Microsoft's escape", path: "/orders/{id}", request: sent{target: "/orders/%u0037"}, want: "!malformed-request"},
		{name: "a bad escape elsewhere", path: "/orders/{id}/{what}", request: sent{target: "/orders/7/%zz"}, want: "order:7"},
		{name: "the second wildcard", path: "/{tenant}/orders/{id}", request: sent{target: "/t/orders/7"}, want: "order:7"},
		{name: "absolute target", path: "/orders/{id}", request: sent{target: "http://shop.example/orders/7"}, want: "order:7"},
	} {
		k.from = id
		k.check(t)
	}
	rest := []Source{{Path: "rest"}, {Header: "X-Order"}}
	for _, k := range []keyCase{
		{name: "rest", request: sent{target: "/files/a/b%2Fc"}, want: "order:a/b/c"},
		{name: "empty rest gives way to the next source", request: sent{target: "/files/", header: []string{"X-Order: 9"}}, want: "order:9"},
		{name: "no rest at all", request: sent{target: "/files", header: []string{"X-Order: 9"}}, want: "order:9"},
		{name: "nothing anywhere", request: sent{target: "/files/"}, want: "!missing-key"},
		{name: "a last slash is no key of its own", request: sent{target: "/files/a/"}, want: "!malformed-request"},
	} {
		k.path, k.from = "/files/{rest...}", rest
		k.check(t)
	}
}

// Mutants: PeekAll in place of field (a trailer is the key); lines counted only
// once; sameVariable that compares hyphens; nominates left out.
func TestHeaderKeys(t *testing.T) {
	for _, k := range []keyCase{
		{name: "plain", request: sent{header: []string{"X-Order-Id: 7"}}, want: "order:7"},
		{name: "name in any case", request: sent{header: []string{"x-oRDER-id: 7"}}, want: "order:7"},
		{name: "surrounding whitespace is not part of it", request: sent{header: []string{"X-Order-Id:\t 7 \t"}}, want: "order:7"},
		{name: "inner whitespace is", request: sent{header: []string{"X-Order-Id: 7  8"}}, want: "order:7  8"},
		{name: "a comma is data", request: sent{header: []string{"X-Order-Id: 7,8"}}, want: "order:7,8"},
		{name: "quotes and escapes are data", request: sent{header: []string{`X-Order-Id: "%37"`}}, want: `order:"%37"`},
		{name: "bytes beyond ASCII", request: sent{header: []string{"X-Order-Id: \xe9"}}, want: "order:\xe9"},
		{name: "absent", request: sent{header: []string{"X-Order-Idx: 7"}}, want: "!missing-key"},
		{name: "empty", request: sent{header: []string{"X-Order-Id:  "}}, want: "!invalid-key"},
		{name: "two lines", request: sent{header: []string{"X-Order-Id: 7", "X-Order-Id: 8"}}, want: "!ambiguous-key"},
		{name: "two equal lines", request: sent{header: []string{"X-Order-Id: 7", "x-order-id: 7"}}, want: "!ambiguous-key"},
		{name: "an empty line and another", request: sent{header: []string{"X-Order-Id:", "X-Order-Id: 7"}}, want: "!ambiguous-key"},
		{name: "a twin", request: sent{header: []string{"X-Order-Id: 7", "X_Order_Id: 8"}}, want: "!ambiguous-key"},
		{name: "a twin alone", request: sent{header: []string{"x_order-id: 8"}}, want: "!ambiguous-key"},
		{name: "a twin with dots", request: sent{header: []string{"X-Order-Id: 7", "X.Order.Id: 8"}}, want: "!ambiguous-key"},
		{name: "no twin", request: sent{header: []string{"X-Order-Id: 7", "X-Order1Id: 8", "XOrderId: 9"}}, want: "order:7"},
		{name: "named by Connection", request: sent{header: []string{"Connection: x-order-id", "X-Order-Id: 7"}}, want: "!ambiguous-key"},
		{name: "named by a second Connection", request: sent{header: []string{"X-Order-Id: 7", "Connection: keep-alive", "Connection: close, X-Order-Id"}}, want: "!ambiguous-key"},
		{name: "absent and named by Connection", request: sent{header: []string{"Connection: X-Order-Id"}}, want: "!missing-key"},
		{
			name:    "a trailer does not reach the service",
			request: sent{header: []string{"Transfer-Encoding: chunked", "Trailer: X-Order-Id"}, body: "1\r\nx\r\n0\r\nX-Order-Id: 7\r\n\r\n"},
			want:    "!missing-key",
		},
		{
			name:    "a trailer besides the header",
			request: sent{header: []string{"X-Order-Id: 7", "Transfer-Encoding: chunked"}, body: "1\r\nx\r\n0\r\nX-Order-Id: 8\r\n\r\n"},
			want:    "order:7",
		},
		{name: "folded", request: sent{header: []string{"X-Order-Id: 7\r\n 8"}}, want: "order:7 8"}, // as the service gets it
		{name: "folded, with nothing behind", request: sent{header: []string{"X-Order-Id: 7\r\n \r\n\t"}}, want: "order:7"},
	} {
		k.from = []Source{{Header: "X-Order-Id"}}
		k.check(t)
	}
	keyCase{
		name: "a configured underscore has twins too", from: []Source{{Header: "X_Order_Id"}},
		request: sent{header: []string{"X_Order_Id: 7", "X-Order-Id: 8"}}, want: "!ambiguous-key",
	}.check(t)
}

// Mutants: the separators of the second pass without the semicolon; unescape in
// place of unescapeForm; the raw name compared; mistakable always false.
func TestQueryKeys(t *testing.T) {
	for _, k := range []keyCase{
		{name: "plain", request: sent{target: "/?order_id=7"}, want: "order:7"},
		{name: "among others", request: sent{target: "/?a&=b&c=%zz&order_id=7&d=;"}, want: "order:7"},
		{name: "an encoded name", request: sent{target: "/?%6Frder%5fid=7"}, want: "order:7"},
		{name: "decoded once", request: sent{target: "/?order_id=%2537"}, want: "order:%37"},
		{name: "a plus is a space", request: sent{target: "/?order_id=a+b%20c%2Bd"}, want: "order:a b c+d"},
		{name: "an equals sign in the value", request: sent{target: "/?order_id=7=8"}, want: "order:7=8"},
		{name: "a question mark in the value", request: sent{target: "/?order_id=7?order_id=8"}, want: "order:7?order_id=8"},
		{name: "an encoded separator", request: sent{target: "/?order_id=7%26order_id=8%3B"}, want: "order:7&order_id=8;"},
		{name: "absent", request: sent{target: "/?order_ids=7"}, want: "!missing-key"},
		{name: "no query", request: sent{}, want: "!missing-key"},
		{name: "empty", request: sent{target: "/?order_id="}, want: "!invalid-key"},
		{name: "without a value", request: sent{target: "/?order_id"}, want: "!invalid-key"},
		{name: "twice", request: sent{target: "/?order_id=7&order_id=8"}, want: "!ambiguous-key"},
		{name: "twice the same", request: sent{target: "/?order_id=7&order%5Fid=7"}, want: "!ambiguous-key"},
		{name: "a second one without a value", request: sent{target: "/?order_id=7&order_id"}, want: "!ambiguous-key"},
		{name: "a second one with a bad escape", request: sent{target: "/?order_id=7&order_id=%"}, want: "!ambiguous-key"},
		{name: "a bad escape in the value", request: sent{target: "/?order_id=%zz"}, want: "!malformed-request"},
		{name: "a bad escape in a name", request: sent{target: "/?%u006frder_id=8&order_id=7"}, want: "!ambiguous-key"},
		{name: "a semicolon that would end it", request: sent{target: "/?order_id=7;a=b"}, want: "!ambiguous-key"},
		{name: "a semicolon that would begin another", request: sent{target: "/?a=b;order_id=8&order_id=7"}, want: "!ambiguous-key"},
		{name: "a semicolon that would begin it", request: sent{target: "/?a=b;order_id=7"}, want: "!ambiguous-key"},
		{name: "a semicolon before a twin", request: sent{target: "/?a=b;Order_ID=8&order_id=7"}, want: "!ambiguous-key"},
		{name: "a semicolon elsewhere", request: sent{target: "/?a=b;c&order_id=7"}, want: "order:7"},
		{name: "another case", request: sent{target: "/?Order_ID=8&order_id=7"}, want: "!ambiguous-key"},
		{name: "another case alone", request: sent{target: "/?Order_ID=7"}, want: "!ambiguous-key"},
		{name: "what PHP takes for it", request: sent{target: "/?order_id=7&order.id=8"}, want: "!ambiguous-key"},
		{name: "what PHP takes for it, with spaces", request: sent{target: "/?order_id=7&++order+id=8"}, want: "!ambiguous-key"},
		{name: "what C takes for it", request: sent{target: "/?order_id=7&order_id%00x=8"}, want: "!ambiguous-key"},
		{name: "a list", request: sent{target: "/?order_id=7&order_id[]=8"}, want: "!ambiguous-key"},
		{name: "a list, encoded", request: sent{target: "/?order_id=7&order_id%5B0%5D=8"}, want: "!ambiguous-key"},
	} {
		k.from = []Source{{Query: "order_id"}}
		k.check(t)
	}
	brackets := []Source{{Query: "order[id]"}}
	keyCase{name: "configured brackets", from: brackets, request: sent{target: "/?order[id]=7&order[total]=8&order=9"}, want: "order:7"}.check(t)
	keyCase{name: "configured brackets, encoded", from: brackets, request: sent{target: "/?order%5bid%5d=7"}, want: "order:7"}.check(t)
}

// Mutants: h.Cookies in place of the raw lines (a cookie with a quote is not
// seen); the comma left out; found not counted over lines.
func TestCookieKeys(t *testing.T) {
	for _, k := range []keyCase{
		{name: "plain", request: sent{header: []string{"Cookie: order=7"}}, want: "order:7"},
		{name: "among others", request: sent{header: []string{`Cookie: a=b; order=7; prefs={"c":[1,2]}`}}, want: "order:7"},
		{name: "without spaces", request: sent{header: []string{"cookie: a=b;order=7;c=d"}}, want: "order:7"},
		{name: "with many spaces", request: sent{header: []string{"Cookie:  a = b ;\t order = 7 ; "}}, want: "order:7"},
		{name: "with a space that is data", request: sent{header: []string{"Cookie: order=\u00a07"}}, want: "order:\u00a07"},
		{name: "quoted", request: sent{header: []string{`Cookie: order="7"`}}, want: "order:7"},
		{name: "an equals sign in the value", request: sent{header: []string{"Cookie: order=7=8"}}, want: "order:7=8"},
		{name: "escapes are data", request: sent{header: []string{"Cookie: order=%37+"}}, want: "order:%37+"},
		{name: "in the second line", request: sent{header: []string{"Cookie: a=b", "X: y", "Cookie: order=7"}}, want: "order:7"},
		{name: "absent", request: sent{header: []string{"Cookie: orders=7; xorder=8", "X-Cookie: order=9"}}, want: "!missing-key"},
		{name: "no cookies", request: sent{}, want: "!missing-key"},
		{name: "empty", request: sent{header: []string{"Cookie: order="}}, want: "!invalid-key"},
		{name: "empty, quoted", request: sent{header: []string{`Cookie: order=""`}}, want: "!invalid-key"},
		{name: "twice", request: sent{header: []string{"Cookie: order=7; order=8"}}, want: "!ambiguous-key"},
		{name: "twice the same", request: sent{header: []string{"Cookie: order=7; order=7"}}, want: "!ambiguous-key"},
		{name: "twice, in two lines", request: sent{header: []string{"Cookie: order=7", "Cookie: order=8"}}, want: "!ambiguous-key"},
		{name: "a second one without a value", request: sent{header: []string{"Cookie: order=7; order"}}, want: "!ambiguous-key"},
		{name: "a second one that some drop", request: sent{header: []string{`Cookie: order="a\"b"; order=7`}}, want: "!ambiguous-key"},
		{name: "a quote inside", request: sent{header: []string{`Cookie: order=7"8`}}, want: "!ambiguous-key"},
		{name: "a backslash inside", request: sent{header: []string{`Cookie: order="7\8"`}}, want: "!ambiguous-key"},
		{name: "a comma inside", request: sent{header: []string{"Cookie: order=7,8"}}, want: "!ambiguous-key"},
		{name: "behind a comma", request: sent{header: []string{"Cookie: a=1, order=8; order=7"}}, want: "!ambiguous-key"},
		{name: "commas elsewhere", request: sent{header: []string{"Cookie: a=1,2; order=7"}}, want: "order:7"},
		{name: "inside a quoted string", request: sent{header: []string{`Cookie: a="x; order=7; y"`}}, want: "!ambiguous-key"},
		{name: "a broken quote alone", request: sent{header: []string{`Cookie: a="x; y=z"`}}, want: "!missing-key"},
		{name: "another case", request: sent{header: []string{"Cookie: order=7; Order=8"}}, want: "!ambiguous-key"},
		{name: "folded", request: sent{header: []string{"Cookie: a=b;\r\n order=7"}}, want: "!ambiguous-key"},
		{name: "folded behind it", request: sent{header: []string{"Cookie: order=7;\r\n order=8"}}, want: "!ambiguous-key"},
		{name: "named by Connection", request: sent{header: []string{"Connection: cookie", "Cookie: order=7"}}, want: "!ambiguous-key"},
	} {
		k.from = []Source{{Cookie: "order"}}
		k.check(t)
	}
}

// Mutants: coding always ""; looksLikeJSON always false; contradicted not
// called; saysJSON always true.
func TestBodyKeys(t *testing.T) {
	plain, form, asJSON := "Content-Type: text/plain", "Content-Type: application/x-www-form-urlencoded", "Content-Type: application/json"
	for _, k := range []keyCase{
		{name: "declared", request: sent{header: []string{asJSON}, body: `{"id":"7"}`}, want: "order:7"},
		{name: "declared as a +json type", request: sent{header: []string{"Content-Type: Application/Vnd.Shop+JSON ; v=1"}, body: `{"id":7}`}, want: "order:7"},
		{name: "not declared", request: sent{body: `{"id":7}`}, want: "order:7"},
		{name: "declared as a form, as curl does", request: sent{header: []string{form}, body: `{"id":7}`}, want: "order:7"},
		{name: "declared twice, JSON last", request: sent{header: []string{form, asJSON}, body: `{"id":7}`}, want: "order:7"},
		{name: "no body", request: sent{header: []string{asJSON}}, want: "!missing-key"},
		{name: "no such member", request: sent{header: []string{asJSON}, body: `{}`}, want: "!missing-key"},
		{name: "not JSON, nor said to be", request: sent{header: []string{form}, body: "id=7"}, want: "!missing-key"},
		{name: "not JSON, though said to be", request: sent{header: []string{asJSON}, body: "id=7"}, want: "!invalid-key"},
		{name: "nearly JSON", request: sent{header: []string{plain}, body: `{"id":7,}`}, want: "!invalid-key"},
		{name: "a byte order mark", request: sent{header: []string{plain}, body: "\xef\xbb\xbf{\"id\":7}"}, want: "!invalid-key"},
		{name: "UTF-16", request: sent{header: []string{plain}, body: "\x00{\x00}"}, want: "!invalid-key"},
		{name: "UTF-16 with a mark", request: sent{header: []string{plain}, body: "\xff\xfe{\x00}\x00"}, want: "!invalid-key"},
		{name: "two documents", request: sent{header: []string{plain}, body: `{"id":7} {"id":8}`}, want: "!invalid-key"},
		{name: "compressed", request: sent{header: []string{asJSON, "Content-Encoding: gzip"}, body: "\x1f\x8b"}, want: "!invalid-key"},
		{name: "said to be compressed", request: sent{header: []string{asJSON, "Content-Encoding: br"}, body: `{"id":7}`}, want: "!invalid-key"},
		{name: "not compressed", request: sent{header: []string{asJSON, "Content-Encoding: Identity"}, body: `{"id":7}`}, want: "order:7"},
		{name: "UTF-8", request: sent{header: []string{asJSON + `; Charset="UTF-8"`}, body: `{"id":"é"}`}, want: "order:é"},
		{name: "UTF-7", request: sent{header: []string{asJSON + "; charset=utf-7"}, body: `{"id":7,"+AGkAZA-":8}`}, want: "!invalid-key"},
		{name: "Latin-1 that is ASCII", request: sent{header: []string{asJSON + "; charset=ISO-8859-1"}, body: `{"id":7}`}, want: "order:7"},
		{name: "Latin-1 that is not", request: sent{header: []string{asJSON + "; charset=ISO-8859-1"}, body: `{"id":"é"}`}, want: "!invalid-key"},
		{name: "two charsets", request: sent{header: []string{asJSON + "; charset=utf-8; charset=utf-7"}, body: `{"id":7}`}, want: "!invalid-key"},
		{name: "a parameter that is none", request: sent{header: []string{asJSON + "; utf-8"}, body: `{"id":7}`}, want: "order:7"},
		{name: "empty", request: sent{header: []string{asJSON}, body: `{"id":""}`}, want: "!invalid-key"},
		{name: "null", request: sent{header: []string{asJSON}, body: `{"id":null}`}, want: "!invalid-key"},
		{name: "twice", request: sent{header: []string{asJSON}, body: `{"id":7,"id":7}`}, want: "!ambiguous-key"},
	} {
		k.from = []Source{{JSON: "id"}}
		k.check(t)
	}
	both := []Source{{JSON: "id"}, {Query: "id"}}
	for _, k := range []keyCase{
		{name: "body before query", request: sent{target: "/?id=8", header: []string{asJSON}, body: `{"id":7}`}, want: "order:7"},
		{name: "query without body", request: sent{target: "/?id=8"}, want: "order:8"},
		{name: "a body that is a form to some", request: sent{target: "/?id=8", header: []string{form}, body: `{"id":7}`}, want: "!ambiguous-key"},
		{name: "a body that nobody declared", request: sent{target: "/?id=8", body: `{"id":7}`}, want: "!ambiguous-key"},
		{name: "a body that agrees", request: sent{target: "/?id=7", header: []string{form}, body: `{"id":7}`}, want: "order:7"},
		{name: "a body of GET", request: sent{method: "GET", target: "/?id=8", header: []string{asJSON}, body: `{"id":7}`}, want: "!ambiguous-key"},
		{name: "a body of get", request: sent{method: "get", target: "/?id=8", header: []string{asJSON}, body: `{"id":7}`}, want: "!ambiguous-key"},
		{name: "a body of DELETE that stands alone", request: sent{method: "DELETE", header: []string{asJSON}, body: `{"id":7}`}, want: "order:7"},
		{name: "an ambiguous query behind it", request: sent{target: "/?id=8&id=9", header: []string{form}, body: `{"id":7}`}, want: "!ambiguous-key"},
	} {
		k.from = both
		k.check(t)
	}
}

// Mutants: escapePart that leaves % alone; compositeValue that takes what is
// there; normalize on the whole.
func TestCompositeKeys(t *testing.T) {
	both := []Source{{All: []Source{{Header: "A"}, {Query: "b"}}}, {Header: "C"}}
	for _, k := range []keyCase{
		{name: "joined", request: sent{target: "/?b=2", header: []string{"A: 1"}}, want: "order:1/2"},
		{name: "a slash in a part", request: sent{target: "/?b=2", header: []string{"A: 1/2"}}, want: "order:1%2F2/2"},
		{name: "an escape in a part", request: sent{target: "/?b=%252F", header: []string{"A: 1%2f"}}, want: "order:1%252f/%252F"},
		{name: "a part is missing", request: sent{header: []string{"A: 1", "C: 3"}}, want: "order:3"},
		{name: "all is missing", request: sent{}, want: "!missing-key"},
		{name: "a part is empty", request: sent{target: "/?b=", header: []string{"A: 1"}}, want: "!invalid-key"},
		{name: "a part is ambiguous", request: sent{target: "/?b=1&b=2", header: []string{"A: 1", "C: 3"}}, want: "!ambiguous-key"},
		{name: "as long as may be", request: sent{target: "/?b=" + strings.Repeat("b", 62), header: []string{"A: 1"}}, want: "order:1/" + strings.Repeat("b", 62)},
		{name: "too long", request: sent{target: "/?b=" + strings.Repeat("b", 63), header: []string{"A: 1"}}, want: "!invalid-key"},
		{name: "too long by its escapes", request: sent{target: "/?b=" + strings.Repeat("%2f", 21), header: []string{"A: 1"}}, want: "!invalid-key"},
	} {
		k.from = both
		k.check(t)
	}
	keyCase{
		name: "within one another", from: []Source{{All: []Source{{Header: "A"}, {All: []Source{{Header: "B"}, {Header: "C"}}}}}},
		request: sent{header: []string{"A: 1", "B: 2/", "C: 3"}}, want: "order:1/2%252F%2F3",
	}.check(t)
}

// Mutants: n >= MaxLength; the length before trimming; lower over all of Unicode.
func TestNormalizationAndLength(t *testing.T) {
	route := keyed("/", Source{Query: "id"})
	route.Key.Normalize, route.Key.MaxLength = []string{"trim", "lower"}, 4
	p := judge(t, route)
	for query, want := range map[string]string{
		"abc": "order:abc", "abcd": "order:abcd", "abcde": "!invalid-key", "ééé": "!invalid-key", "éé": "order:éé",
		"AbC": "order:abc", "ÀB": "order:Àb", "%09+AB%0D%0A": "order:ab", "+a+b+": "order:a b",
		"+++abcd+++": "order:abcd", "+": "!invalid-key", "%C2%A0a": "order:\u00a0a", "": "!invalid-key",
	} {
		got := p.ask(t, sent{target: "/?id=" + query})
		if have := got.key; have != want && "!"+got.slug != want {
			t.Errorf("%q: got %q %s (%s), want %q", query, have, got.slug, got.detail, want)
		}
	}
	composite := keyed("/", Source{All: []Source{{Query: "a"}, {Query: "b"}}})
	composite.Key.Normalize = []string{"trim"}
	if got := judge(t, composite).ask(t, sent{target: "/?a=+1+&b=+2+"}); got.key != "order:1/2" {
		t.Errorf("got %q %s", got.key, got.detail)
	}
}

func TestRequestsWithoutAKey(t *testing.T) {
	route := keyed("/", Source{Header: "X-Order"})
	route.Key.Missing = MissingBypass
	p := judge(t, route)
	if got := p.ask(t, sent{}); got.slug != "" || got.mode != bypass {
		t.Errorf("bypass: %+v", got)
	}
	for _, line := range []string{"X-Order:", "X_Order: 7"} { // there, if not usable: no reason to go without a lane
		if got := p.ask(t, sent{header: []string{line}}); got.slug == "" {
			t.Errorf("%s: %+v", line, got)
		}
	}
	route.Key.Missing = MissingClientIP
	if got := judge(t, route).ask(t, sent{}); got.key != "order:0.0.0.0" {
		t.Errorf("client address: %+v", got)
	}
	route.Key.Missing = MissingReject
	if got := judge(t, route).ask(t, sent{}); got.slug != "missing-key" || !strings.Contains(got.detail, "header:X-Order") {
		t.Errorf("reject: %+v", got)
	}
}

func TestForwardedHeadersCountFromTrustedProxies(t *testing.T) {
	p := judge(t, keyed("/", Source{Header: "x-forwarded-user"}, Source{Header: "X-User"}))
	request := sent{header: []string{"X-Forwarded-User: 7", "X-User: 8"}}
	if got := p.ask(t, request); got.key != "order:8" { // the service does not get it
		t.Errorf("from anybody: %+v", got)
	}
	p.Config().TrustedProxies = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	if got := p.ask(t, request); got.key != "order:7" {
		t.Errorf("from a trusted proxy: %+v", got)
	}
}

func TestSourcesThatCannotServeAreRefused(t *testing.T) {
	for _, source := range []Source{
		{Path: "nothere"}, {Header: "connection"}, {Header: "te"}, {Header: "Cookie"}, {Header: "X-Forwarded-For"},
		{Header: "Lanekeeper-Ticket"}, {}, {All: []Source{}}, {All: []Source{{Query: "a"}, {}}}, {All: []Source{{Header: "A"}, {Path: "nothere"}}},
	} {
		if r, err := newRoute(keyed("/{id}", source), 0); err == nil {
			t.Errorf("%s: accepted as %v", &source, r.from)
		}
	}
	if _, err := newRoute(keyed("/{id}", Source{Header: "lanekeeper-producer"}), 0); err != nil {
		t.Error(err)
	}
}

// A refusal is written into the log, where values have no place.
func TestRefusalsShowNoValues(t *testing.T) {
	p := judge(t, keyed("/{id}", Source{Path: "id"}), keyed("/a/{$}", Source{JSON: "id"}, Source{Query: "id"}, Source{Cookie: "id"}, Source{Header: "id"}))
	for _, request := range []sent{
		{target: "/secret%"}, {target: "//secret"}, {target: "/SECRET/"}, {target: "/secret;x"},
		{target: "/a/", body: `{"id":20.5e9}`}, {target: "/a/", body: `{"id":"secret","id":"secret"}`}, {target: "/a/", body: `{"id":["secret"]}`},
		{target: "/a/?id=secret%"}, {target: "/a/?id=secret&id=secret"}, {target: "/a/?id=x", body: `{"id":"secret"}`},
		{target: "/a/", header: []string{"Cookie: id=secret; id=secret"}}, {target: "/a/", header: []string{"Id: secret", "Id: secret"}},
		{target: "/a/", header: []string{"Id: " + strings.Repeat("secret", 20)}},
	} {
		got := p.ask(t, request)
		if got.slug == "" || got.detail == "" || strings.Contains(strings.ToLower(got.detail), "secret") || strings.Contains(got.detail, "20.5") {
			t.Errorf("%q: %+v", request, got)
		}
	}
}

// A value that is refused for its length must not stay in memory that calls keep.
func TestALongValueIsNotKept(t *testing.T) {
	p := judge(t, keyed("/", Source{JSON: "id"}))
	c, err := read(p, sent{body: `{"id":"` + strings.Repeat("x", 1<<19) + `"}`}.String())
	if err != nil {
		t.Fatal(err)
	}
	if v := c.decide(); v.slug != "invalid-key" || cap(c.key) > 1<<10 {
		t.Errorf("%s, %d bytes kept", v.slug, cap(c.key))
	}
}

// Mutant: % not escaped.
func TestLanekeeperKeyRoundTrip(t *testing.T) {
	seen := map[string]bool{}
	for a := range 256 {
		for _, key := range [][]byte{{byte(a)}, {'%', byte(a)}, {byte(a), '2', '5'}, {'a', byte(a), 0xff}} {
			shown := appendKey([]byte("order:"), key)
			back, err := unescape(nil, shown[len("order:"):])
			if err != nil || !bytes.Equal(back, key) {
				t.Errorf("%q is shown as %q, which is %q", key, shown, back)
			}
			for _, c := range shown {
				if c <= ' ' || c > '~' {
					t.Errorf("%q is shown as %q", key, shown)
				}
			}
			if text := string(shown); seen[text] && len(key) > 2 {
				t.Errorf("two keys are shown as %q", text)
			} else {
				seen[text] = true
			}
		}
	}
}

// Every request pays for this.
func TestFindingAKeyAllocatesNothing(t *testing.T) {
	header := []string{"User-Agent: Mozilla/5.0", "Accept: */*", "Connection: keep-alive", "X-Request-Id: abc", "X-Order-Identification-Number: 7"}
	for _, test := range []struct {
		route  Route
		target string
	}{
		{keyed("/orders/{id}/{rest...}", Source{Path: "id"}), "/orders/A-1042/items"},
		{keyed("/orders/{id}/{rest...}", Source{Path: "id"}), "/orders/A%201042/items"},
		{keyed("/", Source{Header: "X-Order-Identification-Number"}), "/orders"},
		{keyed("/", Source{Query: "id"}), "/orders?a=b&id=a%20b+c"},
		{keyed("/", Source{All: []Source{{Header: "X-Request-Id"}, {Query: "id"}}}), "/orders?id=7"},
	} {
		c, err := read(judge(t, test.route, open("/")), sent{target: test.target, header: header}.String())
		if err != nil {
			t.Fatal(err)
		}
		if v := c.decide(); v.key == "" {
			t.Fatal(v)
		}
		if n := testing.AllocsPerRun(100, func() {
			if c.match() != nil || c.findKey() != nil {
				t.Fatal("refused")
			}
		}); n != 0 {
			t.Errorf("%s, %s: %v allocations", &test.route.Key.From[0], test.target, n)
		}
	}
}

func BenchmarkFindKey(b *testing.B) {
	header := []string{"User-Agent: Mozilla/5.0", "Accept: */*", "Accept-Encoding: gzip", "Connection: keep-alive", "X-Request-Id: abc", "Traceparent: 00-1-2-01", "X-Order-Id: 7"}
	for name, test := range map[string]struct {
		source  Source
		request sent
	}{
		"path":   {Source{Path: "id"}, sent{target: "/orders/A-1042/items", header: header}},
		"header": {Source{Header: "X-Order-Id"}, sent{target: "/orders/A-1042/items", header: header}},
		"query":  {Source{Query: "id"}, sent{target: "/orders/A-1042/items?a=b&id=7", header: header}},
		"json":   {Source{JSON: "data.id"}, sent{target: "/orders/A-1042/items", header: header, body: `{"data":{"a":[1,2,3],"id":7}}`}},
	} {
		b.Run(name, func(b *testing.B) {
			c, err := read(judge(b, keyed("/orders/{id}/{rest...}", test.source), open("/")), test.request.String())
			if err != nil || c.decide().key == "" {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				c.match()
				c.findKey()
			}
		})
	}
}

// FuzzKey writes two values into requests in every spelling that a source has.
// All spellings of a value give one key, which is the value, and two values
// never share one.
func FuzzKey(f *testing.F) {
	for _, pair := range [][2]string{{"7", "8"}, {"a/b", "a%2Fb"}, {"%", "%25"}, {"+", " "}, {"é", "e\u0301"}, {"\xff", "\ufffd"}, {"a,b", "a;b"}, {`"`, `\`}, {"..", "."}, {"-0", "0"}} {
		f.Add(pair[0], pair[1], uint32(0b1011))
	}
	path := judge(f, keyed("/o/{id}/x", Source{Path: "id"}))
	header := judge(f, keyed("/", Source{Header: "X-Id"}))
	query := judge(f, keyed("/", Source{Query: "the id"}))
	cookie := judge(f, keyed("/", Source{Cookie: "id"}))
	body := judge(f, keyed("/", Source{JSON: "a.id"}))
	composite := judge(f, keyed("/{a}/{b}", Source{All: []Source{{Path: "a"}, {Path: "b"}}}))
	f.Fuzz(func(t *testing.T, a, b string, choice uint32) {
		if a == "" || b == "" || len(a)+len(b) > 20 {
			return
		}
		spellings := func(value string) (all []string) {
			add := func(kind string, p *Proxy, request sent, may bool) {
				v := p.ask(t, request)
				switch {
				case v.slug == "" && v.key != "order:"+value:
					t.Fatalf("%s: %q gave %q, want %q", kind, request, v.key, value)
				case v.slug != "" && may:
					t.Fatalf("%s: %q is refused: %s", kind, request, v.detail)
				case v.slug == "":
					all = append(all, v.key)
				}
			}
			escaped := escapeSome(value, choice)
			safe := dots([]byte(escaped)) == 0 && !strings.ContainsAny(value, `\/;`)
			add("path", path, sent{target: "/o/" + escaped + "/x"}, safe)
			add("path", path, sent{target: "/%6F/" + escapeSome(value, ^choice) + "/%78"}, safe)
			add("query", query, sent{target: "/?x=y&the+id=" + escaped}, true)
			add("query", query, sent{target: "/?%74he%20id=" + escapeSome(value, ^choice) + "&z"}, true)
			add("query", query, sent{target: "/?the+id=" + url.QueryEscape(value)}, true)
			if trimmed := strings.Trim(value, " \t"); trimmed == value && !strings.ContainsFunc(value, isControl) {
				add("header", header, sent{header: []string{"X-Id: \t" + value + " "}}, true)
				if !strings.ContainsAny(value, `",;\`) {
					add("cookie", cookie, sent{header: []string{"Cookie: x=y; id=" + value}}, true)
					add("cookie", cookie, sent{header: []string{`Cookie: id="` + value + `";x`}}, true)
				}
			}
			if text, err := json.Marshal(value); err == nil && strings.ToValidUTF8(value, "") == value && !strings.Contains(value, "\ufffd") {
				add("json", body, sent{body: `{"a":{"id":` + string(text) + `}}`}, true)
				add("json", body, sent{body: ` {"b":1, "\u0061" : {"x":[],"i\u0064":` + escapeJSON(value) + `}}`}, true)
			}
			if n, err := strconv.Atoi(value); err == nil && strconv.Itoa(n) == value {
				add("json", body, sent{body: `{"a":{"id":` + value + `}}`}, true)
			}
			return all
		}
		ofA, ofB := spellings(a), spellings(b)
		for _, x := range ofA {
			for _, y := range ofB {
				if (x == y) != (a == b) {
					t.Fatalf("%q and %q: lanes %q and %q", a, b, x, y)
				}
			}
		}
		// Lists of parts: (a, b) has a lane with (b, a) only if they are equal.
		one := composite.ask(t, sent{target: "/" + escapeSome(a, ^uint32(0)) + "/" + escapeSome(b, ^uint32(0))})
		two := composite.ask(t, sent{target: "/" + escapeSome(b, ^uint32(0)) + "/" + escapeSome(a, ^uint32(0))})
		if one.slug == "" && two.slug == "" && (one.key == two.key) != (a == b) {
			t.Fatalf("(%q, %q) and the reverse: lanes %q and %q", a, b, one.key, two.key)
		}
		if parts := strings.Split(strings.TrimPrefix(one.key, "order:"), "/"); one.slug == "" {
			back, _ := url.PathUnescape(parts[0])
			if len(parts) != 2 || back != a {
				t.Fatalf("(%q, %q) cannot be told from %q", a, b, one.key)
			}
		}
	})
}

// escapeSome escapes the bytes that must be escaped, and others by choice.
func escapeSome(value string, choice uint32) string {
	var b strings.Builder
	for i := range len(value) {
		c := value[i]
		if c > ' ' && c < 0x7f && !strings.ContainsRune(`%/?#&+=;\`, rune(c)) && choice>>(i%32)&1 == 0 {
			b.WriteByte(c)
		} else if choice>>(i%31)&1 == 0 {
			fmt.Fprintf(&b, "%%%02x", c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

func escapeJSON(value string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range value {
		if r >= 0x10000 {
			r -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04X`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		} else {
			fmt.Fprintf(&b, `\u%04X`, r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func isControl(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }

// FuzzKeyIsWhatTheServiceSees sends anything, and compares the key of what is
// accepted with what the standard library finds in the request as forwarded.
func FuzzKeyIsWhatTheServiceSees(f *testing.F) {
	for _, seed := range []string{
		"POST /o/7?id=8 HTTP/1.1\r\nHost: a\r\nX-Id: 9\r\nCookie: id=10\r\nContent-Length: 9\r\n\r\n{\"id\":11}",
		"POST /o/%37?%69d=8&a;b HTTP/1.1\r\nHost: a\r\nX-Id:  9 \r\nConnection: close\r\nCookie: a=\"b\"; id=\"10\"\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{\"id\":11}\r\n0\r\nX-Id: 8\r\n\r\n",
		"POST http://a/o/7 HTTP/1.1\r\nHost: a\r\nConnection: X-Id\r\nX-Id: 9\r\nx_id: 3\r\n fold\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	sources := []Source{{Path: "id"}, {Query: "id"}, {Header: "X-Id"}, {Cookie: "id"}, {JSON: "id"}}
	var proxies []*Proxy
	for _, source := range sources {
		proxies = append(proxies, judge(f, keyed("/o/{id}", source)))
	}
	f.Fuzz(func(t *testing.T, request []byte) {
		for i := range sources {
			c, err := read(proxies[i], string(request))
			if err != nil {
				return
			}
			v := c.decide()
			if v.slug != "" || v.route == "" {
				continue
			}
			c.link.lease.Target = &upstream.Target{Host: "app:80"}
			c.prepare()
			wire := append(c.appendHead(nil), c.ctx.Request.Body()...)
			service, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(wire)))
			if err != nil {
				continue // it runs nothing
			}
			if seen, ok := seenByService(service, &sources[i]); ok && "order:"+seen != v.key {
				t.Fatalf("%s: key %q, the service sees %q in\n%s", &sources[i], v.key, seen, wire)
			}
		}
	})
}

// seenByService is what a service of net/http takes for the key, if it takes anything.
func seenByService(r *http.Request, s *Source) (string, bool) {
	switch {
	case s.Path != "":
		var value string
		mux := http.NewServeMux()
		mux.HandleFunc("/o/{id}", func(_ http.ResponseWriter, r *http.Request) { value = r.PathValue("id") })
		mux.ServeHTTP(discard{}, r) // a redirect runs nothing
		return value, value != ""
	case s.Query != "":
		return r.URL.Query().Get(s.Query), r.URL.Query().Has(s.Query)
	case s.Header != "":
		return r.Header.Get(s.Header), len(r.Header.Values(s.Header)) > 0
	case s.Cookie != "":
		cookie, err := r.Cookie(s.Cookie)
		if err != nil {
			return "", false
		}
		if !cookie.Quoted {
			return strings.Trim(cookie.Value, " \t"), true // net/http keeps blanks that others drop
		}
		return cookie.Value, true
	}
	var document struct{ ID json.RawMessage }
	body, _ := io.ReadAll(r.Body)
	if json.Unmarshal(body, &document) != nil || document.ID == nil {
		return "", false
	}
	var text string
	if json.Unmarshal(document.ID, &text) == nil {
		return text, true
	}
	return string(document.ID), true
}

// discard takes a response.
type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) WriteHeader(int)             {}
