//go:build linux

package main

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"lanekeeper/loadtest"
)

const (
	// healing is for how long after a split order may still be broken: until there is one
	// ring again, and until a suspicion of the split's last moments has come to nothing.
	healing = 5 * time.Second
	// onItsWay is what a call may take from a node's death, or its awakening, to its
	// service, on a busy machine.
	onItsWay = 2 * time.Second
	// unsettled is for how long after a store lost its data a lease that it knew may last.
	unsettled = 2*strictTTL + 5*time.Second
	// serving is the time at the end in which each key must be served.
	serving = 3 * time.Second
)

// Why a request has no answer.
const (
	killed  = "of a killed node"
	behind  = "behind the last answer of a connection"
	crossed = "crossed the close of one"
	neither = "for no reason"
)

// falsely is how often a node took another for dead that lived, and that it could hear.
const falsely = "taken for dead without a fault"

// lateDispatch is what a service's fence had to refuse although the node could have.
const lateDispatch = "late-dispatch"

// excuses is what the README's failure tables allow an episode, by its diary. A claim that
// nothing ran, a duplicate, a loss and a crossed answer are never excused, nor is whatever
// a single node does to the order of what it sends.
type excuses struct {
	diary  []*entry
	dead   []belief // who lived
	strict bool
	grace  bool // the store grants nothing for a while after it lost its data
	once   map[string]*loadtest.Execution
	healed int64 // how long after a split the last of what it excuses began
}

// excuse implements loadtest.Rules.
func (x *excuses) excuse(kind loadtest.Kind, late, early *loadtest.Execution) bool {
	healed := int64(-1) // after how long
	for _, e := range x.diary {
		switch {
		case x.strict:
			if e.name == "store lost" && x.lostStore(e, kind, late, early) {
				return true
			}
		case e.name == "kill" && x.killed(e, kind, late, early), e.name == "stop" && (x.stopped(e, late) || x.stopped(e, early)):
			return true
		case e.splits() && e.happenedTo(late) != e.happenedTo(early) && e.during(late.Start):
			if after := max(0, late.Start-e.end); healed < 0 || after < healed {
				healed = after
			}
		}
	}
	x.healed = max(x.healed, healed)
	return healed >= 0 || !x.strict && slices.ContainsFunc(x.dead, func(b belief) bool { return b.parted(late, early) })
}

// splits is whether some nodes could not hear others.
func (e *entry) splits() bool {
	return e.name == "split" || e.name == "one-way loss" || e.name == "stall"
}

// during is whether order is not promised at a time because of a split.
func (e *entry) during(at int64) bool { return at >= e.began && at <= e.end+int64(healing) }

// happenedTo is whether it did to the node that sent an execution.
func (e *entry) happenedTo(of *loadtest.Execution) bool {
	return slices.ContainsFunc(e.nodes, func(i int) bool { return of.Witness == nodeName(i) })
}

// lostStore: what a store that lost its data, and has no grace, lets two nodes do at once
// is theirs to do until the first one's lease has ended by its own clock: then the fence
// alone decides.
func (x *excuses) lostStore(e *entry, kind loadtest.Kind, late, early *loadtest.Execution) bool {
	return kind == loadtest.Overlap && !x.grace && (early.End == 0 || early.End >= e.struck) && late.Start <= e.struck+int64(unsettled)
}

// killed: a call that a dead node had sent may overlap with the next of its key.
func (x *excuses) killed(e *entry, kind loadtest.Kind, late, early *loadtest.Execution) bool {
	return kind == loadtest.Overlap && early.Witness == nodeName(e.nodes[0]) && late.Start > e.began &&
		early.Start <= e.struck+int64(onItsWay) && (early.End == 0 || early.End >= e.began)
}

// stopped: of all that a node had that stood still, the one call of each key that was
// being sent.
func (x *excuses) stopped(e *entry, of *loadtest.Execution) bool {
	if of.Witness != nodeName(e.nodes[0]) || of.Start > e.end+int64(onItsWay) || of.End != 0 && of.End < e.began {
		return false
	}
	name := fmt.Sprint(e.began, of.Key)
	if x.once[name] == nil {
		x.once[name] = of
	}
	return x.once[name] == of
}

// outcome is what is kept of an episode, and a line of the report.
type outcome struct {
	Seed       uint64         `json:"seed"`
	Guarantee  string         `json:"guarantee"`
	Store      string         `json:"store,omitempty"`
	Nodes      int            `json:"nodes"`
	MinMembers int            `json:"min_members"`
	Seconds    float64        `json:"seconds"`
	Requests   int            `json:"requests"`
	Executions int            `json:"executions"`
	Statuses   map[int]int    `json:"statuses"`
	Findings   map[string]int `json:"findings"`   // every kind that is a verdict
	Excused    map[string]int `json:"excused"`    // by kind
	Split      int            `json:"split"`      // executions while a split excuses some orders
	Healed     float64        `json:"healed"`     // seconds after a split at which the last of what it excuses began
	Unanswered map[string]int `json:"unanswered"` // by why
	Events     map[string]int `json:"events"`
	Reached    map[string]int `json:"reached"`
}

func newOutcome(p plan) *outcome {
	return &outcome{
		Seed: p.seed, Guarantee: p.guarantee, Store: p.store, Nodes: p.nodes, MinMembers: p.least, Statuses: make(map[int]int),
		Findings: make(map[string]int), Excused: make(map[string]int), Unanswered: make(map[string]int),
		Events: make(map[string]int), Reached: make(map[string]int),
	}
}

// broken is how many findings nothing excuses.
func (o *outcome) broken() (n int) {
	for _, count := range o.Findings {
		n += count
	}
	return n + o.Unanswered[neither]
}

// verdicts are the kinds that fail an episode.
var verdicts = []loadtest.Kind{
	loadtest.Overlap, loadtest.TicketInversion, loadtest.ConnectionInversion, loadtest.RealtimeInversion, loadtest.Duplicate,
	loadtest.Loss, loadtest.Ghost, loadtest.Crossed, loadtest.FenceRegression, loadtest.Malformed,
}

// judge holds what both ends saw against the diary.
func (k *episode) judge(from int64) *outcome {
	o := newOutcome(k.plan)
	o.Seconds = time.Duration(k.history.Clock().Now() - from).Seconds()
	evidence := k.history.Evidence()
	evidence.Sent = k.sent
	dead := k.beliefs()
	o.Reached[falsely] = len(k.unexplained(dead))
	x := &excuses{diary: k.diary, dead: dead, strict: k.plan.store != "", grace: k.plan.store == "redis", once: make(map[string]*loadtest.Execution)}
	report := loadtest.Check(evidence, loadtest.Rules{Examples: 5, Excuse: x.excuse})
	o.Requests, o.Executions = len(evidence.Sent), len(evidence.Executions)
	for _, kind := range verdicts {
		o.Findings[string(kind)] = report.Count(kind)
		if n := report.Excused(kind); n > 0 {
			o.Excused[string(kind)] = n
		}
	}
	o.Healed = time.Duration(x.healed).Seconds()
	for i := range evidence.Executions {
		if !x.strict && slices.ContainsFunc(k.diary, func(e *entry) bool { return e.splits() && e.during(evidence.Executions[i].Start) }) {
			o.Split++
		}
	}
	for _, e := range k.diary {
		o.Events[e.name]++
	}
	k.answers(o, evidence)
	k.reached(o)
	if evidence.Refused > 0 || report.Vacuous() || k.plan.store != "" && report.Judged(loadtest.FenceRegression) == 0 {
		k.t.Errorf("too little was judged")
	}
	if o.broken() > 0 || k.t.Failed() {
		k.t.Errorf("seed %d: what nothing excuses:\n%s", k.plan.seed, report)
		for _, e := range k.diary {
			k.t.Log(e)
		}
		for _, b := range k.unexplained(dead) {
			k.t.Logf("%.3f–%.3f %s takes %s for dead", float64(b.from)/1e9, float64(b.until)/1e9, nodeName(b.by), nodeName(b.of))
		}
	}
	return o
}

// answers counts what clients were told, and looks at who was told nothing.
func (k *episode) answers(o *outcome, evidence loadtest.Evidence) {
	type request struct {
		client, key string
		seq         int64
	}
	unread := make(map[request]string) // by why
	for i := range evidence.Sent {
		s := &evidence.Sent[i]
		o.Statuses[s.Status]++
		if s.Problem != "" {
			o.Reached[s.Problem]++
		}
		if s.Status == http.StatusConflict && !k.mayBeLate(s) {
			if o.Findings[lateDispatch]++; o.Findings[lateDispatch] <= 5 {
				k.t.Logf("%s: %s %s seq %d, sent %.3f, answered %.3f", lateDispatch, s.Client, s.Key, s.Seq, float64(s.SentAt)/1e9, float64(s.AnsweredAt)/1e9)
			}
		}
		if s.Status != 0 {
			continue
		}
		why := k.whyUnanswered(s)
		o.Unanswered[why]++
		switch {
		case why == behind || why == crossed:
			unread[request{s.Client, s.Key, s.Seq}] = why
		case why == neither && o.Unanswered[why] <= 5:
			k.t.Logf("unanswered: %s %s seq %d, sent %.3f: %s", s.Client, s.Key, s.Seq, float64(s.SentAt)/1e9, s.Err)
		}
	}
	for i := range evidence.Executions {
		e := &evidence.Executions[i]
		if why := unread[request{e.Client, e.Key, e.Seq}]; why != "" {
			o.Unanswered[neither]++
			k.t.Logf("unanswered, %s, and it ran: %s %s seq %d", why, e.Client, e.Key, e.Seq)
		}
	}
}

// mayBeLate: a node that stood still may have been between the look at its lease and the
// write, and then the fence has to refuse it, as after the loss of a store without grace.
func (k *episode) mayBeLate(s *loadtest.Sent) bool {
	return slices.ContainsFunc(k.diary, func(e *entry) bool {
		switch e.name {
		case "stop":
			return s.SentAt <= e.end && s.AnsweredAt >= e.end && s.AnsweredAt <= e.end+int64(onItsWay)
		case "store lost":
			return k.plan.store != "redis" && s.AnsweredAt >= e.struck && s.SentAt <= e.struck+int64(unsettled)
		}
		return false
	})
}

// whyUnanswered: a client whose node was killed has nobody left to answer it. Nobody reads
// what comes after an answer that closes its connection, and what crosses the closing of idle
// connections by a node that leaves, as with any HTTP server: such requests have not run.
func (k *episode) whyUnanswered(s *loadtest.Sent) string {
	if strings.HasSuffix(s.Err, "with its answer to a request before it") {
		return behind
	}
	node := k.ingress[s.Client]
	for _, e := range k.diary {
		switch {
		case e.name == "kill" && e.nodes[0] == node && s.SentAt <= e.struck+int64(onItsWay) && e.struck-s.SentAt < int64(time.Minute):
			return killed
		case e.left[node].ended > 0 && s.SentAt >= e.left[node].asked && s.SentAt <= e.left[node].ended:
			return crossed
		}
	}
	return neither
}

// reached counts how often what seldom happens did.
func (k *episode) reached(o *outcome) {
	client := k.n.client(2 * time.Second)
	for i, up := range k.up {
		if up {
			moves, _ := strconv.ParseFloat(metric(k.n.metrics(client, i), "lanekeeper_partition_moves_total"), 64)
			o.Reached["partition moves"] += int(moves)
		}
	}
	for lie, n := range k.lies.told {
		o.Reached[lie] += n
	}
	o.Reached["fence refused"] = int(k.history.LowerFences())
	o.Reached["packets lost"] = int(k.wires.dropped.Load())
	o.Reached["packets late"] = int(k.wires.delayed.Load())
	o.Reached["packets doubled"] = int(k.wires.twice.Load())
	o.Reached["packets"] = int(k.wires.passed.Load())
}

// served holds that each key is served when all is over.
func (k *episode) served() {
	since := k.history.Clock().Now() - int64(serving)
	var last int64
	for i := range k.sent {
		last = max(last, k.sent[i].SentAt)
	}
	since = min(since, last-int64(serving))
	keys := make(map[string]bool)
	for i := range k.sent {
		if s := &k.sent[i]; s.SentAt >= since && s.Status == 200 {
			keys[s.Key] = true
		}
	}
	if len(keys) < k.plan.keys() {
		k.t.Errorf("when all was over, %d of %d keys were served", len(keys), k.plan.keys())
	}
}

func add(into, from map[string]int) {
	for name, n := range from {
		into[name] += n
	}
}

func counts(all map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if all[name] > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", name, all[name]))
		}
	}
	if parts == nil {
		return "none"
	}
	return strings.Join(parts, ", ")
}
