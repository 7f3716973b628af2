package admin

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// Mutants killed: unknown members of a body pass, or a second value, any text for a ticket, a long
// body or reason; another node's name is not looked at; refusals are all not-halted; a key is not
// escaped, here or in the list; every action resumes.
func TestRelievingLanes(t *testing.T) {
	const ticket = "0197a3c8-7c1e-7a40-8000-4b1d2f6a9c03"
	other := fmt.Errorf("%w: by 0198", ErrOtherHalt)
	for _, a := range []asking{
		{method: "GET", target: "/api/v1/lanes", status: 200},
		{method: "GET", target: "/api/v1/lanes?space=order", status: 400, slug: "bad-request"},
		{method: "POST", target: "/api/v1/lanes/order/7/cancel", status: 400, slug: "bad-request"},
		{method: "POST", target: "/api/v1/lanes/order/7/cancel", body: `{"ticket":"` + ticket + `"}`, status: 200, reaches: "cancel order 7 " + ticket},
		{method: "POST", target: "/api/v1/lanes/order/7/hold", body: `{"reason":"by hand"}`, status: 200, reaches: "hold order 7  by hand"},
		{method: "POST", target: "/api/v1/lanes/release?space=order&key=7", status: 200, reaches: "release order 7"},
		{method: "POST", target: "/api/v1/lanes/order/7/halt", status: 404, slug: "not-found"},

		{method: "POST", target: "/api/v1/lanes/order/A-1/resume", status: 200, reaches: "resume order A-1"},
		{method: "POST", target: "/api/v1/lanes/order/a%2Fb/skip", status: 200, reaches: "skip order a/b"},
		{method: "POST", target: "/api/v1/lanes/order/%2e%2e/fail", status: 200, reaches: "fail order .."},
		{method: "POST", target: "/api/v1/lanes/fail?space=order&key=..", status: 200, reaches: "fail order .."},
		{method: "POST", target: "/api/v1/lanes/resume?space=order&key=7&node=lk-0", status: 200, reaches: "resume order 7"},
		{method: "POST", target: "/api/v1/lanes/resume?space=order&key=7&node=lk-1", status: 404, slug: "other-node"},
		{method: "POST", target: "/api/v1/lanes/order/7/resume?node=lk-1", status: 404, slug: "other-node"},
		{method: "POST", target: "/api/v1/lanes/order/7/resume?space=order", status: 400, slug: "bad-request"},
		{method: "POST", target: "/api/v1/lanes/resume?space=Order&key=7", status: 400, slug: "bad-request"},
		{method: "POST", target: "/api/v1/lanes/resume?space=order", status: 400, slug: "bad-request"},

		{method: "POST", target: "/api/v1/lanes/order/7/resume", body: `{"ticket":"` + ticket + `","reason":"by hand"}`, status: 200, reaches: "resume order 7 " + ticket + " by hand"},
		{method: "POST", target: "/api/v1/lanes/order/7/resume", body: `{}`, status: 200, reaches: "resume order 7"},
		{method: "POST", target: "/api/v1/lanes/order/7/resume", body: `{"tickets":"` + ticket + `"}`, status: 400, slug: "bad-request"},
		{method: "POST", target: "/api/v1/lanes/order/7/resume", body: `{"ticket":"0197"}`, status: 400, slug: "bad-request"},
		{method: "POST", target: "/api/v1/lanes/order/7/resume", body: `{} {}`, status: 400, slug: "bad-request"},
		{method: "POST", target: "/api/v1/lanes/order/7/resume", body: ticket, status: 400, slug: "bad-request"},
		{method: "POST", target: "/api/v1/lanes/order/7/resume", body: `{"reason":"` + strings.Repeat("x", reasonMax) + `"}`, status: 200, reaches: "resume order 7  " + strings.Repeat("x", reasonMax)},
		{method: "POST", target: "/api/v1/lanes/order/7/resume", body: `{"reason":"` + strings.Repeat("x", reasonMax+1) + `"}`, status: 400, slug: "bad-request"},
		{method: "POST", target: "/api/v1/lanes/order/7/resume", body: `{}` + strings.Repeat(" ", reliefMax), status: 400, slug: "bad-request"},

		{method: "POST", target: "/api/v1/lanes/order/7/resume", refuses: ErrNotHalted, status: 404, slug: "not-halted", reaches: "resume order 7"},
		{method: "POST", target: "/api/v1/lanes/order/7/resume", refuses: other, status: 409, slug: "other-halt", reaches: "resume order 7"},
		{method: "POST", target: "/api/v1/lanes/order/7/resume", refuses: &ElsewhereError{Node: "lk-0", Owner: "lk-1"}, status: 404, slug: "other-node", reaches: "resume order 7"},
		{method: "POST", target: "/api/v1/lanes/order/7/release", refuses: ErrNotHeld, status: 404, slug: "not-held", reaches: "release order 7"},
		{method: "POST", target: "/api/v1/lanes/order/7/hold", refuses: ErrAlreadyHeld, status: 409, slug: "already-held", reaches: "hold order 7"},
		{method: "POST", target: "/api/v1/lanes/order/7/release", refuses: ErrLent, status: 409, slug: "turn-lent", reaches: "release order 7"},
		{method: "POST", target: "/api/v1/lanes/order/7/cancel", body: `{"ticket":"` + ticket + `"}`, refuses: ErrTicketRuns, status: 409, slug: "ticket-runs", reaches: "cancel order 7 " + ticket},
		{method: "POST", target: "/api/v1/lanes/order/7/cancel", body: `{"ticket":"` + ticket + `"}`, refuses: ErrNoTicket, status: 404, slug: "no-such-ticket", reaches: "cancel order 7 " + ticket},
		{method: "POST", target: "/api/v1/lanes/order/7/resume", header: map[string]string{"Origin": "https://evil.example"}, status: 403, slug: "cross-origin"},
	} {
		a.check(t, local)
	}

	var relieved Relieved
	answer := asking{method: "POST", target: "/api/v1/lanes/order/A%201/skip", status: 200, reaches: "skip order A 1"}.check(t, local)
	if err := json.Unmarshal(answer.Body.Bytes(), &relieved); err != nil || relieved != (Relieved{
		Node: "lk-0", Space: "order", Key: "A%201", Action: "skip", Ticket: "0197", Cause: "upstream-reset", Seconds: 2.5, Cancelled: 4,
	}) {
		t.Errorf("%v: %+v", err, relieved)
	}
	var lanes Lanes
	answer = asking{method: "GET", target: "/api/v1/lanes", status: 200}.check(t, local)
	if err := json.Unmarshal(answer.Body.Bytes(), &lanes); err != nil || len(lanes.Lanes) != 1 || lanes.Lanes[0].Key != "A%201" || !lanes.Lanes[0].Held {
		t.Errorf("%v: %s", err, answer.Body)
	}
}

// An operator who asked the wrong node is told which is the right one.
func TestALaneElsewhere(t *testing.T) {
	for _, c := range []struct{ owner, want string }{
		{"lk-1", "this is lk-0, and the key's lane is lk-1's (10.1.4.8:7944 to its peers): send it to the admin port of that node"},
		{"", "this is lk-0, and it knows nobody who has the key's lane now"},
	} {
		e := ElsewhereError{Node: "lk-0", Owner: c.owner, PeerAddress: "10.1.4.8:7944"}
		if e.Error() != c.want {
			t.Errorf("got %s", e.Error())
		}
	}
}
