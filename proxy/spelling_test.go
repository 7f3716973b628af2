package proxy_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"lanekeeper/proxy"
)

// Mutant: appendKey without escapes.
func TestTheServiceIsToldTheKey(t *testing.T) {
	for _, test := range []struct {
		from         proxy.Source
		target, head string
		body, wanted string
	}{
		{proxy.Source{Path: "id"}, "/orders/a%2Fb%20%25", "", "", "order:a/b%20%25"},
		{proxy.Source{Header: "X-Id"}, "/orders/1", "x-id: 7, 8\r\n", "", "order:7,%208"},
		{proxy.Source{Query: "id"}, "/orders/1?i%64=%C3%A9+", "", "", "order:%C3%A9"},
		{proxy.Source{Cookie: "id"}, "/orders/1", "Cookie: a=\"b\"; id=\"7\"\r\n", "", "order:7"},
		{proxy.Source{JSON: "id"}, "/orders/1", "", `{"id":7}`, "order:7"},
		{proxy.Source{All: []proxy.Source{{Path: "id"}, {JSON: "id"}}}, "/orders/a%2Fb", "", `{"id":"%"}`, "order:a%252Fb/%2525"},
	} {
		bubble(t, test.from.String(), func(t *testing.T) {
			n := start(t, func(c *proxy.Config) { c.Routes[0].Key.From = []proxy.Source{test.from} })
			fmt.Fprintf(n.open().conn, "POST %s HTTP/1.1\r\nHost: a\r\n%sContent-Length: %d\r\n\r\n%s", test.target, test.head, len(test.body), test.body)
			v := n.service.next()
			if v == nil {
				t.Fatal("nothing arrived")
			}
			if got := v.Header.Get("Lanekeeper-Key"); got != test.wanted || v.RequestURI != test.target || v.body != test.body {
				t.Errorf("got %q with %s and %q, want %q", got, v.RequestURI, v.body, test.wanted)
			}
		})
	}
}

// Mutant: findKey with the raw value.
func TestASecondSpellingWaitsForTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, nil)
		async(n, "POST", "/orders/a-7", nil, "")
		v := n.service.next()
		for _, path := range []string{"/orders/%61-7", "/%6Frders/a%2d%37/x", "/orders/%20a-7%09"} {
			async(n, "POST", path, nil, "")
			if early := n.service.next(); early != nil {
				t.Errorf("%s runs beside %s", early.RequestURI, v.RequestURI)
			}
		}
	})
}

// Mutant: checkReading not called.
func TestASpellingThatOthersReadDifferentlyRunsNowhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, nil)
		for _, path := range []string{"/orders/8/..;/7", "/x/../orders/7", "//orders/7", "/ORDERS/7", "/orders/7;v=1", "/orders%2F7"} {
			a := n.send("POST", path, nil, "")
			if a.status != 400 || a.slug() != "malformed-request" || a.problem.Executed != "no" || a.problem.Detail == "" {
				t.Errorf("%s: %d %+v", path, a.status, a.problem)
			}
		}
		if v := n.service.next(); v != nil {
			t.Errorf("%s ran", v.RequestURI)
		}
	})
}

// Mutants, together: routeOf by the target as sent; a template without segments
// that matches any target. The body is hidden for a route that the request then
// does not take.
func TestAnAbsoluteTargetTakesItsLane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, nil)
		async(n, "POST", "/orders/7", nil, "")
		first := n.service.next()
		c := n.open()
		fmt.Fprintf(c.conn, "POST http://a/orders/7 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
		synctest.Wait()
		if early := n.service.next(); early != nil {
			t.Fatalf("%s runs beside %s", early.RequestURI, first.RequestURI)
		}
		first.finish(200, "")
		v := n.service.next()
		if v == nil || v.body != "abc" || v.RequestURI != "/orders/7" {
			t.Fatalf("got %v", v)
		}
		v.finish(200, strings.Repeat("x", 3))
		if a, err := c.read("POST"); err != nil || a.status != 200 {
			t.Errorf("%d, %v", a.status, err)
		}
	})
}
