package proxy

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
)

var someClient = netip.MustParseAddr("10.0.0.9")

func (p *Proxy) mustExplain(t *testing.T, request sent) *Explanation {
	t.Helper()
	e, err := p.Explain([]byte(request.String()), someClient)
	if err != nil {
		t.Fatalf("%s: %v", request, err)
	}
	return e
}

// shop has a route of each kind.
func shop(t *testing.T) *Proxy {
	lane := Lane{Exclusive: []string{"POST"}, Shared: []string{"GET"}, Bypass: []string{"OPTIONS"}}
	watching := lane
	watching.Mode = Observe
	key := func(missing Missing, from ...Source) Key {
		return Key{Space: "order", From: from, Missing: missing, Normalize: []string{"trim"}, MaxLength: 64}
	}
	return judge(t,
		Route{Name: "partner", Match: Match{Host: "partner.example", Path: "/orders"}, Key: key(MissingReject, Source{Header: "X-Id"}), Lane: lane},
		Route{Name: "new", Match: Match{Path: "/orders", Headers: []Header{{Name: "X-Api", Value: "2"}}}, Key: key(MissingReject, Source{Header: "X-Id"}), Lane: lane},
		Route{Name: "create", Match: Match{Path: "/orders", Methods: []string{"POST"}}, Key: key(MissingReject, Source{Header: "X-Order-Id"}, Source{JSON: "data.id"}), Lane: lane},
		Route{Name: "order", Match: Match{Path: "/orders/{id}/{rest...}"}, Key: key(MissingReject, Source{Path: "id"}), Lane: lane},
		Route{Name: "cart", Match: Match{Path: "/cart"}, Key: key(MissingBypass, Source{Cookie: "cart"}, Source{Query: "cart"}), Lane: lane},
		Route{Name: "guest", Match: Match{Path: "/guest"}, Key: key(MissingClientIP, Source{Header: "X-Id"}), Lane: lane},
		Route{Name: "trial", Match: Match{Path: "/trial"}, Key: key(MissingReject, Source{Header: "X-Id"}), Lane: watching},
		Route{Name: "files", Match: Match{Path: "/files/{rest...}"}, Lane: Lane{Bypass: []string{"*"}}},
	)
}

// Mutants killed: the route is explained before it is matched; Absent holds the
// source that has the key; a watching route's refusals are shown, or a malformed
// path's are not.
func TestExplain(t *testing.T) {
	p := shop(t)
	by := func(names ...string) []Passed {
		var passed []Passed
		for _, name := range names {
			route, why, _ := strings.Cut(name, " ")
			passed = append(passed, Passed{Route: route, For: why})
		}
		return passed
	}
	toCreate := by("partner host", "new headers")
	toOrder := by("partner path", "new path", "create path")
	toCart := slices.Concat(toOrder, by("order path"))
	toGuest := slices.Concat(toCart, by("cart path"))
	toTrial := slices.Concat(toGuest, by("guest path"))
	toFiles := slices.Concat(toTrial, by("trial path"))
	for _, test := range []struct {
		request sent
		want    Explanation
	}{
		{
			sent{target: "/orders", body: `{"data":{"id":"A-1042"}}`},
			Explanation{Route: "create", Passed: toCreate, Mode: "exclusive", Space: "order", Key: []byte("A-1042"), Source: "json:data.id", Absent: []string{"header:X-Order-Id"}},
		},
		{
			sent{target: "/orders", header: []string{"X-Order-Id:  A%\t"}},
			Explanation{Route: "create", Passed: toCreate, Mode: "exclusive", Space: "order", Key: []byte("A%"), Source: "header:X-Order-Id"},
		},
		{
			sent{target: "/orders", header: []string{"X-Api: 2", "X-Id: 7"}},
			Explanation{Route: "new", Passed: by("partner host"), Mode: "exclusive", Space: "order", Key: []byte("7"), Source: "header:X-Id"},
		},
		{
			sent{method: "GET", target: "/orders"},
			Explanation{Passed: slices.Concat(toCreate, by("create method", "order path", "cart path", "guest path", "trial path", "files path")), Refusal: &Refusal{Status: 404, Slug: "no-route"}},
		},
		{
			sent{method: "GET", target: "/orders/7/items"},
			Explanation{Route: "order", Passed: toOrder, Mode: "shared", Space: "order", Key: []byte("7"), Source: "path:id"},
		},
		{
			sent{method: "OPTIONS", target: "/orders/7"},
			Explanation{Route: "order", Passed: toOrder, Mode: "bypass"},
		},
		{
			sent{target: "/orders/7%zz"},
			Explanation{Route: "order", Passed: toOrder, Mode: "exclusive", Refusal: &Refusal{Status: 400, Slug: "malformed-request"}},
		},
		{
			sent{target: "/orders/../orders/7"},
			Explanation{Route: "order", Passed: toOrder, Refusal: &Refusal{Status: 400, Slug: "malformed-request"}},
		},
		{
			sent{target: "/cart", header: []string{"Cookie: cart=9"}},
			Explanation{Route: "cart", Passed: toCart, Mode: "exclusive", Space: "order", Key: []byte("9"), Source: "cookie:cart"},
		},
		{
			sent{target: "/cart"},
			Explanation{Route: "cart", Passed: toCart, Mode: "bypass", Space: "order", Absent: []string{"cookie:cart", "query:cart"}},
		},
		{
			sent{target: "/cart?cart=1&cart=2"},
			Explanation{Route: "cart", Passed: toCart, Mode: "exclusive", Refusal: &Refusal{Status: 400, Slug: "ambiguous-key"}},
		},
		{
			sent{target: "/guest"},
			Explanation{Route: "guest", Passed: toGuest, Mode: "exclusive", Space: "order", Key: []byte("10.0.0.9"), Source: "client_ip", Absent: []string{"header:X-Id"}},
		},
		{
			sent{target: "/guest", header: []string{"X-Id: 1", "Connection: upgrade", "Upgrade: websocket"}},
			Explanation{Route: "guest", Passed: toGuest, Mode: "exclusive", Space: "order", Key: []byte("1"), Source: "header:X-Id", Refusal: &Refusal{Status: 400, Slug: "upgrade-refused"}},
		},
		{
			sent{target: "/trial", header: []string{"X-Id: 1"}},
			Explanation{Route: "trial", Passed: toTrial, Mode: "exclusive", Watch: true, Space: "order", Key: []byte("1"), Source: "header:X-Id"},
		},
		{
			sent{target: "/trial"},
			Explanation{Route: "trial", Passed: toTrial, Mode: "bypass", Watch: true},
		},
		{
			sent{target: "/trial", header: []string{"Transfer-Encoding: chunked"}, body: "0\r\n\r\n"},
			Explanation{Route: "trial", Passed: toTrial, Mode: "bypass", Watch: true},
		},
		{
			sent{target: "/files/a/b", header: []string{"Transfer-Encoding: chunked"}, body: "0\r\n\r\n"},
			Explanation{Route: "files", Passed: toFiles, Mode: "bypass"},
		},
		{
			sent{method: "TRACE", target: "/orders/7"},
			Explanation{Refusal: &Refusal{Status: 405, Slug: "method-refused"}},
		},
		{
			sent{target: "/orders/7", header: []string{"X: " + strings.Repeat("x", 17<<10)}},
			Explanation{Refusal: &Refusal{Status: 431, Slug: "headers-too-large"}},
		},
	} {
		have := p.mustExplain(t, test.request)
		if have.Refusal != nil {
			if have.Refusal.Title == "" || have.Refusal.Detail == "" {
				t.Errorf("%s\nrefused without a reason: %+v", test.request, have.Refusal)
			}
			have.Refusal.Title, have.Refusal.Detail = "", ""
		}
		if !reflect.DeepEqual(have, &test.want) {
			t.Errorf("%s\ngot  %s\nwant %s", test.request, show(have), show(&test.want))
		}
	}
	if have := p.mustExplain(t, sent{target: "/orders/a%2F%25%20b"}).Escaped(); have != "a/%25%20b" {
		t.Errorf("escaped: got %s", have)
	}
}

func show(e *Explanation) string { return fmt.Sprintf("%+v, refused %+v", *e, e.Refusal) }

func TestExplainSaysWhatIsNoRequest(t *testing.T) {
	for text, want := range map[string]string{
		"":                          "the request is not valid HTTP/1.1: ",
		"POST /orders HTTP/1.1\r\n": "the request is not valid HTTP/1.1: ",
		"POST /orders HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabc":                               "the request cannot be read: ",
		"POST /orders HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n" + strings.Repeat("x", 2e6): "the request cannot be read: ",
	} {
		if e, err := shop(t).Explain([]byte(text), someClient); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%.60q: got %v, %v", text, e, err)
		}
	}
}
