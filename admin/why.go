package admin

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
)

// What a key's requests may wait for.
const (
	WhyUpstream    = "upstream"     // its service has not answered the request that runs
	WhyHold        = "hold"         // after an upstream timeout, until the service's work is known to be over
	WhyOperator    = "operator"     // an operator holds the lane
	WhyHalt        = "halt"         // a request failed, and the lane's rule is to stop then
	WhyLease       = "lease"        // another node's lease has to end first, or this node has none
	WhyPredecessor = "predecessor"  // a former owner still runs a request of the key
	WhyClaim       = "claim"        // the partition changes hands
	WhyLentTurn    = "lent-turn"    // the turn is lent to another node
	WhySequenceGap = "sequence-gap" // requests of a producer wait for a number that has not come
	WhyAside       = "aside"        // requests wait at another node than the owner, for a turn that it lends
	WhySilent      = "silent"       // the owner, who alone knows it, did not answer
	WhyNoOwner     = "no-owner"     // nobody owns the partition
	WhyNotReady    = "not-ready"    // the owner is not ready
	WhyNothing     = "nothing"      // nothing stops the key
)

// Why is why the requests of a key wait.
type Why struct {
	Node      string `json:"node"` // who answers
	Space     string `json:"space"`
	Key       string `json:"key"` // as Lanekeeper-Key writes it
	Partition int    `json:"partition"`
	Of        int    `json:"partitions"`

	Owner        string `json:"owner"` // of the partition; empty = nobody, or not known
	OwnerAddress string `json:"owner_address"`
	Epoch        uint64 `json:"epoch"`
	Target       string `json:"target"`          // for whom the partition is meant
	Partitioned  string `json:"partition_state"` // at the owner: foreign, claiming, owned, draining

	LaneState string      `json:"lane_state"` // as in the list of lanes; idle: nothing waits or runs; unknown: the owner did not answer
	Head      *LaneTicket `json:"head"`       // that all others wait for; null: there is none
	Waiting   int         `json:"waiting"`    // tickets

	Reasons []Reason `json:"reasons"` // what the key waits for, what weighs most first
	Text    []string `json:"text"`    // all of it in sentences, for people: may change

	Silent []Silent `json:"silent,omitzero"`
}

// Reason is one thing that a key waits for.
type Reason struct {
	Node    string   `json:"node"`         // who says so
	Code    string   `json:"code"`         // upstream, hold, operator, halt, lease, predecessor, claim, lent-turn, sequence-gap, aside, silent, no-owner, not-ready, nothing
	Ticket  string   `json:"ticket"`       // whose doing it is; empty: none's
	Who     []string `json:"who"`          // members or targets that are waited for
	Seconds float64  `json:"seconds"`      // for so long; 0 = not known
	Left    *float64 `json:"seconds_left"` // until it ends by itself; null: it does not, or that is not known
	Text    string   `json:"text"`         // a sentence
	Advice  string   `json:"advice"`       // what to do, a sentence; empty: wait
}

func (a *api) whyHere(r *http.Request, query url.Values) (Why, *problem) {
	space, key, wrong := keyOf(r, query)
	if wrong != nil {
		return Why{}, wrong
	}
	why := a.cluster.Why(space, key)
	why.Space, why.Key, why.Reasons = space, escapeKey(key), list(why.Reasons)
	for i := range why.Reasons {
		why.Reasons[i].Node, why.Reasons[i].Who = why.Node, list(why.Reasons[i].Who)
	}
	why.tell()
	return why, nil
}

// mergeWhy is the owner's word, with what others have to add.
func mergeWhy(_ *http.Request, _ url.Values, all []Why, silent []Silent) Why {
	best := 0
	for i := range all {
		if cmp.Or(cmp.Compare(all[i].rank(), all[best].rank()), cmp.Compare(all[i].Epoch, all[best].Epoch)) > 0 {
			best = i
		}
	}
	why := all[best]
	why.Node, why.Silent = all[0].Node, silent
	for i := range all {
		if i != best {
			why.Reasons = append(why.Reasons, all[i].Reasons...)
		}
	}
	why.ownerless()
	if len(why.Reasons) > 1 {
		why.Reasons = slices.DeleteFunc(why.Reasons, func(r Reason) bool { return r.Code == WhyNothing })
	}
	why.tell()
	for _, s := range silent {
		if s.Node == why.Owner {
			continue // that is said
		}
		why.Text = append(why.Text, "What "+s.Node+" knows of it is missing here: "+s.Why+".")
	}
	return why
}

// ownerless adds what nobody can say who was asked: that the owner is silent, or that there is none.
func (w *Why) ownerless() {
	if s := silence(w.Silent, w.Owner); s != nil {
		if w.LaneState == StateIdle {
			w.LaneState = StateUnknown
		}
		w.Reasons = slices.Insert(w.Reasons, 0, Reason{
			Node: w.Node, Code: WhySilent, Who: []string{s.Node},
			Text:   fmt.Sprintf("%s, which has the key, does not answer %s: %s.", s.Node, w.Node, s.Why),
			Advice: fmt.Sprintf("See whether %s runs, and whether it can be reached. Its keys go to others when those take it for dead, which lanekeeper members says.", s.Node),
		})
		return
	}
	if w.Owner == "" && len(w.Reasons) == 0 {
		text := "Nobody who answers knows an owner of the partition."
		r := Reason{Node: w.Node, Code: WhyNoOwner, Who: []string{}, Text: text, Advice: "See lanekeeper members: who does not answer, and is not dead, has to be waited for."}
		if w.Target != "" && w.Target != w.Node {
			r.Who = []string{w.Target}
			r.Text += fmt.Sprintf(" It is meant for %s.", w.Target)
		}
		w.Reasons = append(w.Reasons, r)
	}
}

func (w *Why) rank() int {
	switch {
	case w.Owner == w.Node && w.LaneState != StateIdle:
		return 3
	case w.Owner == w.Node:
		return 2
	case w.LaneState != StateIdle:
		return 1
	}
	return 0
}

// tell writes the sentences.
func (w *Why) tell() {
	where := fmt.Sprintf("%s/%s is in partition %d of %d", w.Space, w.Key, w.Partition, w.Of)
	if w.Owner == "" {
		where += ", which nobody is known to own."
	} else {
		where += fmt.Sprintf(", which is %s's (epoch %d).", w.Owner, w.Epoch)
	}
	lane := fmt.Sprintf("Its lane is %s; %s.", w.LaneState, waiting(w.Waiting))
	switch w.LaneState {
	case StateIdle:
		if lane = "Nothing of it waits or runs there."; w.Owner == "" {
			lane = "Nothing of it waits or runs, as far as is known."
		}
	case StateUnknown:
		lane = "What of it waits or runs there is not known."
	case StateOK: // which sounds wrong where somebody asks why
		lane = fmt.Sprintf("In its lane %s.", waiting(w.Waiting))
	}
	w.Text = []string{where, lane}
	for _, r := range w.Reasons {
		text := r.Text
		if r.Advice != "" {
			text += " " + r.Advice
		}
		w.Text = append(w.Text, text)
	}
}

func waiting(n int) string {
	if n == 1 {
		return "1 request waits"
	}
	return fmt.Sprintf("%d requests wait", n)
}
