package proxy

import (
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"

	"lanekeeper/queue"
)

func newRuled(t *testing.T, config Config) *Proxy {
	t.Helper()
	config.MaxURI, config.MaxHeaders, config.MaxBody = 1000, 100, 1<<20
	config.Upstreams = []Upstream{{Name: "app", Targets: []string{"http://app"}}, {Name: "other", Targets: []string{"http://other"}}}
	p, err := New(config, queue.New(queue.Config{MaxQueued: 10, MaxQueuedBytes: 1 << 20, MaxLanes: 10}), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func ruled(name, space, path, from string) Route {
	return Route{
		Name: name, Match: Match{Path: path}, Upstream: "app",
		Key: Key{Space: space, From: []Source{{Path: from}}, MaxLength: 100}, Lane: Lane{Bypass: []string{"OPTIONS"}},
	}
}

// TestKeyRules holds which changes of routes may lead a request to another lane.
//
// Mutants: a route of another space before does not count; only paths that are equal
// meet, or only in the same letters; a path that ends meets one that goes on below it; what
// follows the last route of a space counts; the methods of bypass are not looked at; trusted
// proxies count for every space.
func TestKeyRules(t *testing.T) {
	base := func() Config {
		order, cart := ruled("order", "order", "/orders/{id}/{rest...}", "id"), ruled("cart", "cart", "/carts/{id}", "id")
		cart.Key.Missing = MissingClientIP
		session := ruled("session", "session", "/s/{id}", "id")
		session.Key.From = []Source{{Cookie: "c", Issue: true}}
		return Config{
			Routes:   []Route{order, cart, session, {Name: "rest", Upstream: "app", Lane: Lane{Bypass: []string{"*"}}}},
			Sessions: &Sessions{Secrets: [][]byte{[]byte("one")}},
		}
	}
	for name, c := range map[string]struct {
		change func(*Config)
		want   string // the spaces
	}{
		"nothing":            {func(*Config) {}, ""},
		"another name":       {func(c *Config) { c.Routes[0].Name = "orders" }, ""},
		"another upstream":   {func(c *Config) { c.Routes[0].Upstream = "other" }, ""},
		"another limit":      {func(c *Config) { c.Routes[0].Lane.MaxDepth, c.Routes[0].Key.MaxLength = 9, 9 }, ""},
		"another class":      {func(c *Config) { c.Routes[0].Lane.Shared = []string{"GET"} }, ""},
		"a method passes by": {func(c *Config) { c.Routes[0].Lane.Bypass = []string{"OPTIONS", "GET"} }, "order"},
		"only others wait": {func(c *Config) {
			c.Routes[0].Lane = Lane{Bypass: []string{"OPTIONS", "*"}, Exclusive: []string{"POST"}}
		}, "order"},
		"another source":             {func(c *Config) { c.Routes[0].Key.From = []Source{{Header: "Id"}} }, "order"},
		"another form":               {func(c *Config) { c.Routes[0].Key.Normalize = []string{"lower"} }, "order"},
		"another rule without a key": {func(c *Config) { c.Routes[0].Key.Missing = MissingBypass }, "order"},
		"another space":              {func(c *Config) { c.Routes[0].Key.Space = "orders" }, "order"},
		"another path":               {func(c *Config) { c.Routes[0].Match.Path = "/orders/{id}" }, "order"},
		"only with a header":         {func(c *Config) { c.Routes[0].Match.Headers = []Header{{Name: "A"}} }, "order"},
		"only watched":               {func(c *Config) { c.Routes[0].Lane.Mode = Observe }, "order"},
		"one is gone":                {func(c *Config) { c.Routes = c.Routes[1:] }, "order"},
		"others in order":            {func(c *Config) { c.Routes[0], c.Routes[1] = c.Routes[1], c.Routes[0] }, ""},
		"the rest first":             {func(c *Config) { slices.Reverse(c.Routes) }, "order cart session"},
		"one more beside":            {func(c *Config) { c.Routes = slices.Insert(c.Routes, 0, ruled("x", "x", "/x/{id}", "id")) }, ""},
		"one more above":             {func(c *Config) { c.Routes = slices.Insert(c.Routes, 0, ruled("x", "x", "/orders/{id}/x", "id")) }, "order"},
		"in other letters":           {func(c *Config) { c.Routes = slices.Insert(c.Routes, 0, ruled("x", "x", "/ORDERS/{id}/x", "id")) }, "order"},
		"one more that ends before": {func(c *Config) {
			c.Routes = slices.Insert(c.Routes, 0, Route{Name: "x", Match: Match{Path: "/orders"}, Upstream: "app", Lane: Lane{Bypass: []string{"*"}}})
		}, ""},
		"one more for another host": {func(c *Config) {
			c.Routes = slices.Insert(c.Routes, 0, Route{Name: "x", Match: Match{Host: "h"}, Upstream: "app", Lane: Lane{Bypass: []string{"*"}}})
		}, "order cart session"},
		"one more of the space below": {func(c *Config) { c.Routes = append(c.Routes, ruled("x", "order", "/x/{id}", "id")) }, "order"},
		"other friends":               {func(c *Config) { c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} }, "cart"},
		"a secret more":               {func(c *Config) { c.Sessions.Secrets = [][]byte{[]byte("two"), []byte("one")} }, ""},
		"another secret":              {func(c *Config) { c.Sessions.Secrets = [][]byte{[]byte("two")} }, "session"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			p, next := newRuled(t, base()), base()
			c.change(&next)
			old, other := p.setup.Load(), newRuled(t, next).setup.Load()
			if got := strings.Join(old.changed(other), " "); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// A body is hidden or read by the head alone, before its request has a call. Whoever of
// the two setups it was, the request goes on by that.
//
// Mutants: agree does nothing; agree takes the setup before for all hidden bodies.
func TestAReloadBetweenHeadAndHandler(t *testing.T) {
	bypassed := ruled("order", "order", "/orders/{id}", "id")
	bypassed.Lane.Bypass = []string{"*"}
	keyed := ruled("order", "order", "/orders/{id}", "id")
	p := newRuled(t, Config{Routes: []Route{bypassed}})
	var early, late fasthttp.RequestCtx
	for _, ctx := range []*fasthttp.RequestCtx{&early, &late} {
		ctx.Request.Header.SetMethod("POST")
		ctx.Request.Header.SetRequestURI("/orders/7")
		ctx.Request.Header.SetHost("h")
		ctx.Request.Header.SetContentLength(inlineBody + 1)
	}
	route := func(ctx *fasthttp.RequestCtx) *route {
		c := p.begin(ctx)
		if problem := c.gate(); problem != nil {
			t.Fatal(problem.detail)
		}
		if problem := c.match(); problem != nil {
			t.Fatal(problem.detail)
		}
		if c.fields.uploads() && c.fields.length() != inlineBody+1 {
			t.Errorf("the body's length is %d", c.fields.length())
		}
		return c.route
	}
	first := p.setup.Load().routes[0]
	p.headReceived(&early.Request.Header)
	if _, err := p.Reload(Config{Routes: []Route{keyed}, Upstreams: p.Config().Upstreams, MaxURI: 1000, MaxHeaders: 100, MaxBody: 1 << 20}, false); err != nil {
		t.Fatal(err)
	}
	p.headReceived(&late.Request.Header)
	if r := route(&early); r != first {
		t.Errorf("the head's route passes by, the handler's has mode %s", r.mode([]byte("POST")))
	}
	if r := route(&late); r == first {
		t.Error("a new request comes to the old route")
	}
	if _, err := p.Reload(Config{Routes: []Route{bypassed}, Upstreams: p.Config().Upstreams, MaxURI: 1000, MaxHeaders: 100, MaxBody: 1 << 20}, false); err != nil {
		t.Fatal(err)
	}
	var again fasthttp.RequestCtx
	early.Request.Header.CopyTo(&again.Request.Header)
	again.Request.Header.SetContentLength(inlineBody + 1)
	p.headReceived(&again.Request.Header)
	if r := route(&again); r == first || r != p.setup.Load().routes[0] {
		t.Error("a new request comes to the old route")
	}
}
