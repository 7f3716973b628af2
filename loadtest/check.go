package loadtest

import (
	"cmp"
	"fmt"
	"iter"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Evidence is what the two ends of a run know. Either half may be missing; what
// needs it then counts as not judged.
type Evidence struct {
	Executions  []Execution
	Refused     int64 // requests that a full history refused: more than 0 and nothing can be proved
	LowerFences int64 // requests that were refused, and not executed, for their fences
	Sent        []Sent
}

// Sent is one request as its client saw it. Client, Key and Seq together name
// the request; a client that repeats a request repeats its name.
type Sent struct {
	Client     string
	Connection int64 // distinguishes the client's connections; 0 = unknown
	Seq        int64 // 0 = not numbered, and then not matched with an execution
	Key        string
	Method     string

	SentAt     int64  // Clock reading before the first byte was written
	AnsweredAt int64  // after the last byte was read; 0 = no answer
	Status     int    // 0 = no answer
	Executed   string // the problem's member: "no", "unknown", or "" if there was none
	Problem    string // the problem's slug
	Ticket     string // of the answer, if it named one
	Crossed    bool   // the answer was a witness's, but to another request
	Err        string // why there was no answer

	Lane, Upstream time.Duration // by the answer's Server-Timing; 0 = it does not say

	due int64 // when it should have been sent
}

// Kind names a way to break order, or something worth showing beside it.
type Kind string

// The verdicts: one finding, and Report.OK is false.
const (
	// Overlap: an execution began while one it must not run together with (both
	// of one key, not both shared) was running. Touching is no overlap.
	Overlap Kind = "overlap"
	// TicketInversion: an execution began after one of the same key whose ticket
	// came later from the same ingress process (last 48 bits). Two shared ones
	// may swap.
	TicketInversion Kind = "ticket-inversion"
	// ConnectionInversion: as TicketInversion, by the order of sending on one
	// client connection.
	ConnectionInversion Kind = "connection-inversion"
	// RealtimeInversion: B was sent after A's answer had arrived, and B began
	// before A. Only answers that say A ran count: a status from 200 to 499
	// without the member `executed`.
	RealtimeInversion Kind = "realtime-inversion"
	// Duplicate: a request ran again, by its name. A client's own repetition
	// counts too: running it twice is what keys and numbers are to prevent.
	Duplicate Kind = "duplicate"
	// Loss: a 2xx answer to a request that never ran.
	Loss Kind = "loss"
	// Ghost: every answer to a request said executed "no", and it ran.
	Ghost Kind = "ghost"
	// Crossed: a client got the answer to another request.
	Crossed Kind = "crossed"
	// FenceRegression: an exclusive execution carried a fence below an earlier
	// one's of its key, or the same one under another ticket.
	FenceRegression Kind = "fence-regression"
	// Malformed: a ticket that is no UUIDv7, a fence that is no signed 64-bit
	// decimal, an end before its start. It could not be judged, so it fails.
	Malformed Kind = "malformed"
)

// What is counted and shown, and never a verdict.
const (
	// SendSwap: an execution began after one of the same key that was sent later
	// on whatever connection. The network and the scheduler do that too: compare
	// with Rules.Noise.
	SendSwap Kind = "send-swap"
	// Late: B was sent after A was answered with an unknown outcome, and A began
	// after B. Promised to nobody, and what a held lane is for.
	Late Kind = "late"
	// Unfinished: an execution without an end; it counts as running for ever.
	Unfinished Kind = "unfinished"
	// Unanswered: a request without any answer.
	Unanswered Kind = "unanswered"
)

var kinds = []struct {
	kind    Kind
	verdict bool
	subject string // what Judged counts
}{
	{Overlap, true, "executions beside others of their key"},
	{TicketInversion, true, "executions beside others of their key and ingress"},
	{ConnectionInversion, true, "requests beside others of their key and connection"},
	{RealtimeInversion, true, "answered requests"},
	{Duplicate, true, "numbered executions"},
	{Loss, true, "2xx answers"},
	{Ghost, true, `answers saying executed "no"`},
	{Crossed, true, "answers"},
	{FenceRegression, true, "fenced executions"},
	{Malformed, true, "executions"},
	{SendSwap, false, "requests beside others of their key"},
	{Late, false, "answers of unknown outcome"},
	{Unfinished, false, "executions"},
	{Unanswered, false, "requests"},
}

// Rules adjust a check. The zero value is lanekeeper's defaults.
type Rules struct {
	Shared   []string // methods that may run together; nil means GET and HEAD
	Examples int      // kept per kind; 0 means 5
	Noise    *Noise   // shown beside SendSwap; see MeasureNoise

	// Excuse says of two executions of a key that what was found of them is none of
	// the faults that are looked for; late is the one that began later. A finding that
	// rests on several pairs is excused if each of them is. It is asked of overlaps
	// and inversions alone; nil excuses nothing.
	Excuse func(kind Kind, late, early *Execution) bool
}

// Check judges the evidence. It is pure, and takes time n log n: a million
// executions take a few seconds. Executions without a key are counted and not
// judged.
func Check(evidence Evidence, rules Rules) *Report {
	if rules.Shared == nil {
		rules.Shared = []string{"GET", "HEAD"}
	}
	if rules.Examples <= 0 {
		rules.Examples = 5
	}
	c := &checker{
		evidence: evidence, rules: rules,
		names:    make(map[name]int32, max(len(evidence.Executions), len(evidence.Sent))),
		requests: make([]request, 0, max(len(evidence.Executions), len(evidence.Sent))),
		report: &Report{
			Executions: len(evidence.Executions), Refused: evidence.Refused,
			Sent: len(evidence.Sent), noise: rules.Noise,
		},
	}
	for _, k := range kinds {
		c.report.Findings = append(c.report.Findings, Finding{Kind: k.kind, Verdict: k.verdict, Subject: k.subject})
	}
	c.readSent()
	c.readExecutions()
	c.sweep()
	c.judgeTickets()
	c.judgeConnections()
	c.judgeSendOrder()
	c.judgeTime(RealtimeInversion)
	c.judgeTime(Late)
	c.judgeRequests()
	return c.report
}

type checker struct {
	evidence Evidence
	rules    Rules
	report   *Report

	names    map[name]int32 // → requests
	requests []request
	items    []item  // keyed executions by key and start
	points   []point // room for one search at a time
}

type name struct {
	client, key string
	seq         int64
}

// request gathers all attempts and executions of one name.
type request struct {
	attempts, denied, executions int32
	sent                         int32 // index of the first attempt
	execution                    int32 // index of the execution that began first
	ok                           bool  // an attempt was answered 2xx
	sentAt                       int64 // earliest
	ranAt                        int64 // earliest answer that says it ran; 0 = none
	unknownAt                    int64 // earliest answer that leaves it open; 0 = none
}

// item is what the sweeps need of an execution.
type item struct {
	key        int32
	execution  int32
	request    int32 // -1 = not numbered
	shared     bool
	start, end int64
	ticket     rank // zero = none
}

// rank orders tickets and times: 128 bits, because a ticket has that many.
type rank struct{ hi, lo uint64 }

func (r rank) compare(o rank) int {
	return cmp.Or(cmp.Compare(r.hi, o.hi), cmp.Compare(r.lo, o.lo))
}

func timeRank(t int64) rank { return rank{hi: uint64(t) ^ 1<<63} } // keeps the order of signed numbers

const processMask = 1<<48 - 1 // of rank.lo: the ingress process that made the ticket

// request returns the index of the request of this name.
func (c *checker) request(n name) int32 {
	i, ok := c.names[n]
	if !ok {
		i = int32(len(c.requests))
		c.names[n] = i
		c.requests = append(c.requests, request{sent: -1, execution: -1})
	}
	return i
}

func (c *checker) readSent() {
	for i := range c.evidence.Sent {
		s := &c.evidence.Sent[i]
		c.judged(Unanswered, 1)
		if s.Status == 0 {
			c.found(Unanswered, func() string { return c.sayRequest(s) + ": " + cmp.Or(s.Err, "no answer") })
		} else {
			c.report.Answered++
			c.judged(Crossed, 1)
			if s.Crossed {
				c.found(Crossed, func() string { return c.sayRequest(s) + ": the answer was another request's" })
			}
		}
		if s.Seq == 0 {
			continue
		}
		r := &c.requests[c.request(name{s.Client, s.Key, s.Seq})]
		r.attempts++
		if r.sent < 0 {
			r.sent, r.sentAt = int32(i), s.SentAt
		}
		r.sentAt = min(r.sentAt, s.SentAt)
		switch {
		case s.Status == 0:
		case s.Executed == "no":
			r.denied++
		case s.Executed == "" && s.Status >= 200 && s.Status < 500:
			r.ok = r.ok || s.Status < 300
			if r.ranAt == 0 || s.AnsweredAt < r.ranAt {
				r.ranAt = s.AnsweredAt
			}
		default:
			if r.unknownAt == 0 || s.AnsweredAt < r.unknownAt {
				r.unknownAt = s.AnsweredAt
			}
		}
	}
}

func (c *checker) readExecutions() {
	keys := make(map[string]int32)
	c.items = make([]item, 0, len(c.evidence.Executions))
	for i := range c.evidence.Executions {
		e := &c.evidence.Executions[i]
		it := item{execution: int32(i), request: -1, start: e.Start, end: e.End, shared: slices.Contains(c.rules.Shared, e.Method)}
		c.judged(Unfinished, 1)
		c.judged(Malformed, 1)
		switch {
		case e.End == 0:
			it.end = math.MaxInt64
			c.found(Unfinished, func() string { return c.say(e) })
		case e.End < e.Start:
			it.end = e.Start
			c.found(Malformed, func() string { return c.say(e) + ": ends before it starts" })
		}
		if e.Ticket != "" {
			var ok bool
			if it.ticket, ok = parseTicket(e.Ticket); !ok {
				c.found(Malformed, func() string { return fmt.Sprintf("%s: ticket %q is no UUIDv7", c.say(e), e.Ticket) })
			}
		}
		if e.Seq != 0 {
			it.request = c.request(name{e.Client, e.Key, e.Seq})
			r := &c.requests[it.request]
			c.judged(Duplicate, 1)
			if r.executions++; r.executions > 1 {
				first := &c.evidence.Executions[r.execution]
				c.found(Duplicate, func() string { return fmt.Sprintf("%s ran again: %s", c.say(first), c.say(e)) })
			}
			if r.execution < 0 || e.Start < c.evidence.Executions[r.execution].Start {
				r.execution = int32(i)
			}
		}
		if e.Key == "" {
			c.report.Unkeyed++
			continue
		}
		id, ok := keys[e.Key]
		if !ok {
			id = int32(len(keys))
			keys[e.Key] = id
		}
		it.key = id
		c.items = append(c.items, it)
	}
	c.report.Keys = len(keys)
	c.points = make([]point, 0, len(c.items))
	slices.SortFunc(c.items, func(a, b item) int {
		return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.start, b.start), cmp.Compare(a.end, b.end), cmp.Compare(a.execution, b.execution))
	})
}

// sweep walks each key's executions by start, then end, and looks back: whose
// end reaches furthest, and what fence was the highest.
func (c *checker) sweep() {
	for from := 0; from < len(c.items); {
		to := from + 1
		for to < len(c.items) && c.items[to].key == c.items[from].key {
			to++
		}
		key := c.items[from:to]
		from = to
		if len(key) > 1 {
			c.judged(Overlap, len(key))
		}
		var longest, longestExclusive *item
		var highest *item
		highestFence := int64(-1)
		for i := range key {
			it := &key[i]
			e := &c.evidence.Executions[it.execution]

			// The longest one is enough: whatever reaches into this one, it does.
			other := longest
			if it.shared {
				other = longestExclusive
			}
			if other != nil && other.end > it.start {
				pairs := func(yield func(int32) bool) {
					for j := range key[:i] {
						if o := &key[j]; o.end > it.start && !(o.shared && it.shared) && !yield(o.execution) {
							return
						}
					}
				}
				c.foundPairs(Overlap, it.execution, other.execution, pairs, func(first *Execution) string {
					return fmt.Sprintf("%s overlaps %s", c.say(first), c.sayShort(e))
				})
			}
			if longest == nil || it.end > longest.end {
				longest = it
			}
			if !it.shared && (longestExclusive == nil || it.end > longestExclusive.end) {
				longestExclusive = it
			}

			if it.shared || e.Fence == "" {
				continue
			}
			fence, ok := parseFence(e.Fence)
			if !ok {
				c.found(Malformed, func() string { return fmt.Sprintf("%s: fence %q is no fence", c.say(e), e.Fence) })
				continue
			}
			c.judged(FenceRegression, 1)
			if highest != nil {
				h := &c.evidence.Executions[highest.execution]
				if fence < highestFence || fence == highestFence && e.Ticket != h.Ticket {
					c.found(FenceRegression, func() string {
						return fmt.Sprintf("%s: fence %s after %s, which had %s", c.say(e), e.Fence, c.sayShort(h), h.Fence)
					})
				}
			}
			if fence > highestFence {
				highest, highestFence = it, fence
			}
		}
	}
}

// point is one execution in a search for inversions.
type point struct {
	key       int32
	execution int32
	group     uint64
	start     int64
	shared    bool
	rank      rank // how late it was meant to run
	limit     rank // it must not begin after a point of a higher rank; usually its own rank
}

// inversions finds the points that began after a point of their key and group
// whose rank is above their limit, unless both are shared. It reports each once,
// with the earlier point of the highest rank.
func inversions(points []point, sharedSwap bool, judged func(n int), found func(late, early *point, pairs iter.Seq[int32])) {
	slices.SortFunc(points, func(a, b point) int {
		return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.group, b.group), cmp.Compare(a.start, b.start), cmp.Compare(a.execution, b.execution))
	})
	for from := 0; from < len(points); {
		to := from + 1
		for to < len(points) && points[to].key == points[from].key && points[to].group == points[from].group {
			to++
		}
		group := points[from:to]
		from = to
		if len(group) > 1 {
			judged(len(group))
		}
		var highest, highestExclusive *point
		for i := 0; i < len(group); {
			// Equal starts are before nobody: look at all of them, then count them.
			same := i + 1
			for same < len(group) && group[same].start == group[i].start {
				same++
			}
			for j := i; j < same; j++ {
				p, other := &group[j], highest
				if p.shared && sharedSwap {
					other = highestExclusive
				}
				if other != nil && other.rank.compare(p.limit) > 0 {
					found(p, other, func(yield func(int32) bool) {
						for k := range group[:i] {
							if o := &group[k]; o.rank.compare(p.limit) > 0 && !(o.shared && p.shared && sharedSwap) && !yield(o.execution) {
								return
							}
						}
					})
				}
			}
			for ; i < same; i++ {
				p := &group[i]
				if highest == nil || p.rank.compare(highest.rank) > 0 {
					highest = p
				}
				if !p.shared && (highestExclusive == nil || p.rank.compare(highestExclusive.rank) > 0) {
					highestExclusive = p
				}
			}
		}
	}
}

func (c *checker) judgeTickets() {
	points := c.points[:0]
	for i := range c.items {
		if it := &c.items[i]; it.ticket != (rank{}) {
			points = append(points, point{
				key: it.key, execution: it.execution, group: it.ticket.lo & processMask,
				start: it.start, shared: it.shared, rank: it.ticket, limit: it.ticket,
			})
		}
	}
	inversions(points, true, func(n int) { c.judged(TicketInversion, n) }, func(late, early *point, pairs iter.Seq[int32]) {
		c.foundPairs(TicketInversion, late.execution, early.execution, pairs, func(e *Execution) string {
			l := &c.evidence.Executions[late.execution]
			return fmt.Sprintf("%s, ticket %s, ran after %s, ticket %s", c.say(l), l.Ticket, c.sayShort(e), e.Ticket)
		})
	})
}

// sentOnce is the sending of an execution, if there is no doubt about it: of a
// repeated request nobody can say which sending ran.
func (c *checker) sentOnce(it *item) *Sent {
	if it.request < 0 {
		return nil
	}
	r := &c.requests[it.request]
	if r.attempts != 1 || r.execution != it.execution {
		return nil
	}
	return &c.evidence.Sent[r.sent]
}

func (c *checker) judgeConnections() {
	type connection struct {
		client string
		id     int64
	}
	connections := make(map[connection]uint64)
	points := c.points[:0]
	for i := range c.items {
		it := &c.items[i]
		s := c.sentOnce(it)
		if s == nil || s.Connection == 0 {
			continue
		}
		id := connection{s.Client, s.Connection}
		group, ok := connections[id]
		if !ok {
			group = uint64(len(connections))
			connections[id] = group
		}
		points = append(points, point{
			key: it.key, execution: it.execution, group: group, start: it.start, shared: it.shared,
			rank: timeRank(s.SentAt), limit: timeRank(s.SentAt),
		})
	}
	c.report.Connections = len(connections)
	inversions(points, true, func(n int) { c.judged(ConnectionInversion, n) }, c.sayTimes(ConnectionInversion, "was sent %s before it"))
}

func (c *checker) judgeSendOrder() {
	points := c.points[:0]
	for i := range c.items {
		it := &c.items[i]
		if s := c.sentOnce(it); s != nil {
			points = append(points, point{
				key: it.key, execution: it.execution, start: it.start, shared: it.shared,
				rank: timeRank(s.SentAt), limit: timeRank(s.SentAt),
			})
		}
	}
	inversions(points, true, func(n int) { c.judged(SendSwap, n) }, c.sayTimes(SendSwap, "was sent %s before it"))
}

// judgeTime looks for effects before their causes, and with Late for the same
// after answers of unknown outcome. Shared requests are no exception: one that
// was answered had run.
func (c *checker) judgeTime(kind Kind) {
	points := c.points[:0]
	for i := range c.items {
		it := &c.items[i]
		if it.request < 0 {
			continue
		}
		r := &c.requests[it.request]
		if r.attempts == 0 || r.execution != it.execution {
			continue
		}
		answered := r.ranAt
		if kind == Late && r.ranAt == 0 {
			answered = r.unknownAt
		} else if kind == Late {
			answered = 0
		}
		p := point{
			key: it.key, execution: it.execution, start: it.start, shared: it.shared,
			rank: timeRank(r.sentAt), limit: rank{math.MaxUint64, math.MaxUint64},
		}
		if answered != 0 {
			p.limit = timeRank(answered)
			c.judged(kind, 1)
		}
		points = append(points, p)
	}
	inversions(points, false, func(int) {}, c.sayTimes(kind, "was answered %s before that was sent"))
}

// sayTimes returns what reports a late point; format takes by how much.
func (c *checker) sayTimes(kind Kind, format string) func(late, early *point, pairs iter.Seq[int32]) {
	return func(late, early *point, pairs iter.Seq[int32]) {
		c.foundPairs(kind, late.execution, early.execution, pairs, func(e *Execution) string {
			l := &c.evidence.Executions[late.execution]
			if e != &c.evidence.Executions[early.execution] {
				return fmt.Sprintf("%s ran after %s, although it comes first", c.say(l), c.sayShort(e))
			}
			by := seconds(int64(early.rank.hi - late.limit.hi))
			return fmt.Sprintf("%s ran after %s, and "+format, c.say(l), c.sayShort(e), by)
		})
	}
}

func (c *checker) judgeRequests() {
	for i := range c.requests {
		r := &c.requests[i]
		if r.attempts == 0 {
			continue
		}
		s := &c.evidence.Sent[r.sent]
		if r.ok {
			c.judged(Loss, 1)
			if r.executions == 0 {
				c.found(Loss, func() string { return c.sayRequest(s) + ": answered 2xx, never ran" })
			}
		}
		c.judged(Ghost, int(r.denied))
		if r.denied == r.attempts && r.executions > 0 {
			c.found(Ghost, func() string {
				return fmt.Sprintf(`%s: answered executed "no", and ran: %s`, c.sayRequest(s), c.say(&c.evidence.Executions[r.execution]))
			})
		}
	}
}

func (c *checker) judged(kind Kind, n int) { c.report.find(kind).Judged += n }

// foundPairs counts a finding that rests on pairs of executions, of which worst is one,
// as excused or not. It says the first pair that is not excused.
func (c *checker) foundPairs(kind Kind, late, worst int32, pairs iter.Seq[int32], say func(early *Execution) string) {
	executions := c.evidence.Executions
	if c.rules.Excuse != nil && c.report.find(kind).Verdict {
		worst = -1
		for early := range pairs {
			if !c.rules.Excuse(kind, &executions[late], &executions[early]) {
				worst = early
				break
			}
		}
	}
	if worst < 0 {
		c.report.find(kind).Excused++
		return
	}
	c.found(kind, func() string { return say(&executions[worst]) })
}

// found counts a finding, and says it if there is still room for an example.
func (c *checker) found(kind Kind, say func() string) {
	f := c.report.find(kind)
	f.Count++
	if len(f.Examples) < c.rules.Examples {
		f.Examples = append(f.Examples, say())
	}
}

func (c *checker) say(e *Execution) string { return "key " + e.Key + ": " + c.sayShort(e) }

func (c *checker) sayShort(e *Execution) string {
	var b strings.Builder
	switch {
	case e.Seq != 0 && e.Client != "":
		fmt.Fprintf(&b, "seq %d of %s", e.Seq, e.Client)
	case e.Seq != 0:
		fmt.Fprintf(&b, "seq %d", e.Seq)
	case e.Ticket != "":
		fmt.Fprintf(&b, "ticket %s", e.Ticket)
	default:
		b.WriteString("a request")
	}
	if slices.Contains(c.rules.Shared, e.Method) {
		b.WriteString(" (" + e.Method + ")")
	}
	if e.End == 0 {
		fmt.Fprintf(&b, " [%s–…]", seconds(e.Start))
	} else {
		fmt.Fprintf(&b, " [%s–%s]", seconds(e.Start), seconds(e.End))
	}
	if e.Witness != "" {
		b.WriteString(" at " + e.Witness)
	}
	return b.String()
}

func (c *checker) sayRequest(s *Sent) string {
	return fmt.Sprintf("key %s: seq %d of %s, sent at %s, status %d", s.Key, s.Seq, s.Client, seconds(s.SentAt), s.Status)
}

// seconds keeps milliseconds, and more digits only where they say something.
func seconds(ns int64) string {
	s := strconv.FormatFloat(float64(ns)/1e9, 'f', 6, 64)
	for strings.HasSuffix(s, "0") && len(s)-strings.IndexByte(s, '.') > 4 {
		s = s[:len(s)-1]
	}
	return s + "s"
}

// parseTicket reads a UUID of version 7.
func parseTicket(s string) (rank, bool) {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' || s[14] != '7' {
		return rank{}, false
	}
	var r rank
	for i := range len(s) {
		var digit byte
		switch c := s[i]; {
		case i == 8 || i == 13 || i == 18 || i == 23:
			continue
		case '0' <= c && c <= '9':
			digit = c - '0'
		case 'a' <= c && c <= 'f':
			digit = c - 'a' + 10
		case 'A' <= c && c <= 'F':
			digit = c - 'A' + 10
		default:
			return rank{}, false
		}
		r.hi = r.hi<<4 | r.lo>>60
		r.lo = r.lo<<4 | uint64(digit)
	}
	return r, true
}

// parseFence reads a decimal of at most 19 digits that fits int64.
func parseFence(s string) (int64, bool) {
	if len(s) == 0 || len(s) > 19 || s[0] < '0' || s[0] > '9' { // ParseInt would take a sign
		return 0, false
	}
	fence, err := strconv.ParseInt(s, 10, 64)
	return fence, err == nil
}
