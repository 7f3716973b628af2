package loadtest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Tickets of two ingress processes, rising.
const (
	p1t1 = "01900000-0000-7000-8000-00000000000a"
	p1t2 = "01900000-0001-7000-8000-00000000000a"
	p1t3 = "01900000-0002-7000-8000-00000000000a"
	p2t1 = "01900000-0000-7000-8000-00000000000b"
	p2t9 = "01900000-0009-7000-8000-00000000000b"
)

// ran is an execution of client c; the fields that a case is about are set by
// the functions after it.
func ran(seq, start, end int64, with ...func(*Execution)) Execution {
	e := Execution{Key: "k", Client: "c", Seq: seq, Start: start, End: end, Method: "POST"}
	for _, set := range with {
		set(&e)
	}
	return e
}

func key(k string) func(*Execution)    { return func(e *Execution) { e.Key = k } }
func method(m string) func(*Execution) { return func(e *Execution) { e.Method = m } }
func ticket(t string) func(*Execution) { return func(e *Execution) { e.Ticket = t } }
func fence(f string) func(*Execution)  { return func(e *Execution) { e.Fence = f } }

// asked is a request of client c on connection 1, answered 200.
func asked(seq, sent, answered int64, with ...func(*Sent)) Sent {
	s := Sent{Client: "c", Connection: 1, Key: "k", Method: "POST", Seq: seq, SentAt: sent, AnsweredAt: answered, Status: 200}
	for _, set := range with {
		set(&s)
	}
	return s
}

func on(connection int64) func(*Sent) { return func(s *Sent) { s.Connection = connection } }
func status(code int) func(*Sent)     { return func(s *Sent) { s.Status = code } }
func executed(e string) func(*Sent) {
	return func(s *Sent) { s.Executed, s.Status = e, 503 }
}

// Each case is a history by hand and what must be found in it, nothing else.
// Every kind has a case that only it can catch. Mutants of check.go that this
// table, or for (*) only the twin below, has killed, each tried:
//
//	overlap         compare with the neighbour only, instead of the longest so far; `>=` for `>`;
//	                shared compared with shared; a shared one compared with nobody; End 0 taken as is
//	ticket          one group for all processes; `>=` for `>`; shared may not swap; exclusive may
//	connection      one group for all connections; last execution instead of the first (*); repeated ones judged
//	real time       sent compared with sent instead of answered; unknown outcomes judged; only the neighbour; last sending
//	                or answer of a repeated request instead of the first (*); shared ones excused
//	duplicate       named by client and key only; repeated sending excuses it
//	loss, ghost     any status counts as ok; one "no" among several answers is enough
//	fence           compared as strings; shared ones compared; equal under two tickets allowed; highest not kept
//	malformed       accepted silently
func TestCheck(t *testing.T) {
	type counts map[Kind]int
	for _, c := range []struct {
		name string
		runs []Execution
		sent []Sent
		want counts
	}{
		{name: "nothing"},
		{name: "one after the other", runs: []Execution{ran(1, 10, 20), ran(2, 30, 40)}},
		{name: "touching is no overlap", runs: []Execution{ran(1, 10, 20), ran(2, 20, 30), ran(3, 30, 30), ran(4, 30, 31)}},
		{name: "overlap", runs: []Execution{ran(1, 10, 20), ran(2, 19, 30)}, want: counts{Overlap: 1}},
		{name: "overlap found in any order of records", runs: []Execution{ran(2, 19, 30), ran(1, 10, 20)}, want: counts{Overlap: 1}},
		{name: "same interval", runs: []Execution{ran(1, 10, 20), ran(2, 10, 20)}, want: counts{Overlap: 1}},
		{name: "one contains several", runs: []Execution{ran(1, 10, 100), ran(2, 20, 30), ran(3, 40, 50), ran(4, 60, 60)}, want: counts{Overlap: 3}},
		{name: "chain", runs: []Execution{ran(1, 10, 21), ran(2, 20, 31), ran(3, 30, 40)}, want: counts{Overlap: 2}},
		{name: "keys are independent", runs: []Execution{ran(1, 10, 20), ran(1, 10, 20, key("other"))}},
		{name: "no key, no lane", runs: []Execution{ran(1, 10, 20, key("")), ran(2, 10, 20, key(""))}},
		{name: "reads run together", runs: []Execution{ran(1, 10, 20, method("GET")), ran(2, 10, 20, method("HEAD"))}},
		{name: "not with a write", runs: []Execution{ran(1, 10, 20, method("GET")), ran(2, 15, 25)}, want: counts{Overlap: 1}},
		{name: "nor a write with them", runs: []Execution{ran(1, 10, 20), ran(2, 15, 25, method("GET"))}, want: counts{Overlap: 1}},
		{name: "a read under a long write behind a short read", runs: []Execution{
			ran(1, 10, 50), ran(2, 15, 90, method("GET")), ran(3, 40, 45, method("GET")), ran(4, 60, 65, method("GET")),
		}, want: counts{Overlap: 2}},
		{name: "unfinished runs for ever", runs: []Execution{ran(1, 10, 0), ran(2, 500, 501)}, want: counts{Overlap: 1, Unfinished: 1}},
		{name: "unfinished and last", runs: []Execution{ran(1, 10, 20), ran(2, 30, 0)}, want: counts{Unfinished: 1}},
		{name: "ends before it starts", runs: []Execution{ran(1, 20, 10)}, want: counts{Malformed: 1}},

		{name: "tickets rise", runs: []Execution{ran(1, 10, 20, ticket(p1t1)), ran(2, 30, 40, ticket(p1t2))}},
		{name: "tickets fall", runs: []Execution{ran(1, 10, 20, ticket(p1t2)), ran(2, 30, 40, ticket(p1t1))}, want: counts{TicketInversion: 1}},
		{name: "two ingress processes", runs: []Execution{ran(1, 10, 20, ticket(p2t9)), ran(2, 30, 40, ticket(p1t1))}},
		{name: "an inversion past another process", runs: []Execution{
			ran(1, 10, 20, ticket(p1t2)), ran(2, 30, 40, ticket(p2t1)), ran(3, 50, 60, ticket(p1t1)),
		}, want: counts{TicketInversion: 1}},
		{name: "an inversion past a later one", runs: []Execution{
			ran(1, 10, 20, ticket(p1t3)), ran(2, 30, 40, ticket(p1t1)), ran(3, 50, 60, ticket(p1t2)),
		}, want: counts{TicketInversion: 2}},
		{name: "equal tickets", runs: []Execution{ran(1, 10, 20, ticket(p1t1)), ran(2, 30, 40, ticket(p1t1))}},
		{name: "tickets are no case of letters", runs: []Execution{
			ran(1, 10, 20, ticket(p1t1)), ran(2, 30, 40, ticket(strings.ToUpper(p1t2))), ran(3, 50, 60, ticket(p1t3)),
		}},
		{name: "reads swap", runs: []Execution{ran(1, 10, 20, ticket(p1t2), method("GET")), ran(2, 11, 20, ticket(p1t1), method("GET"))}},
		{name: "a read before an earlier write", runs: []Execution{
			ran(1, 10, 20, ticket(p1t2), method("GET")), ran(2, 30, 40, ticket(p1t1)),
		}, want: counts{TicketInversion: 1}},
		{name: "a write before an earlier read", runs: []Execution{
			ran(1, 10, 20, ticket(p1t2)), ran(2, 30, 40, ticket(p1t1), method("GET")),
		}, want: counts{TicketInversion: 1}},
		{name: "equal starts are before nobody", runs: []Execution{
			ran(1, 10, 10, ticket(p1t2)), ran(2, 10, 10, ticket(p1t1)),
		}},
		{name: "no ticket at all", runs: []Execution{ran(1, 10, 20, ticket("17"))}, want: counts{Malformed: 1}},
		{name: "a UUID of another version", runs: []Execution{ran(1, 10, 20, ticket("01900000-0000-4000-8000-00000000000a"))}, want: counts{Malformed: 1}},

		{name: "in the order sent", runs: []Execution{ran(1, 10, 20), ran(2, 30, 40)}, sent: []Sent{asked(1, 1, 100), asked(2, 2, 100)}},
		{name: "against the order sent", runs: []Execution{ran(2, 10, 20), ran(1, 30, 40)}, sent: []Sent{asked(1, 1, 100), asked(2, 2, 100)},
			want: counts{ConnectionInversion: 1, SendSwap: 1}},
		{name: "on two connections", runs: []Execution{ran(2, 10, 20), ran(1, 30, 40)}, sent: []Sent{asked(1, 1, 100), asked(2, 2, 100, on(2))},
			want: counts{SendSwap: 1}},
		{name: "on unknown connections", runs: []Execution{ran(2, 10, 20), ran(1, 30, 40)}, sent: []Sent{asked(1, 1, 100, on(0)), asked(2, 2, 100, on(0))},
			want: counts{SendSwap: 1}},
		{name: "reads on one connection", runs: []Execution{ran(2, 10, 20, method("GET")), ran(1, 11, 40, method("GET"))}, sent: []Sent{asked(1, 1, 100), asked(2, 2, 100)}},
		{name: "a repeated request has no place in send order", runs: []Execution{ran(2, 10, 20), ran(1, 30, 40)},
			sent: []Sent{asked(1, 1, 0, status(0)), asked(1, 3, 100), asked(2, 2, 100)}, want: counts{Unanswered: 1}},

		{name: "effect before cause", runs: []Execution{ran(2, 10, 20), ran(1, 30, 40)}, sent: []Sent{asked(1, 1, 5), asked(2, 6, 100, on(2))},
			want: counts{RealtimeInversion: 1, SendSwap: 1}},
		{name: "effect before cause, another between", runs: []Execution{ran(2, 10, 20), ran(3, 22, 23), ran(1, 30, 40)},
			sent: []Sent{asked(1, 1, 5), asked(2, 6, 100, on(2)), asked(3, 4, 100, on(3))}, want: counts{RealtimeInversion: 1, SendSwap: 2}},
		{name: "sent just before the answer", runs: []Execution{ran(2, 10, 20), ran(1, 30, 40)}, sent: []Sent{asked(1, 1, 6), asked(2, 6, 100, on(2))},
			want: counts{SendSwap: 1}},
		{name: "a late run after an unknown outcome", runs: []Execution{ran(2, 10, 20), ran(1, 30, 40)},
			sent: []Sent{asked(1, 1, 5, executed("unknown")), asked(2, 6, 100, on(2))}, want: counts{Late: 1, SendSwap: 1}},
		{name: "a late run after somebody's 502", runs: []Execution{ran(2, 10, 20), ran(1, 30, 40)},
			sent: []Sent{asked(1, 1, 5, status(502)), asked(2, 6, 100, on(2))}, want: counts{Late: 1, SendSwap: 1}},
		{name: "reads are no exception in real time", runs: []Execution{ran(2, 10, 20, method("GET")), ran(1, 11, 40, method("GET"))},
			sent: []Sent{asked(1, 1, 5), asked(2, 6, 100, on(2))}, want: counts{RealtimeInversion: 1}},

		{name: "duplicate", runs: []Execution{ran(1, 10, 20), ran(1, 30, 40)}, want: counts{Duplicate: 1}},
		{name: "three times", runs: []Execution{ran(1, 10, 20), ran(1, 30, 40), ran(1, 50, 60)}, want: counts{Duplicate: 2}},
		{name: "a retry that ran again is a duplicate", runs: []Execution{ran(1, 10, 20), ran(1, 30, 40)},
			sent: []Sent{asked(1, 1, 0, status(0)), asked(1, 25, 50)}, want: counts{Duplicate: 1, Unanswered: 1}},
		{name: "a retry that ran once is none", runs: []Execution{ran(1, 10, 20)}, sent: []Sent{asked(1, 1, 0, status(0)), asked(1, 25, 50)},
			want: counts{Unanswered: 1}},
		{name: "without a number nothing is a duplicate", runs: []Execution{ran(0, 10, 20), ran(0, 30, 40)}},
		{name: "other key, other request", runs: []Execution{ran(1, 10, 20), ran(1, 30, 40, key("other"))}},

		{name: "loss", sent: []Sent{asked(1, 1, 5)}, want: counts{Loss: 1}},
		{name: "no loss without a 2xx", sent: []Sent{asked(1, 1, 5, status(404)), asked(2, 1, 5, executed("no")), asked(3, 1, 5, status(500))}},
		{name: "ghost", runs: []Execution{ran(1, 10, 20)}, sent: []Sent{asked(1, 1, 5, executed("no"))}, want: counts{Ghost: 1}},
		{name: "no ghost if a repetition ran", runs: []Execution{ran(1, 10, 20)}, sent: []Sent{asked(1, 1, 5, executed("no")), asked(1, 6, 50)}},
		{name: "no ghost if a repetition may have run", runs: []Execution{ran(1, 10, 20)},
			sent: []Sent{asked(1, 1, 5, executed("no")), asked(1, 6, 0, status(0))}, want: counts{Unanswered: 1}},
		{name: "unknown is no ghost", runs: []Execution{ran(1, 10, 20)}, sent: []Sent{asked(1, 1, 5, executed("unknown"))}},
		{name: "somebody else's answer", runs: []Execution{ran(1, 10, 20)}, sent: []Sent{asked(1, 1, 25, func(s *Sent) { s.Crossed = true })},
			want: counts{Crossed: 1}},

		{name: "fences rise", runs: []Execution{ran(1, 10, 20, fence("9")), ran(2, 30, 40, fence("10")), ran(3, 50, 60, fence("9223372036854775807"))}},
		{name: "fences fall", runs: []Execution{ran(1, 10, 20, fence("10")), ran(2, 30, 40, fence("9"))}, want: counts{FenceRegression: 1}},
		{name: "fences fall and don't recover", runs: []Execution{
			ran(1, 10, 20, fence("10")), ran(2, 30, 40, fence("8")), ran(3, 50, 60, fence("9")),
		}, want: counts{FenceRegression: 2}},
		{name: "past one without", runs: []Execution{ran(1, 10, 20, fence("10")), ran(2, 30, 40), ran(3, 50, 60, fence("9"))}, want: counts{FenceRegression: 1}},
		{name: "one dispatch, one fence", runs: []Execution{
			ran(1, 10, 20, fence("10"), ticket(p1t1)), ran(2, 30, 40, fence("10"), ticket(p1t2)),
		}, want: counts{FenceRegression: 1}},
		{name: "the same dispatch", runs: []Execution{ran(1, 10, 20, fence("10"), ticket(p1t1)), ran(0, 30, 40, fence("10"), ticket(p1t1))}},
		{name: "reads have no fence of their own", runs: []Execution{ran(1, 10, 20, fence("10")), ran(2, 30, 40, fence("9"), method("GET"))}},
		{name: "no fences", runs: []Execution{
			ran(1, 10, 20, fence("+1")), ran(2, 30, 40, fence("9223372036854775808")), ran(3, 50, 60, fence("12345678901234567890")), ran(4, 70, 80, fence("-")),
		}, want: counts{Malformed: 4}},
	} {
		t.Run(c.name, func(t *testing.T) {
			report := Check(Evidence{Executions: c.runs, Sent: c.sent}, Rules{})
			bad := false
			for _, f := range report.Findings {
				if f.Count != c.want[f.Kind] {
					t.Errorf("%s: got %d, want %d %q", f.Kind, f.Count, c.want[f.Kind], f.Examples)
				}
				if len(f.Examples) != min(f.Count, 5) {
					t.Errorf("%s: %d examples of %d", f.Kind, len(f.Examples), f.Count)
				}
				if f.Count > f.Judged {
					t.Errorf("%s: found %d among %d", f.Kind, f.Count, f.Judged)
				}
				bad = bad || f.Verdict && c.want[f.Kind] > 0
			}
			if report.OK() == bad {
				t.Errorf("OK() = %v: %s", report.OK(), report.Verdict())
			}
		})
	}
}

// Each verdict kind alone must be enough to fail.
// Mutant killed: one kind marked verdict: false in kinds.
func TestEveryVerdictFails(t *testing.T) {
	want := []Kind{Overlap, TicketInversion, ConnectionInversion, RealtimeInversion, Duplicate, Loss, Ghost, Crossed, FenceRegression, Malformed}
	for _, kind := range want {
		report := Check(Evidence{}, Rules{})
		report.find(kind).Count = 1
		if report.OK() || !strings.HasPrefix(report.Verdict(), "BROKEN: "+string(kind)) {
			t.Errorf("%s: OK %v, %s", kind, report.OK(), report.Verdict())
		}
	}
	for _, kind := range []Kind{SendSwap, Late, Unfinished, Unanswered} {
		report := Check(Evidence{}, Rules{})
		report.find(kind).Count = 1
		if !report.OK() {
			t.Errorf("%s alone is no verdict", kind)
		}
	}
}

// Mutant killed: OK without `r.Refused == 0`.
func TestTruncatedHistoryIsNeverOK(t *testing.T) {
	report := Check(Evidence{Executions: []Execution{ran(1, 10, 20), ran(2, 30, 40)}, Refused: 1}, Rules{})
	if report.OK() || !strings.HasPrefix(report.Verdict(), "NOT JUDGED") {
		t.Errorf("OK %v: %s", report.OK(), report.Verdict())
	}
}

func TestVacuousHistoryIsNamed(t *testing.T) {
	report := Check(Evidence{Executions: []Execution{ran(1, 10, 20), ran(1, 10, 20, key("other"))}}, Rules{})
	if !report.OK() || !report.Vacuous() || report.Verdict() == "PASS" {
		t.Errorf("OK %v, vacuous %v: %s", report.OK(), report.Vacuous(), report.Verdict())
	}
}

func TestExamplesReadWell(t *testing.T) {
	ms := int64(time.Millisecond)
	report := Check(Evidence{
		Executions: []Execution{
			ran(12, 1204*ms, 1310*ms, key("order:7"), func(e *Execution) { e.Witness = "w1" }),
			ran(13, 1250*ms, 0, key("order:7"), func(e *Execution) { e.Client = "" }),
			ran(14, 1250*ms+500, 1260*ms, key("order:7"), method("GET")),
		},
		Sent: []Sent{asked(12, 1*ms, 2*ms, func(s *Sent) { s.Key = "order:7" })},
	}, Rules{Examples: 1, Noise: &Noise{Swapped: 1, Compared: 200}})
	text := report.String()
	for _, want := range []string{
		"key order:7: seq 12 of c [1.204s–1.310s] at w1 overlaps seq 13 [1.250s–…]\n",
		"… and 1 more\n",
		"BROKEN: overlap 2",
		"executed  3 requests of 1 keys",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	for ns, want := range map[int64]string{0: "0.000s", 1204 * ms: "1.204s", 1204*ms + 10_000: "1.20401s", -5 * ms: "-0.005s"} {
		if got := seconds(ns); got != want {
			t.Errorf("seconds(%d): got %s, want %s", ns, got, want)
		}
	}
}

// TestCheckAgreesWithDumbTwin compares every count with definitions written
// down literally, over small random histories full of ties.
func TestCheckAgreesWithDumbTwin(t *testing.T) {
	const histories = 8000
	found := make(map[Kind]int)
	for seed := range uint64(histories) {
		evidence := randomEvidence(rand.New(rand.NewPCG(seed, 1)))
		report := Check(evidence, Rules{})
		want := twin(evidence)
		for _, f := range report.Findings {
			found[f.Kind] += f.Count
			if f.Count != want[f.Kind] {
				t.Fatalf("seed %d: %s: got %d, want %d\n%s", seed, f.Kind, f.Count, want[f.Kind], describe(evidence))
			}
		}
	}
	for _, k := range kinds { // or the comparison proves nothing
		if found[k.kind] < 30 {
			t.Errorf("%s was met only %d times", k.kind, found[k.kind])
		}
	}
}

func randomEvidence(random *rand.Rand) Evidence {
	pick := func(values ...string) string { return values[random.IntN(len(values))] }
	var evidence Evidence
	for range random.IntN(12) {
		e := Execution{
			Key: pick("a", "a", "a", "b", ""), Client: pick("c", "d"), Seq: random.Int64N(5),
			Method: pick("POST", "POST", "DELETE", "GET", "HEAD"),
			Start:  1 + random.Int64N(12),
			Ticket: pick("", "x", p1t1, p1t2, p1t3, p1t1, p1t2, p2t1, p2t9),
			Fence:  pick("", "", "1", "2", "3", "10", "+1"),
		}
		switch e.End = e.Start + random.Int64N(4); random.IntN(12) {
		case 0:
			e.End = 0
		case 1:
			e.End = max(1, e.Start-1)
		}
		evidence.Executions = append(evidence.Executions, e)
	}
	for range random.IntN(10) {
		s := Sent{
			Client: pick("c", "d"), Connection: random.Int64N(3), Key: pick("a", "a", "a", "b"), Seq: random.Int64N(5),
			SentAt: 1 + random.Int64N(9), Status: []int{0, 200, 200, 201, 404, 500, 503}[random.IntN(7)],
			Crossed: random.IntN(20) == 0,
		}
		if s.Status != 0 {
			s.AnsweredAt = s.SentAt + 1 + random.Int64N(5)
			if s.Status == 503 {
				s.Executed = pick("no", "no", "unknown", "")
			}
		} else {
			s.Crossed = false
		}
		evidence.Sent = append(evidence.Sent, s)
	}
	return evidence
}

// twin counts by definition, comparing everything with everything.
func twin(evidence Evidence) map[Kind]int {
	count := make(map[Kind]int)
	runs, sents := evidence.Executions, evidence.Sent
	shared := func(e Execution) bool { return e.Method == "GET" || e.Method == "HEAD" }
	end := func(e Execution) int64 {
		if e.End == 0 {
			return math.MaxInt64
		}
		return max(e.Start, e.End)
	}
	fenceOf := func(e Execution) (int64, bool) {
		n, err := strconv.ParseUint(e.Fence, 10, 63)
		return int64(n), err == nil && !shared(e)
	}
	same := func(s Sent, e Execution) bool {
		return s.Seq != 0 && s.Seq == e.Seq && s.Client == e.Client && s.Key == e.Key
	}
	attempts := func(e Execution) (of []Sent) {
		for _, s := range sents {
			if same(s, e) {
				of = append(of, s)
			}
		}
		return of
	}
	// first: no execution of the same request began before, ties by position.
	first := func(i int) bool {
		for j, f := range runs {
			e := runs[i]
			if j != i && e.Seq != 0 && f.Seq == e.Seq && f.Client == e.Client && f.Key == e.Key &&
				(f.Start < e.Start || f.Start == e.Start && j < i) {
				return false
			}
		}
		return true
	}
	ranBy := func(s Sent) bool { return s.Executed == "" && s.Status >= 200 && s.Status < 500 }

	for i, e := range runs {
		if e.End == 0 {
			count[Unfinished]++
		} else if e.End < e.Start {
			count[Malformed]++
		}
		if e.Ticket == "x" {
			count[Malformed]++
		}
		if e.Key != "" && e.Fence == "+1" && !shared(e) {
			count[Malformed]++
		}
		var overlap, ticketInversion, fenceRegression, duplicate, connection, swap, realtime, late bool
		mine := attempts(e)
		for j, f := range runs {
			if j == i || f.Key != e.Key {
				continue
			}
			if f.Seq == e.Seq && f.Client == e.Client && e.Seq != 0 && j < i {
				duplicate = true
			}
			if e.Key == "" {
				continue
			}
			bothShared := shared(e) && shared(f)
			before := f.Start < e.Start || f.Start == e.Start && (end(f) < end(e) || end(f) == end(e) && j < i)
			if before && !bothShared && f.Start < end(e) && e.Start < end(f) {
				overlap = true
			}
			if len(e.Ticket) == 36 && len(f.Ticket) == 36 && e.Ticket[24:] == f.Ticket[24:] && !bothShared &&
				f.Start < e.Start && f.Ticket > e.Ticket {
				ticketInversion = true
			}
			if ef, ok := fenceOf(e); ok && before {
				if ff, ok := fenceOf(f); ok && (ff > ef || ff == ef && f.Ticket != e.Ticket && highestBefore(runs, i, j, end, fenceOf)) {
					fenceRegression = true
				}
			}
			theirs := attempts(f)
			if f.Start >= e.Start || len(mine) == 0 || len(theirs) == 0 || !first(i) || !first(j) {
				continue
			}
			if len(mine) == 1 && len(theirs) == 1 && !bothShared && mine[0].SentAt < theirs[0].SentAt {
				swap = true
				if mine[0].Client == theirs[0].Client && mine[0].Connection == theirs[0].Connection && mine[0].Connection != 0 {
					connection = true
				}
			}
			sent := int64(math.MaxInt64)
			for _, s := range theirs {
				sent = min(sent, s.SentAt)
			}
			known := slices.ContainsFunc(mine, ranBy)
			for _, s := range mine {
				if ranBy(s) && sent > s.AnsweredAt {
					realtime = true
				}
				if !known && s.Status != 0 && s.Executed != "no" && sent > s.AnsweredAt {
					late = true
				}
			}
		}
		for kind, found := range map[Kind]bool{
			Overlap: overlap, TicketInversion: ticketInversion, FenceRegression: fenceRegression, Duplicate: duplicate,
			ConnectionInversion: connection, SendSwap: swap, RealtimeInversion: realtime, Late: late,
		} {
			if found {
				count[kind]++
			}
		}
	}
	for i, s := range sents {
		if s.Status == 0 {
			count[Unanswered]++
		}
		if s.Crossed {
			count[Crossed]++
		}
		again := func(o Sent) bool { return o.Client == s.Client && o.Key == s.Key && o.Seq == s.Seq }
		if s.Seq == 0 || slices.ContainsFunc(sents[:i], again) {
			continue // judged with its first attempt
		}
		ranAtAll := slices.ContainsFunc(runs, func(e Execution) bool { return same(s, e) })
		ok, denied := false, true
		for _, o := range sents {
			if again(o) {
				ok = ok || o.Status >= 200 && o.Status < 300
				denied = denied && o.Executed == "no"
			}
		}
		if ok && !ranAtAll {
			count[Loss]++
		}
		if denied && ranAtAll {
			count[Ghost]++
		}
	}
	return count
}

// highestBefore: f (j) is the first to have carried the highest fence before e
// (i). Two equal fences are compared by the tickets of these two.
func highestBefore(runs []Execution, i, j int, end func(Execution) int64, fenceOf func(Execution) (int64, bool)) bool {
	less := func(a, b int) bool {
		x, y := runs[a], runs[b]
		return x.Start < y.Start || x.Start == y.Start && (end(x) < end(y) || end(x) == end(y) && a < b)
	}
	fj, _ := fenceOf(runs[j])
	for k, f := range runs {
		fk, ok := fenceOf(f)
		if k == j || !ok || f.Key != runs[j].Key || !less(k, i) {
			continue
		}
		if fk > fj || fk == fj && less(k, j) {
			return false
		}
	}
	return true
}

func describe(evidence Evidence) string {
	var b strings.Builder
	for i, e := range evidence.Executions {
		fmt.Fprintf(&b, "%d %+v\n", i, e)
	}
	for _, s := range evidence.Sent {
		fmt.Fprintf(&b, "%+v\n", s)
	}
	return b.String()
}

// BenchmarkCheck judges a million executions of ten thousand keys with their
// clients' accounts.
func BenchmarkCheck(b *testing.B) {
	const n, keyCount = 1_000_000, 10_000
	evidence := Evidence{Executions: make([]Execution, n), Sent: make([]Sent, n)}
	names := make([]string, keyCount)
	for i := range names {
		names[i] = "order:" + strconv.Itoa(i)
	}
	for i := range n {
		at := int64(1 + 10*i)
		k, seq := names[i%keyCount], int64(1+i/keyCount)
		evidence.Executions[i] = Execution{
			Key: k, Client: "load", Seq: seq, Start: at, End: at + 5, Method: "POST", Fence: strconv.Itoa(i),
			Ticket: fmt.Sprintf("%08x-%04x-7000-8000-%012x", i>>16, i&0xffff, i%3),
		}
		evidence.Sent[i] = Sent{Client: "load", Connection: int64(i % 64), Key: k, Seq: seq, SentAt: at - 1, AnsweredAt: at + 6, Status: 200}
	}
	for b.Loop() {
		if report := Check(evidence, Rules{}); !report.OK() {
			b.Fatal(report)
		}
	}
}
