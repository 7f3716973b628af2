package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"lanekeeper/proxy"
)

// What Explain says of a request is what happens to it when it is served.
//
// Mutants killed: explainLane leaves a case of run out, or has them in another
// order; headReceived is left out (a long body is refused where it streams).
func TestExplainSaysWhatIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, func(c *proxy.Config) {
			order, cart, guest, trial := orders(), orders(), orders(), orders()
			create := orders()
			create.Name, create.Match = "create", proxy.Match{Path: "/orders", Methods: []string{"POST"}}
			create.Key.From = []proxy.Source{{Header: "X-Order-Id"}, {JSON: "data.id"}}
			cart.Name, cart.Match = "cart", proxy.Match{Path: "/cart"}
			cart.Key.From, cart.Key.Missing = []proxy.Source{{Cookie: "cart"}, {Query: "cart"}}, proxy.MissingBypass
			guest.Name, guest.Match = "guest", proxy.Match{Path: "/guest"}
			guest.Key.From, guest.Key.Missing = []proxy.Source{{Header: "X-Id"}}, proxy.MissingClientIP
			trial.Name, trial.Match, trial.Lane.Mode = "trial", proxy.Match{Path: "/trial"}, proxy.Observe
			trial.Key.From = []proxy.Source{{Header: "X-Id"}}
			c.Routes = append([]proxy.Route{create, cart, guest, trial, order}, c.Routes[1:]...)
			c.TicketHeader = true
		})
		lane := make(chan string, 1)
		n.service.handle(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			lane <- r.Header.Get("Lanekeeper-Key")
		})
		long := strings.Repeat("x", 5<<10)
		upgrade := []string{"Connection: upgrade", "Upgrade: chat"}
		for _, request := range []struct {
			method, target string
			header         []string
			body           string
		}{
			{"POST", "/orders", nil, `{"data":{"id":7}}`},
			{"POST", "/orders", nil, `{"data":{"id":[]}}`},
			{"POST", "/orders", []string{"X-Order-Id: a b%"}, ""},
			{"POST", "/orders", []string{"X-Order-Id: 1", "X-Order-Id: 2"}, ""},
			{"POST", "/orders", nil, ""},
			{"POST", "/orders/7", nil, ""},
			{"POST", "/Orders/7", nil, ""},
			{"POST", "/orders//7", nil, ""},
			{"POST", "/orders/7", upgrade, ""},
			{"GET", "/orders/7/x", nil, ""},
			{"GET", "/orders/%zz", nil, ""},
			{"PURGE", "/orders/7/x", nil, ""},
			{"OPTIONS", "/orders/7", nil, ""},
			{"OPTIONS", "/orders/7", upgrade, ""},
			{"POST", "/cart", nil, ""},
			{"POST", "/cart", upgrade, ""},
			{"POST", "/cart?cart=1", []string{"Cookie: cart=2"}, ""},
			{"POST", "/cart?cart=1&cart=2", nil, ""},
			{"POST", "/guest", nil, ""},
			{"POST", "/trial", []string{"X-Id: 1"}, ""},
			{"POST", "/trial", append(upgrade, "X-Id: 1"), ""},
			{"POST", "/trial", nil, ""},
			{"POST", "/trial", []string{"X-Id: 1"}, long},
			{"POST", "/files/x", nil, long},
			{"TRACE", "/orders/7", nil, ""},
		} {
			text := request.method + " " + request.target + " HTTP/1.1\r\nHost: shop.example\r\n"
			for _, line := range request.header {
				text += line + "\r\n"
			}
			if request.body != "" {
				text += "Transfer-Encoding: chunked\r\n"
			}
			text += "\r\n"
			if request.body != "" {
				text += fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(request.body), request.body)
			}
			said, err := n.proxy.Explain([]byte(text), netip.IPv4Unspecified())
			if err != nil {
				t.Errorf("%q: %v", text, err)
				continue
			}
			client := n.open()
			go client.conn.Write([]byte(text)) // ends with the node, if the request is refused unread
			answer, err := client.read(request.method)
			if err != nil {
				t.Errorf("%q: %v", text, err)
			}
			status, slug := 200, ""
			if said.Refusal != nil {
				status, slug = said.Refusal.Status, said.Refusal.Slug
			}
			if answer.status != status || answer.slug() != slug {
				t.Errorf("%q\nis answered %d %s, said was %d %s", text, answer.status, answer.slug(), status, slug)
			}
			if answer.status == 200 {
				want := ""
				if said.Key != nil {
					want = said.Space + ":" + said.Escaped()
				}
				if have := <-lane; have != want {
					t.Errorf("%q\nruns in the lane %q, said was %q", text, have, want)
				}
			}
			client.conn.Close()
		}
	})
}
