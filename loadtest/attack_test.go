package loadtest

import (
	"context"
	"errors"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestAttack: what vegeta sends is what was asked for, and both accounts of it agree.
// Mutants: all requests to the first target; an answer that is not read.
func TestAttack(t *testing.T) {
	history := NewHistory(NewClock(), 0)
	targets := []string{
		startWitness(t, WitnessConfig{Name: "w1"}, history), startWitness(t, WitnessConfig{Name: "w2"}, history),
	}
	traffic := Traffic{
		Mode: Open, Targets: targets, Keys: 10, Zipf: 1.2, Rate: 2000, Requests: 200, Connections: 8, BodyBytes: 300,
		Clock: history.Clock(), Headers: []string{"Witness-Echo: 1"},
	}
	result, err := traffic.Attack(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if result.OK != 200 || len(result.Sent) != 200 || result.Latency.TotalCount() != 200 {
		t.Fatalf("OK %d, sent %d, latencies %d", result.OK, len(result.Sent), result.Latency.TotalCount())
	}
	evidence := history.Evidence()
	evidence.Sent = result.Sent
	report := Check(evidence, Rules{})
	if report.Count(Duplicate)+report.Count(Loss)+report.Count(Crossed)+report.Count(RealtimeInversion) > 0 {
		t.Errorf("%s", report.Verdict())
	}
	by := map[string]int{}
	for _, e := range evidence.Executions {
		by[e.Witness]++
	}
	if by["w1"] != 100 || by["w2"] != 100 {
		t.Errorf("the targets had %v", by)
	}
}

// TestAttackCountsFromWhenDue: one connection to a service that takes 20 ms, and a request
// due each 2 ms: the last of 50 waits for all before it, and for itself. Mutants: due when
// it is sent; drawn as vegeta has it; the attack ends when the last one is due.
func TestAttackCountsFromWhenDue(t *testing.T) {
	history := NewHistory(NewClock(), 0)
	url := startWitness(t, WitnessConfig{Delay: 20 * time.Millisecond}, history)
	latencies := NewPlot("latency")
	result, err := Traffic{Mode: Open, Targets: []string{url}, Rate: 500, Requests: 50, Connections: 1}.
		Attack(t.Context(), latencies)
	if err != nil {
		t.Fatal(err)
	}
	if longest := result.LatencyAt(100); longest < 800*time.Millisecond {
		t.Errorf("the longest latency was %v, of 50 × 20 ms less 100 ms", longest)
	}
	if first := result.LatencyAt(1); first > 200*time.Millisecond {
		t.Errorf("the shortest latency was %v", first)
	}
	var page strings.Builder
	if _, err := latencies.WriteTo(&page); err != nil {
		t.Fatal(err)
	}
	slowest := 0.0 // of the points, which are [seconds,milliseconds]
	for _, m := range regexp.MustCompile(`\[[0-9.]+,([0-9.]+)\]`).FindAllStringSubmatch(page.String(), -1) {
		value, _ := strconv.ParseFloat(m[1], 64)
		slowest = max(slowest, value)
	}
	if slowest < 800 {
		t.Errorf("the slowest that is drawn took %v ms", slowest)
	}
}

func TestAttackEndsWithItsContext(t *testing.T) {
	url := startWitness(t, WitnessConfig{}, NewHistory(NewClock(), 0))
	ctx, cancel := context.WithCancel(t.Context())
	result, err := Traffic{
		Mode: Open, Targets: []string{url}, Rate: 100, Connections: 4, ProgressEvery: 10 * time.Millisecond, Progress: func(Progress) { cancel() },
	}.Attack(ctx, nil)
	if !errors.Is(err, context.Canceled) || len(result.Sent) > 50 {
		t.Errorf("%v, sent %d", err, len(result.Sent))
	}
	if _, err := (Traffic{Mode: Closed, Targets: []string{url}}).Attack(t.Context(), nil); err == nil {
		t.Error("closed traffic is no attack")
	}
}

// TestServerTiming: mutants: the lane's time is the upstream's.
func TestServerTiming(t *testing.T) {
	var s Sent
	s.readTimes([]string{"db;dur=3", "lane;dur=12.4, upstream;dur=48.0, cache;desc=hit", "lane;dur=x"})
	if s.Lane != 12400*time.Microsecond || s.Upstream != 48*time.Millisecond {
		t.Errorf("%v %v", s.Lane, s.Upstream)
	}
}
