package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"lanekeeper/loadtest"
)

// order are the verdicts that the failure table lets a crash, a pause or a split
// cost; all others hold whatever happens.
var order = []loadtest.Kind{loadtest.Overlap, loadtest.TicketInversion, loadtest.ConnectionInversion, loadtest.RealtimeInversion}

// judge holds what clients and upstreams saw against the promises.
func (w *world) judge() {
	if w.named {
		w.names.judge()
		return
	}
	evidence := w.history.Evidence()
	ran := make(map[simRequest]bool, len(evidence.Executions))
	for _, e := range evidence.Executions {
		ran[simRequest{e.Client, e.Key, e.Seq}] = true
	}
	for _, r := range w.runs {
		evidence.Sent = append(evidence.Sent, r.result.Sent...)
		w.judgeAnswers(r, ran)
	}
	slices.SortStableFunc(evidence.Sent, func(a, b loadtest.Sent) int { return cmp.Compare(a.SentAt, b.SentAt) })
	w.refuse(&evidence)
	rules := loadtest.Rules{Examples: 3}
	if w.cutOff {
		rules.Excuse = w.excuseCutOff
	}
	report := loadtest.Check(evidence, rules)
	w.tally.add("requests", len(evidence.Sent))
	w.tally.add("executions", len(evidence.Executions))
	if report.Vacuous() || report.Refused > 0 {
		w.wrong("nothing was proved: %s", report.Verdict())
	}
	excused := 0
	if w.cutOff {
		for _, kind := range order {
			w.tally.add(sawExcused, report.Excused(kind))
		}
	} else {
		excused = w.excuse(&evidence)
	}
	if excused > 0 {
		w.tally.add(sawExcused, excused)
		w.tally.add(sawOverlap, report.Count(loadtest.Overlap))
		for _, k := range order[1:] {
			w.tally.add("excused "+string(k), report.Count(k))
		}
	}
	strict := report
	if excused > 0 {
		strict = loadtest.Check(evidence, loadtest.Rules{Examples: 3})
	}
	for _, f := range report.Findings {
		if slices.Contains(order, f.Kind) {
			f = strict.Findings[slices.IndexFunc(strict.Findings, func(o loadtest.Finding) bool { return o.Kind == f.Kind })]
		}
		if f.Verdict && f.Count > 0 {
			w.wrong("%s: %d of %d %s\n\t%v", f.Kind, f.Count, f.Judged, f.Subject, f.Examples)
		}
	}
}

// refuse takes out of the evidence what a service would refuse that sees fences, and
// counts it: calls that arrive after a later one of their key. Only what could not be
// stopped may be among them. Their clients would be told of the refusal, so the 200 that
// the service of the simulation gave them is no promise either.
func (w *world) refuse(evidence *loadtest.Evidence) {
	if !w.strict {
		return
	}
	executions := slices.Clone(evidence.Executions)
	slices.SortStableFunc(executions, func(a, b loadtest.Execution) int { return cmp.Compare(a.Start, b.Start) })
	highest := make(map[string]uint64)
	refused := make(map[simRequest]bool)
	var kept []loadtest.Execution
	for _, e := range executions {
		if e.Method == "POST" {
			fence, err := strconv.ParseUint(e.Fence, 10, 63)
			if err != nil {
				w.wrong("seq %d of %s for %s came with the fence %q", e.Seq, e.Client, e.Key, e.Fence)
			}
			if fence < highest[e.Key] {
				refused[simRequest{e.Client, e.Key, e.Seq}] = true
				w.tally.add(sawFenced, 1)
				w.say("seq %d of %s for %s from %s is refused by its fence", e.Seq, e.Client, e.Key, e.Witness)
				if !slices.ContainsFunc(w.incidents, func(i *incident) bool {
					return i.process == e.Witness && (i.kind == paused || i.kind == crashed) && e.Start >= i.from || i.kind == lost && i.grace == 0 && e.Start >= i.from
				}) {
					w.wrong("seq %d of %s for %s: %s sent the fence %s, which is too low, and nothing had happened to it", e.Seq, e.Client, e.Key, e.Witness, e.Fence)
				}
				continue
			}
			highest[e.Key] = fence
		}
		kept = append(kept, e)
	}
	for _, e := range kept {
		delete(refused, simRequest{e.Client, e.Key, e.Seq})
	}
	evidence.Executions = kept
	evidence.Sent = slices.DeleteFunc(evidence.Sent, func(s loadtest.Sent) bool {
		return refused[simRequest{s.Client, s.Key, s.Seq}]
	})
}

// simRequest is what a request and its execution are known by.
type simRequest struct {
	client, key string
	seq         int64
}

// excuse takes out of the evidence what the failure table leaves open, and
// returns how much that is: of a process that was killed or stopped, the one
// call of each key that it was at; in a split, everything until there is one
// cluster again.
func (w *world) excuse(evidence *loadtest.Evidence) int {
	// How long what a process wrote may still be on its way: with loss, until it
	// has been sent again.
	soon := int64(w.link.Delay + w.link.Jitter + 2*time.Millisecond)
	pieces := map[string]int64{"uploads": 4 * soon, "echoes": 4 * soon} // a long body goes on where it stopped
	late := soon
	if w.link.Loss > 0 {
		late += int64(3 * time.Second)
	}
	type call struct {
		incident *incident
		key      string
	}
	sent := make(map[simRequest]int64)
	for i := range evidence.Sent {
		s := &evidence.Sent[i]
		sent[simRequest{s.Client, s.Key, s.Seq}] = s.SentAt
	}
	calls := make(map[call][]string)
	kept := evidence.Executions[:0:0]
	for _, e := range evidence.Executions {
		end := e.End
		if end == 0 {
			end = math.MaxInt64
		}
		excused := false
		for _, i := range w.incidents {
			switch {
			case w.strict && i.kind == lost && i.grace == 0 && end >= i.from && e.Start <= i.until.Load():
				excused = true
			case w.strict && (i.kind == split || e.Start < i.from):
				// Neither costs anything: nobody else ran what was begun in time.
			case i.kind == split && end >= i.from && e.Start <= i.until.Load(),
				i.kind == crashed && e.Witness == i.process && end >= i.from,
				// What was sent after a standstill is no call from before, and has no excuse.
				i.kind == paused && e.Witness == i.process && end >= i.from && e.Start <= i.until.Load()+late+pieces[e.Client] && sent[simRequest{e.Client, e.Key, e.Seq}] <= i.until.Load():
				excused = true
				if e.Method == "POST" && (i.kind == crashed || i.kind == paused && i.long && e.Start <= i.goesOn(soon)) {
					calls[call{i, e.Key}] = append(calls[call{i, e.Key}], fmt.Sprintf("seq %d of %s [%d–%d]", e.Seq, e.Client, e.Start, e.End))
				}
			}
		}
		if !excused {
			kept = append(kept, e)
		}
	}
	for of, some := range calls {
		if len(some) > 1 {
			w.wrong("%s ran %d calls of %s after it was gone or stood still: %v", of.incident.process, len(some), of.key, some[:min(len(some), 4)])
		}
	}
	n := len(evidence.Executions) - len(kept)
	evidence.Executions = kept
	return n
}

// goesOn is when a process that stood still is at work again: from then on it runs
// requests by right, also in a tenure that it has got since.
func (i *incident) goesOn(soon int64) int64 {
	at := i.until.Load() + soon
	if confirmed := i.confirmed.Load(); confirmed > 0 {
		at = min(at, confirmed)
	}
	return at
}

// judgeAnswers looks at how clients of one kind were answered.
func (w *world) judgeAnswers(r sending, ran map[simRequest]bool) {
	resets := w.tally.counts["resets"] > 0
	had := func(is func(*incident) bool) bool { return slices.ContainsFunc(w.incidents, is) }
	crashes := had(func(i *incident) bool { return i.kind == crashed })
	silence := had(func(i *incident) bool { return i.silent })
	splits := had(func(i *incident) bool { return i.kind == split })
	pauses := had(func(i *incident) bool { return i.kind == paused })
	for i := range r.result.Sent {
		s := &r.result.Sent[i]
		where := fmt.Sprintf("%s: seq %d of %s, sent at %.4f", s.Key, s.Seq, s.Client, float64(s.SentAt)/1e9)
		switch s.Executed {
		case "no":
			w.tally.add(sawDenials, 1)
		case "unknown":
			w.tally.add(sawUnknown, 1)
		}
		switch {
		case s.Status == 200:
		case r.kind == rude:
		case s.Status == 0 && s.Err == "no answer in time" && !silence && !(r.kind == large && splits):
			w.wrong("%s had no answer in %s", where, w.answerTimeout)
		case s.Status == 0 && !ran[simRequest{s.Client, s.Key, s.Seq}] && w.leaves > 0:
			// It met an idle connection that was just being closed, or one with
			// requests before it, whose answers were the last.
			w.tally.add("requests that met a connection that was closed for good", 1)
		case s.Status == 0 && r.kind == pipelined && strings.Contains(s.Err, "reset"):
			// A connection that is closed with something unread is reset, and that
			// may overtake the last answer.
			w.tally.add("answers that a reset behind them overtook", 1)
		case s.Status == 0 && (crashes || r.kind == large && (resets || splits || pauses || w.leaseless())):
		case s.Status == 0:
			w.wrong("%s had no answer: %s", where, s.Err)
		case s.Executed == "":
			w.wrong("%s was answered %d, by the upstream or nobody", where, s.Status)
		case r.kind == quick && s.Executed == "no" && (s.Problem == "lane-timeout" || s.Problem == "no-owner"):
		case r.kind == large && resets && s.Problem == "peer-lost": // its response was on its way
		case w.planned && s.Problem == "peer-lost" && w.leaves > 0 && w.link.Loss > 0 && !ran[simRequest{s.Client, s.Key, s.Seq}]:
			// It was sent again, as a lost segment is, when its owner had left.
			w.tally.add("requests that were on their way when their owner left", 1)
		case w.planned:
			w.wrong("%s was answered %d %s, executed %s", where, s.Status, s.Problem, s.Executed)
		case w.strict && s.Problem == "upstream-timeout": // its lease ended while it ran
			w.tally.add("answered upstream-timeout", 1)
		case !slices.Contains(faulty, s.Problem) && !(pauses && (s.Problem == "upstream-timeout" || s.Problem == "upstream-connect" && s.Executed == "no")):
			w.wrong("%s was answered %d %s, executed %s, which no fault explains", where, s.Status, s.Problem, s.Executed)
		default:
			w.tally.add("answered "+s.Problem, 1)
		}
	}
	if r.result.Stray > 0 {
		w.wrong("%d answers that nobody had asked for", r.result.Stray)
	}
}

// leaseless reports whether a lease may have ended of a node that lived.
func (w *world) leaseless() bool {
	return w.tally.counts[sawAway]+w.tally.counts[sawCutOff]+w.tally.counts[sawLoss] > 0
}

// faulty are the problems that faults between nodes may lead to.
var faulty = []string{"peer-lost", "lane-timeout", "ownership-moved", "not-ready", "no-owner", "draining"}

// story is what became of the requests of a key, for people.
func (w *world) story(key string) string {
	if w.named {
		return w.names.story(strings.TrimPrefix(key, "order:"))
	}
	type event struct {
		at   int64
		text string
	}
	var events []event
	add := func(at int64, format string, args ...any) {
		events = append(events, event{at, fmt.Sprintf("%12.6f  %s", float64(at)/1e9, fmt.Sprintf(format, args...))})
	}
	for _, e := range w.history.Evidence().Executions {
		if e.Key == key {
			add(e.Start, "%d of %s begins at %s, %s, ticket %s", e.Seq, e.Client, e.Witness, e.Method, e.Ticket)
			if e.End != 0 {
				add(e.End, "%d of %s ends", e.Seq, e.Client)
			}
		}
	}
	for _, r := range w.runs {
		for _, s := range r.result.Sent {
			if s.Key != key {
				continue
			}
			add(s.SentAt, "%d of %s is sent, on connection %d", s.Seq, s.Client, s.Connection)
			if s.Status != 0 {
				add(s.AnsweredAt, "%d of %s is answered %d %s %s %s", s.Seq, s.Client, s.Status, s.Problem, s.Executed, s.Ticket)
			}
		}
	}
	slices.SortFunc(events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	var lines []string
	for _, e := range events {
		lines = append(lines, e.text)
	}
	return strings.Join(lines, "\n")
}
