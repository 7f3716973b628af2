package admin

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// The states of a lane, besides halted and held.
const (
	StateOK      = "ok"
	StateHot     = "hot"     // by the rule of its route
	StateSpilled = "spilled" // hot, and its turn is lent to another node
	StateBlocked = "blocked" // a former owner may still run a request of the key
	StateDrained = "drained" // the partition is another node's by now: what is here runs to its end
	StateIdle    = "idle"    // there is no lane: nothing waits or runs
	StateUnknown = "unknown" // its owner, who alone knows it, did not answer
)

// LaneHold is an operator's hold of a lane: nothing begins in it until it is released.
type LaneHold struct {
	Reason  string  `json:"reason"`
	Seconds float64 `json:"seconds"` // since it began; it has no end of its own
}

// LaneTicket is one request in a lane.
type LaneTicket struct {
	Ticket   string  `json:"ticket"`
	Position int     `json:"position"`    // 0 = it has its turn; else its place in the line, from 1
	State    string  `json:"state"`       // waiting, running, held
	Seconds  float64 `json:"seconds"`     // in this state; of a held one, since its turn began
	Age      float64 `json:"age_seconds"` // since it took its place
	Class    string  `json:"class"`       // exclusive, shared
	Route    string  `json:"route"`
	Bytes    int     `json:"bytes"`   // of its body
	Ingress  string  `json:"ingress"` // the node that accepted it
	Client   string  `json:"client"`  // its address; empty = only the ingress knows it
	Trace    string  `json:"trace"`   // id of its W3C trace; empty = it carries none
	LentTo   string  `json:"lent_to"` // it is not a request but a turn: the node that runs requests in it; else empty

	HeldLeft *float64 `json:"held_seconds_left"` // of a held one, until it is released by itself; null: it is not held
}

// LanePage is the lane of one key with its tickets. Node is its owner's, who alone knows it.
type LanePage struct {
	LaneRow
	Partition int    `json:"partition"`
	Of        int    `json:"partitions"`
	Owner     string `json:"owner"` // of the partition; empty = nobody, or not known
	Epoch     uint64 `json:"epoch"`

	Tickets []LaneTicket `json:"tickets"` // in order: those with a turn, then those that wait
	More    int          `json:"more"`    // tickets behind those, that are not listed

	// Spilled is where else requests of the key wait, for turns that its owner lends.
	Spilled []SpilledKey `json:"spilled"`
	Silent  []Silent     `json:"silent,omitzero"`
}

const (
	lanesUsual  = 100
	lanesMost   = 1000
	ticketsMost = 1000
)

// count reads how many items are wanted.
func count(query url.Values, usual, most int) (int, *problem) {
	if !query.Has("limit") {
		return usual, nil
	}
	n, err := strconv.ParseUint(query.Get("limit"), 10, 31)
	if err != nil {
		return 0, badRequest("limit is how many are wanted at most")
	}
	return int(min(n, uint64(most))), nil //nolint:gosec // that is less
}

func (a *api) lanesHere(_ *http.Request, query url.Values) (Lanes, *problem) {
	limit, problem := count(query, lanesUsual, lanesMost)
	if problem != nil {
		return Lanes{}, problem
	}
	lanes := a.cluster.Lanes(limit)
	lanes.Lanes = list(lanes.Lanes)
	for i := range lanes.Lanes {
		l := &lanes.Lanes[i]
		l.Node, l.Key = lanes.Node, escapeKey(l.Key)
	}
	sortLanes(lanes.Lanes)
	return lanes, nil
}

func mergeLanes(_ *http.Request, query url.Values, all []Lanes, silent []Silent) Lanes {
	limit, _ := count(query, lanesUsual, lanesMost)
	return joinLanes(all, silent, limit)
}

func joinLanes(all []Lanes, silent []Silent, limit int) Lanes {
	whole := Lanes{Node: all[0].Node, Lanes: []LaneRow{}, Silent: silent}
	for i := range all {
		whole.Total += all[i].Total
		whole.Lanes = append(whole.Lanes, all[i].Lanes...)
	}
	// Those in which nothing begins are not crowded out by deep ones that get on.
	if len(whole.Lanes) > limit {
		slices.SortStableFunc(whole.Lanes, func(a, b LaneRow) int {
			return cmp.Or(-compareBool(a.Stopped(), b.Stopped()), cmp.Compare(b.Waiting, a.Waiting), cmp.Compare(b.HeadAge, a.HeadAge))
		})
		whole.Lanes = whole.Lanes[:limit]
	}
	sortLanes(whole.Lanes)
	return whole
}

// Stopped reports whether nothing begins in the lane.
func (l *LaneRow) Stopped() bool { return l.State == StateHalted || l.State == StateHeld }

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// sortLanes puts the deepest first, then those whose head is oldest.
func sortLanes(lanes []LaneRow) {
	slices.SortFunc(lanes, func(a, b LaneRow) int {
		return cmp.Or(cmp.Compare(b.Waiting, a.Waiting), cmp.Compare(b.HeadAge, a.HeadAge), cmp.Compare(b.Seconds, a.Seconds),
			cmp.Compare(a.Space, b.Space), cmp.Compare(a.Key, b.Key), cmp.Compare(a.Node, b.Node))
	})
}

func (a *api) laneHere(r *http.Request, query url.Values) (LanePage, *problem) {
	space, key, wrong := keyOf(r, query)
	if wrong != nil {
		return LanePage{}, wrong
	}
	page := a.cluster.Lane(space, key)
	page.Space, page.Key = space, escapeKey(key)
	if page.Tickets = list(page.Tickets); len(page.Tickets) > ticketsMost {
		page.More, page.Tickets = len(page.Tickets)-ticketsMost, page.Tickets[:ticketsMost]
	}
	page.Spilled = list(page.Spilled)
	for i := range page.Spilled {
		page.Spilled[i].Node, page.Spilled[i].Key = page.Node, page.Key
	}
	return page, nil
}

// mergeLane takes the owner's word. A lane that two nodes have is one that is handed over: then
// the former owner runs the rest of its requests, and the page of the one that has tickets and
// is not blocked says more.
func mergeLane(_ *http.Request, _ url.Values, all []LanePage, silent []Silent) LanePage {
	best := &all[0]
	for i := range all {
		if better(&all[i], best) {
			best = &all[i]
		}
	}
	page := *best
	page.Spilled, page.Silent = []SpilledKey{}, silent
	if page.State == StateIdle && silence(silent, page.Owner) != nil {
		page.State = StateUnknown
	}
	for i := range all {
		page.Spilled = append(page.Spilled, all[i].Spilled...)
	}
	return page
}

// silence is what a member is silent for, nil if it is not.
func silence(silent []Silent, node string) *Silent {
	if i := slices.IndexFunc(silent, func(s Silent) bool { return s.Node == node }); i >= 0 {
		return &silent[i]
	}
	return nil
}

func better(a, b *LanePage) bool {
	rank := func(p *LanePage) int {
		switch {
		case p.Owner == p.Node && p.State != StateIdle:
			return 3
		case p.State != StateIdle:
			return 2
		case p.Owner == p.Node:
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Epoch, b.Epoch)) > 0
}

// Key is a key with much to do.
type Key struct {
	Node   string     `json:"node"`
	Space  string     `json:"space"`
	Key    string     `json:"key"` // as Lanekeeper-Key writes it
	Route  string     `json:"route"`
	State  string     `json:"state"`   // ok, hot, spilled; aside: its requests wait here for turns that its owner lends
	Action string     `json:"action"`  // of its route, if it is hot: none, shed, spill
	LentTo string     `json:"lent_to"` // the member that has its turn; empty: this node, or nobody
	Since  *time.Time `json:"since"`   // it is hot; null: it is not

	Depth       int     `json:"depth"` // waiting requests
	Rate        float64 `json:"rate"`  // requests per second
	AtMost      bool    `json:"rate_at_most"`
	WaitSeconds float64 `json:"wait_seconds_estimate"` // for a request that came now

	Count uint64 `json:"count"` // requests lately; at least so many less error
	Error uint64 `json:"error"`
}

// StateAside is a key's whose requests wait at a node that is not its owner.
const StateAside = "aside"

// Keys is the keys with most to do.
type Keys struct {
	Node    string   `json:"node"` // who answers
	Sort    string   `json:"sort"` // depth, rate, wait
	Keys    []Key    `json:"keys"` // most first
	Seconds float64  `json:"top_seconds"`
	Silent  []Silent `json:"silent,omitzero"`
}

var keyRanks = map[string]func(*Key) float64{
	"depth": func(k *Key) float64 { return float64(k.Depth) },
	"rate":  func(k *Key) float64 { return k.Rate },
	"wait":  func(k *Key) float64 { return k.WaitSeconds },
}

func (a *api) keysHere(_ *http.Request, query url.Values) (Keys, *problem) {
	by := cmp.Or(query.Get("sort"), "depth")
	if keyRanks[by] == nil {
		return Keys{}, badRequest("sort is depth, rate or wait")
	}
	limit, problem := count(query, lanesUsual, lanesMost)
	if problem != nil {
		return Keys{}, problem
	}
	hot := a.hotNow()
	keys := Keys{Node: hot.Node, Sort: by, Keys: list(keysOf(&hot)), Seconds: hot.TopSeconds}
	keys.rank(limit)
	return keys, nil
}

func mergeKeys(_ *http.Request, query url.Values, all []Keys, silent []Silent) Keys {
	whole := Keys{Node: all[0].Node, Sort: all[0].Sort, Silent: silent, Keys: []Key{}}
	for i := range all {
		whole.Keys = append(whole.Keys, all[i].Keys...)
		whole.Seconds = max(whole.Seconds, all[i].Seconds)
	}
	limit, _ := count(query, lanesUsual, lanesMost)
	whole.rank(limit)
	return whole
}

func (k *Keys) rank(limit int) {
	of := keyRanks[k.Sort]
	slices.SortStableFunc(k.Keys, func(a, b Key) int {
		return cmp.Or(cmp.Compare(of(&b), of(&a)), cmp.Compare(a.Space, b.Space), cmp.Compare(a.Key, b.Key), cmp.Compare(a.Node, b.Node))
	})
	k.Keys = k.Keys[:min(limit, len(k.Keys))]
}

// keysOf is what a node says of its hot keys, each key once.
func keysOf(hot *Hot) (keys []Key) {
	known := make(map[[2]string]int)
	for i := range hot.Hot {
		h := &hot.Hot[i]
		k := Key{
			Node: hot.Node, Space: h.Space, Key: h.Key, Route: h.Route, State: StateHot, Action: h.Action, LentTo: h.LentTo, Since: &h.Since,
			Depth: h.Depth, Rate: h.Rate, WaitSeconds: h.WaitSeconds,
		}
		if h.LentTo != "" {
			k.State = StateSpilled
		}
		known[[2]string{h.Space, h.Key}] = len(keys)
		keys = append(keys, k)
	}
	for i := range hot.Top {
		t := &hot.Top[i]
		if at, ok := known[[2]string{t.Space, t.Key}]; ok {
			keys[at].Count, keys[at].Error = t.Count, t.Error
			continue
		}
		k := Key{
			Node: hot.Node, Space: t.Space, Key: t.Key, Route: t.Route, State: StateOK, Depth: t.Depth,
			AtMost: t.Error > 0, WaitSeconds: t.WaitSeconds, Count: t.Count, Error: t.Error,
		}
		if hot.TopSeconds > 0 {
			k.Rate = float64(t.Count) / hot.TopSeconds
		}
		keys = append(keys, k)
	}
	for i := range hot.Spilled {
		s := &hot.Spilled[i]
		keys = append(keys, Key{Node: hot.Node, Space: s.Space, Key: s.Key, Route: s.Route, State: StateAside, Depth: s.Waiting})
	}
	return keys
}
