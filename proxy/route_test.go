package proxy

import (
	"bufio"
	"net/http"
	"net/url"
	"path"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"
)

// Mutants: {rest...} not at the end accepted; two wildcards of one name.
func TestTemplatesThatAreRefused(t *testing.T) {
	for _, text := range []string{
		"orders", "//", "/a//b", "/a/{", "/a/}", "/a/{}", "/a/{b}c", "/a/c{b}", "/a/{b", "/a/{1b}", "/a/{b-c}", "/a/{é}",
		"/{a}/{a}", "/{a}/{a...}", "/{rest...}/a", "/{$}/a", "/{$...}", "/a%zz", "/a/../b", "/a/.", "/a/%2e%2E/b", "/a/{...}",
		"/{a}/{b}/{c}/{d}/{e}/{f}/{g}/{h}/{i}",
	} {
		if names, err := CheckPath(text); err == nil {
			t.Errorf("%q is accepted, with wildcards %q", text, names)
		}
	}
}

// Mutants: {$} as a literal; an empty segment for {name}; the rest with its slash.
func TestTemplates(t *testing.T) {
	const no = "(no match)"
	for _, test := range []struct {
		template, path string
		want           string // the wildcards' values, each behind a bar
	}{
		{"", "/", ""}, {"", "/a/b", ""}, {"", "*", ""}, {"", "http://a/b", no}, {"/", "http://a/b", no}, {"/{rest...}", "a", no},
		{"/", "/", ""}, {"/", "/a/b", ""}, {"/", "*", ""}, {"/a", "*", no},
		{"/a", "/a", ""}, {"/a", "/a/", no}, {"/a", "/A", no}, {"/a", "/ab", no}, {"/a", "/", no}, {"/a", "/%61", ""}, {"/a", "/a%", no},
		{"/%61%2Fb", "/a%2fb", ""}, {"/%61%2Fb", "/a/b", no}, {"/a+b", "/a+b", ""}, {"/a b", "/a%20b", ""},
		{"/a/", "/a/", ""}, {"/a/", "/a/b/c", ""}, {"/a/", "/a", ""}, {"/a/", "/ab", no},
		{"/a/{$}", "/a/", ""}, {"/a/{$}", "/a", no}, {"/a/{$}", "/a/b", no}, {"/{$}", "/", ""}, {"/{$}", "/a", no},
		{"/{a}", "/b", "|b"}, {"/{a}", "/", no}, {"/{a}", "/b/", no}, {"/{a}", "/b%2Fc", "|b%2Fc"}, {"/{a}", "/%", "|%"},
		{"/{a}/b/{c}", "/x/b/y", "|x|y"}, {"/{a}/b/{c}", "//b/y", no}, {"/{a}/b/{c}", "/x/b/", no},
		{"/a/{b...}", "/a/x/y/", "|x/y/"}, {"/a/{b...}", "/a/", "|"}, {"/a/{b...}", "/a", "|"}, {"/a/{b...}", "/ab", no},
		{"/{a}/{b...}", "/x", "|x|"}, {"/{a}/{b...}", "/x//y", "|x|/y"},
		{"/{_a1}", "/x", "|x"},
	} {
		template, err := parseTemplate(test.template)
		if err != nil {
			t.Errorf("%s: %v", test.template, err)
			continue
		}
		var values captures
		got := no
		if template.match([]byte(test.path), &values, strictly) {
			got = ""
			for i := range template.names {
				got += "|" + string(values[i])
			}
		}
		if got != test.want {
			t.Errorf("%s, %s: got %s, want %s", test.template, test.path, got, test.want)
		}
	}
}

// Mutants: mode by the exact method; a field that takes the first of two lines
// for the only one; the trailing dot kept; nominates left out of field.
func TestWhatElseARouteLooksAt(t *testing.T) {
	route := func(name string, match Match, lane Lane) Route {
		r := keyed("/", Source{Query: "id"})
		r.Name, r.Match, r.Lane = name, match, lane
		r.Match.Path = "/"
		return r
	}
	all := Lane{Bypass: []string{"*"}}
	dry, write := Header{"X-Dry-Run", "true"}, Header{Name: "X-Write"}
	p := judge(t,
		route("host", Match{Host: "Shop.example"}, Lane{Shared: []string{"GET"}, Bypass: []string{"OPTIONS"}}),
		route("six", Match{Host: "::2"}, Lane{}),
		route("six too", Match{Host: "[::3]"}, Lane{}),
		route("patch", Match{Methods: []string{"PATCH"}}, Lane{}),
		route("dry", Match{Headers: []Header{dry}}, all),
		route("write", Match{Headers: []Header{write, {"X-Mode", "a"}}}, Lane{}),
		route("get", Match{Methods: []string{"GET", "HEAD"}}, Lane{Shared: []string{"*"}, Exclusive: []string{"HEAD"}}),
		route("rest", Match{}, all),
	)
	for _, test := range []struct{ head, want string }{
		{"GET / HTTP/1.1|Host: shop.example", "host shared"},
		{"get / HTTP/1.1|Host: SHOP.EXAMPLE:80", "host shared"},
		{"POST / HTTP/1.1|Host: shop.example.", "host exclusive"},
		{"POST / HTTP/1.1|Host: shop.example.:80", "host exclusive"},
		{"POST / HTTP/1.1|Host: [::2]", "six exclusive"},
		{"POST / HTTP/1.1|Host: [::3]:80", "six too exclusive"},
		{"OPTIONS * HTTP/1.1|Host: a", "rest bypass"},
		{"OPTIONS * HTTP/1.1|Host: shop.example", "host bypass"},
		{"PATCH / HTTP/1.1|Host: [::1]:80", "patch exclusive"},
		{"patch / HTTP/1.1|Host: a", "patch exclusive"},
		{"GET / HTTP/1.1|Host: a", "get shared"},
		{"HEAD / HTTP/1.1|Host: a", "get exclusive"},
		{"POST / HTTP/1.1|Host: a", "rest bypass"},
		{"POST / HTTP/1.1|Host: a|X-Dry-Run: true", "dry bypass"},
		{"POST / HTTP/1.1|Host: a|X-Dry-Run: TRUE", "rest bypass"},
		{"POST / HTTP/1.1|Host: a|X-Write:", "rest bypass"},
		{"POST / HTTP/1.1|Host: a|X-Write: 1|X-Mode: a", "write exclusive"},
		{"POST / HTTP/1.1|Host: a|X-Write: 1|X-Mode: a|X-Mode: a", "write exclusive"},
		{"POST / HTTP/1.1|Host: a|X-Write: 1|X-Mode: a|X-Mode: b", "write exclusive"}, // a lane too many does no harm
		{"POST / HTTP/1.1|Host: a|X-Write: 1|X-Mode: b|X-Mode: a", "malformed-request"},
		{"POST / HTTP/1.1|Host: a|X-Write: 1|X-Mode: b|X_Mode: a", "malformed-request"},
		{"POST / HTTP/1.1|Host: a|X_Write: 1|X-Mode: a", "malformed-request"},
		{"POST / HTTP/1.1|Host: a|X_Write: 1|X-Mode: b", "rest bypass"},
		{"GET / HTTP/1.1|Host: a|X-Dry-Run: true|X-Dry-Run: false", "malformed-request"},
		{"POST / HTTP/1.1|Host: a|X-Dry-Run: true|X-Dry-Run: false", "dry bypass"}, // no lane, whichever is meant
		{"GET / HTTP/1.1|Host: a|X-Dry-Run: true|Connection: x-dry-run", "malformed-request"},
		{"POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked|Trailer: X-Write, X-Mode||0|X-Write: 1|X-Mode: a", "rest bypass"},
	} {
		text := strings.ReplaceAll(strings.Replace(test.head, " / ", " /?id=7 ", 1), "|", "\r\n") + "\r\n\r\n"
		c, err := read(p, text)
		if err != nil {
			t.Errorf("%s: %v", test.head, err)
			continue
		}
		v := c.decide()
		got := v.slug
		if got == "" {
			got = v.route + " " + v.mode.String()
		}
		if got != test.want {
			t.Errorf("%s: got %s (%s), want %s", test.head, got, v.detail, test.want)
		}
	}
}

// An Upgrade is always named by Connection, which makes it no less certain.
func TestAnUpgradeFindsItsRoute(t *testing.T) {
	socket := open("/orders/{id}")
	socket.Match.Headers = []Header{{"upgrade", "websocket"}}
	p := judge(t, socket, keyed("/orders/{id}", Source{Path: "id"}))
	v := p.ask(t, sent{method: "GET", target: "/orders/7", header: []string{"Connection: Upgrade", "Upgrade: websocket"}})
	if v.slug != "" || v.mode != bypass {
		t.Errorf("%+v", v)
	}
}

// The head alone decides whether a body is hidden from lanes, before the target
// is made a path. Mutants, together: routeOf by the target as sent; a template
// without segments that matches any target.
func TestNoBodyIsHiddenBehindAnAbsoluteTarget(t *testing.T) {
	for _, rest := range []string{"", "/", "/{rest...}"} {
		p := judge(t, keyed("/orders/{id}", Source{Path: "id"}), open(rest))
		c := &call{proxy: p}
		c.setup = p.setup.Load()
		c.ctx = new(fasthttp.RequestCtx)
		head := "POST http://a/orders/7 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
		if err := c.ctx.Request.Header.Read(bufio.NewReader(strings.NewReader(head))); err != nil {
			t.Fatal(err)
		}
		p.headReceived(&c.ctx.Request.Header)
		if v := c.decide(); v.key != "order:7" || c.fields.uploads() {
			t.Errorf("%q: %+v, body hidden: %v", rest, v, c.fields.uploads())
		}
	}
}

// FuzzRoute compares a template with the same pattern of net/http.ServeMux, over
// clean paths.
func FuzzRoute(f *testing.F) {
	for _, pattern := range []string{"/", "/{$}", "/a", "/a/", "/{x}", "/a/{x}/b", "/a/{x...}", "/{x}/{y}/{$}", "/a%2Fb/{x}", "/{x}/"} {
		for _, target := range []string{"/", "/a", "/a/", "/a/b", "/a/b/c/", "/%61/b%2Fc", "/a%2Fb/+", "/é/%ff"} {
			f.Add(pattern, target, "v/w")
		}
	}
	f.Fuzz(func(t *testing.T, pattern, target, value string) {
		template, err := parseTemplate(pattern)
		mux, values := http.NewServeMux(), map[string]string(nil)
		refused := serve(mux, pattern, func(r *http.Request) {
			values = map[string]string{}
			for _, name := range template.names {
				values[name] = r.PathValue(name)
			}
		})
		switch {
		case pattern == "" || strings.ContainsAny(pattern, " \t") || strings.Contains(pattern, "/{$}/"):
			return // a pattern of everything; methods; what only ServeMux explains
		case hasSlashSegment(pattern):
			return // ServeMux would match it with a path that ends there
		case err == nil && refused != nil:
			t.Fatalf("%q is a template, but no pattern: %v", pattern, refused)
		case err != nil && refused == nil && !strings.Contains(err.Error(), "wildcard") && !strings.Contains(err.Error(), "never matches") && !strings.Contains(pattern, "%") && pattern[0] == '/':
			t.Fatalf("%q is a pattern, but no template: %v", pattern, err)
		case err != nil:
			return
		}
		filled := pattern
		for _, name := range template.names {
			filled = strings.NewReplacer("{"+name+"}", url.PathEscape(value), "{"+name+"...}", value).Replace(filled)
		}
		for _, target := range []string{target, filled, strings.TrimSuffix(filled, "{$}")} {
			u, err := url.ParseRequestURI(target)
			if err != nil || target == "" || target[0] != '/' || u.Path == "" || u.RawQuery != "" || u.ForceQuery || !isClean(u.EscapedPath()) {
				continue
			}
			values = nil
			mux.ServeHTTP(discard{}, &http.Request{Method: "POST", URL: u, Host: "a"})
			var raw captures
			matched := template.match([]byte(u.EscapedPath()), &raw, strictly)
			if matched && values == nil && template.tail == everything { // documented
				u, _ = url.ParseRequestURI(target + "/")
				mux.ServeHTTP(discard{}, &http.Request{Method: "POST", URL: u, Host: "a"})
			}
			if matched != (values != nil) {
				t.Fatalf("%q, %q: matched %v, ServeMux %v", pattern, target, matched, values != nil)
			}
			for i, name := range template.names {
				have, err := unescape(nil, raw[i])
				if matched && (err != nil || string(have) != values[name]) {
					t.Fatalf("%q, %q: %s is %q, ServeMux has %q", pattern, target, name, have, values[name])
				}
			}
		}
	})
}

// serve registers a handler, or returns what ServeMux panics with.
func serve(mux *http.ServeMux, pattern string, handle func(*http.Request)) (refused any) {
	defer func() { refused = recover() }()
	mux.HandleFunc(pattern, func(_ http.ResponseWriter, r *http.Request) { handle(r) })
	return nil
}

// isClean reports whether ServeMux takes an escaped path as it is.
func isClean(escaped string) bool {
	cleaned := path.Clean(escaped)
	if strings.HasSuffix(escaped, "/") && cleaned != "/" {
		cleaned += "/"
	}
	return cleaned == escaped && !hasSlashSegment(escaped)
}

// hasSlashSegment reports whether a segment is one encoded slash, which ServeMux
// takes for the slash that ends a path.
func hasSlashSegment(escaped string) bool {
	for segment := range strings.SplitSeq(escaped, "/") {
		if strings.EqualFold(segment, "%2f") {
			return true
		}
	}
	return false
}
