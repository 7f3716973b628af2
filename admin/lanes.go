package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"sync"
)

// Lanes is lanes: all in which nothing begins, and the deepest of the others.
type Lanes struct {
	Node  string    `json:"node"`  // who answers
	Lanes []LaneRow `json:"lanes"` // deepest first, then those whose head is oldest

	Total  int      `json:"total"` // lanes that there are
	Silent []Silent `json:"silent,omitzero"`
}

// The states of a lane in which nothing begins, though nothing of its key is known to be at work.
const (
	StateHalted = "halted" // after a failure, until an operator says so
	StateHeld   = "held"   // after an upstream timeout, until the upstream's work is known to be over, or for lane.hold_for; or by an operator
)

// LaneRow is one lane.
type LaneRow struct {
	Space   string  `json:"space"`
	Key     string  `json:"key"` // as Lanekeeper-Key writes it
	Route   string  `json:"route"`
	State   string  `json:"state"`   // halted, held, blocked, drained, spilled, hot, ok, idle: the first that is true
	Held    bool    `json:"held"`    // after an upstream timeout; a halted lane may be held as well
	Ticket  string  `json:"ticket"`  // that halted it; else its head, if it has one
	Cause   string  `json:"cause"`   // of a halt
	Seconds float64 `json:"seconds"` // since the halt, or else since the head's turn or wait began
	Waiting int     `json:"waiting"` // tickets

	Node        string    `json:"node"`              // whose lane it is
	Running     int       `json:"running"`           // tickets with their turn
	HeadTicket  string    `json:"head_ticket"`       // that all others wait for; empty: there is none
	HeadState   string    `json:"head_state"`        // running, held, waiting; empty: there is none
	HeadAge     float64   `json:"head_age_seconds"`  // since that began
	HeldLeft    *float64  `json:"held_seconds_left"` // until it goes on by itself after an upstream timeout; null: it is not held so
	Hold        *LaneHold `json:"hold"`              // an operator's; null: there is none
	Hot         bool      `json:"hot"`
	LentTo      string    `json:"lent_to"`               // the member that has the key's turn; empty: this node, or nobody
	WaitSeconds float64   `json:"wait_seconds_estimate"` // for a request that came now
}

// LaneHalt is why a lane is halted.
type LaneHalt struct {
	Ticket  string  `json:"ticket"`
	Cause   string  `json:"cause"`
	Seconds float64 `json:"seconds"`
}

// What an operator may do about a lane. The first three are ways in which a halted lane goes on.
const (
	Resume = "resume" // with the next ticket
	Skip   = "skip"   // without that
	Fail   = "fail"   // without any that waits

	Hold    = "hold"    // nothing begins any more
	Release = "release" // end a hold: an operator's, and one after an upstream timeout
	Cancel  = "cancel"  // answer one waiting request 503 lane-cancelled
)

// Relief is what an operator does about a lane.
type Relief struct {
	Action string `json:"-"`
	Ticket string `json:"ticket"` // that halted it, or is held; empty: any. That is to be cancelled
	Reason string `json:"reason"` // for the log
}

var reliefTitles = map[string]string{
	Resume:  "Let a halted lane go on with the next request",
	Skip:    "Let a halted lane go on without the next request",
	Fail:    "Let a halted lane go on without all that wait",
	Hold:    "Let nothing begin in a lane",
	Release: "End a hold",
	Cancel:  "Answer one waiting request 503 lane-cancelled",
}

// Relieved is what came of it.
type Relieved struct {
	Node      string  `json:"node"` // who answers
	Space     string  `json:"space"`
	Key       string  `json:"key"` // as Lanekeeper-Key writes it
	Action    string  `json:"action"`
	Ticket    string  `json:"ticket"`    // that had halted the lane, was held, or is cancelled
	Cause     string  `json:"cause"`     // of the halt, or the reason of the operator's hold
	Seconds   float64 `json:"seconds"`   // for which it was halted or held
	Cancelled int     `json:"cancelled"` // requests that waited, and were answered 503 lane-cancelled

	Risk bool `json:"risk"` // what was released may still be at work at its upstream: the order is at risk
}

// Errors of Cluster.Relieve.
var (
	ErrNotHalted = errors.New("the key's lane is not halted at this node")
	ErrOtherHalt = errors.New("another ticket than the given one halted the lane")

	ErrNotHeld     = errors.New("the key's lane is not held")
	ErrAlreadyHeld = errors.New("an operator holds the lane already")
	ErrNoTicket    = errors.New("no such ticket waits in the lane")
	ErrTicketRuns  = errors.New("the ticket has its turn: its request is at its upstream, and cannot be taken back")
	ErrLent        = errors.New("the key's turn is lent to another node")
)

// ElsewhereError is the error of Cluster.Relieve for a key of another node.
type ElsewhereError struct {
	Node        string // that was asked
	Owner       string // empty: nobody is known
	PeerAddress string // of the owner
}

// Error says whom to ask. Where the owner's admin port is only its operators know.
func (e *ElsewhereError) Error() string {
	if e.Owner == "" {
		return fmt.Sprintf("this is %s, and it knows nobody who has the key's lane now", e.Node)
	}
	return fmt.Sprintf("this is %s, and the key's lane is %s's (%s to its peers): send it to the admin port of that node", e.Node, e.Owner, e.PeerAddress)
}

const (
	reliefMax = 16 << 10 // bytes of a body
	reasonMax = 1 << 10  // bytes of a reason
)

var ticketText = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// readRelief reads a body. None at all says nothing; one that is not understood is refused, lest a
// ticket be overlooked in it.
func readRelief(r *http.Request) (body []byte, relief Relief, _ *problem) {
	body, err := io.ReadAll(io.LimitReader(r.Body, reliefMax+1))
	switch {
	case err != nil || len(body) > reliefMax:
		return nil, relief, badRequest(fmt.Sprintf("the body is not whole, or has more than %d bytes", reliefMax))
	case len(body) == 0:
		return nil, relief, nil
	}
	if err := strictly(body, &relief); err != nil {
		return nil, relief, badRequest(`the body is {"ticket":"…","reason":"…"}, of which both may be left out`)
	}
	switch {
	case relief.Ticket != "" && !ticketText.MatchString(relief.Ticket):
		return nil, relief, badRequest("ticket is a UUID, as the list of lanes and the log have it")
	case len(relief.Reason) > reasonMax:
		return nil, relief, badRequest(fmt.Sprintf("reason has more than %d bytes", reasonMax))
	}
	return body, relief, nil
}

// strictly decodes one JSON object without unknown members.
func strictly(body []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one value")
	}
	return nil
}

// relieve is an endpoint for one action.
func (a *api) relieve(action string) answer {
	return func(r *http.Request, query url.Values) (int, any, *problem) {
		space, key, wrong := keyOf(r, query)
		if wrong != nil {
			return 0, nil, wrong
		}
		body, relief, wrong := readRelief(r)
		switch {
		case wrong != nil:
			return 0, nil, wrong
		case action == Cancel && relief.Ticket == "":
			return 0, nil, badRequest(`cancel needs {"ticket":"…"}: which request is meant`)
		case query.Has("node") && query.Get("node") != a.cluster.Status().Node:
			return a.carry(r, query, query.Get("node"), body)
		}
		relief.Action = action
		done, err := a.cluster.Relieve(space, key, relief)
		if elsewhere := (*ElsewhereError)(nil); errors.As(err, &elsewhere) && elsewhere.Owner != "" && !query.Has("node") {
			status, told, wrong := a.carry(r, query, elsewhere.Owner, body)
			if action == Cancel && status == http.StatusNotFound {
				return a.cancelAside(r, query, body, elsewhere.Owner, status, told, wrong)
			}
			return status, told, wrong
		}
		if errors.Is(err, ErrNoTicket) && !query.Has("node") {
			return a.cancelAside(r, query, body, "", 0, nil, refusal(err))
		}
		if err != nil {
			return 0, nil, refusal(err)
		}
		a.log.Info("admin: lane "+action, "remote", r.RemoteAddr)
		done.Key = escapeKey(done.Key)
		return http.StatusOK, done, nil
	}
}

// cancelAside asks all others but the owner, who has no such ticket: a request of a hot key
// may wait where it came to. If it is nowhere, the owner's answer counts.
func (a *api) cancelAside(r *http.Request, query url.Values, body []byte, owner string, status int, answer any, wrong *problem) (int, any, *problem) {
	ctx, cancel := context.WithTimeout(r.Context(), askWait)
	defer cancel()
	r = r.WithContext(ctx)
	found := make(chan *Told, 1)
	var wg sync.WaitGroup
	for _, node := range a.cluster.Others() {
		if node == owner {
			continue
		}
		wg.Go(func() { // ends with ctx
			if status, told, wrong := a.carry(r, query, node, body); wrong == nil && status == http.StatusOK || status == http.StatusConflict {
				select {
				case found <- told.(*Told):
				default:
				}
			}
		})
	}
	wg.Wait()
	select {
	case told := <-found:
		return told.Status, told, nil
	default:
		return status, answer, wrong
	}
}

// refusal is the answer for an error of Cluster.Relieve.
func refusal(err error) *problem {
	for _, is := range []struct {
		err         error
		status      int
		slug, title string
	}{
		{ErrOtherHalt, http.StatusConflict, "other-halt", "The lane was halted by another ticket"},
		{ErrNotHeld, http.StatusNotFound, "not-held", "The lane is not held"},
		{ErrAlreadyHeld, http.StatusConflict, "already-held", "The lane is held already"},
		{ErrNoTicket, http.StatusNotFound, "no-such-ticket", "No such ticket waits"},
		{ErrTicketRuns, http.StatusConflict, "ticket-runs", "The request runs already"},
		{ErrLent, http.StatusConflict, "turn-lent", "The turn is lent"},
	} {
		if errors.Is(err, is.err) {
			return &problem{status: is.status, slug: is.slug, title: is.title, detail: err.Error()}
		}
	}
	if errors.As(err, new(*ElsewhereError)) {
		return &problem{status: http.StatusNotFound, slug: "other-node", title: "The key is another node's", detail: err.Error()}
	}
	return &problem{status: http.StatusNotFound, slug: "not-halted", title: "The lane is not halted", detail: err.Error()}
}
