package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
)

// Lanes is which lanes of the answering node are stopped: nothing begins in them though
// nothing of their key is known to run. Those of others are not known to it.
type Lanes struct {
	Node  string        `json:"node"`  // who answers
	Lanes []StoppedLane `json:"lanes"` // longest first
}

// The states of a stopped lane.
const (
	StateHalted = "halted" // after a failure, until an operator says so
	StateHeld   = "held"   // after an upstream timeout, until the upstream's work is known to be over, or for lane.hold_for
)

// StoppedLane is one of them.
type StoppedLane struct {
	Space   string  `json:"space"`
	Key     string  `json:"key"` // as Lanekeeper-Key writes it
	Route   string  `json:"route"`
	State   string  `json:"state"`  // halted, held
	Held    bool    `json:"held"`   // a halted lane may be held as well
	Ticket  string  `json:"ticket"` // that did it
	Cause   string  `json:"cause"`  // of a halt
	Seconds float64 `json:"seconds"`
	Waiting int     `json:"waiting"` // tickets
}

// LaneHalt is why a lane is halted.
type LaneHalt struct {
	Ticket  string  `json:"ticket"`
	Cause   string  `json:"cause"`
	Seconds float64 `json:"seconds"`
}

// The ways in which a halted lane goes on.
const (
	Resume = "resume" // with the next ticket
	Skip   = "skip"   // without that
	Fail   = "fail"   // without any that waits
)

// Relief is what an operator does about a halted lane.
type Relief struct {
	Action string `json:"-"`
	Ticket string `json:"ticket"` // that halted it; empty: any
	Reason string `json:"reason"` // for the log
}

// Relieved is what came of it.
type Relieved struct {
	Node      string  `json:"node"` // who answers
	Space     string  `json:"space"`
	Key       string  `json:"key"` // as Lanekeeper-Key writes it
	Action    string  `json:"action"`
	Ticket    string  `json:"ticket"` // that had halted the lane
	Cause     string  `json:"cause"`
	Seconds   float64 `json:"seconds"`   // for which it was
	Cancelled int     `json:"cancelled"` // requests that waited, and were answered 503 lane-cancelled
}

// Errors of Cluster.Relieve.
var (
	ErrNotHalted = errors.New("the key's lane is not halted at this node")
	ErrOtherHalt = errors.New("another ticket than the given one halted the lane")
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

func (a *api) lanes(*http.Request, url.Values) (int, any, *problem) {
	lanes := a.cluster.Lanes()
	lanes.Lanes = list(lanes.Lanes)
	for i := range lanes.Lanes {
		lanes.Lanes[i].Key = escapeKey(lanes.Lanes[i].Key)
	}
	return http.StatusOK, lanes, nil
}

const (
	reliefMax = 16 << 10 // bytes of a body
	reasonMax = 1 << 10  // bytes of a reason
)

var ticketText = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// readRelief reads a body. None at all says nothing; one that is not understood is refused, lest a
// ticket be overlooked in it.
func readRelief(r *http.Request) (relief Relief, _ *problem) {
	body, err := io.ReadAll(io.LimitReader(r.Body, reliefMax+1))
	switch {
	case err != nil || len(body) > reliefMax:
		return relief, badRequest(fmt.Sprintf("the body is not whole, or has more than %d bytes", reliefMax))
	case len(body) == 0:
		return relief, nil
	}
	if err := strictly(body, &relief); err != nil {
		return relief, badRequest(`the body is {"ticket":"…","reason":"…"}, of which both may be left out`)
	}
	switch {
	case relief.Ticket != "" && !ticketText.MatchString(relief.Ticket):
		return relief, badRequest("ticket is a UUID, as the list of halted lanes and the log have it")
	case len(relief.Reason) > reasonMax:
		return relief, badRequest(fmt.Sprintf("reason has more than %d bytes", reasonMax))
	}
	return relief, nil
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
		if other := a.isMeant(query); other != nil {
			return 0, nil, other
		}
		space, key, wrong := keyOf(r, query)
		if wrong != nil {
			return 0, nil, wrong
		}
		relief, wrong := readRelief(r)
		if wrong != nil {
			return 0, nil, wrong
		}
		relief.Action = action
		done, err := a.cluster.Relieve(space, key, relief)
		switch {
		case err == nil:
			a.log.Info("admin: lane "+action, "remote", r.RemoteAddr)
			done.Key = escapeKey(done.Key)
			return http.StatusOK, done, nil
		case errors.As(err, new(*ElsewhereError)):
			return 0, nil, &problem{status: http.StatusNotFound, slug: "other-node", title: "The key is another node's", detail: err.Error()}
		case errors.Is(err, ErrOtherHalt):
			return 0, nil, &problem{status: http.StatusConflict, slug: "other-halt", title: "The lane was halted by another ticket", detail: err.Error()}
		}
		return 0, nil, &problem{status: http.StatusNotFound, slug: "not-halted", title: "The lane is not halted", detail: err.Error()}
	}
}
