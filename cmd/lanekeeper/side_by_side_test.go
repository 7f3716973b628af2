package main

import (
	"context"
	"crypto/rand"
	"flag"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"lanekeeper/loadtest"
)

var (
	sideRound  = flag.Duration("side.round", 1500*time.Millisecond, "BenchmarkSideBySide: how long a round is")
	sideRounds = flag.Int("side.rounds", 7, "BenchmarkSideBySide: how many rounds count")
	sideWrite  = flag.String("side.write", "", "BenchmarkSideBySide: the page to write, FILE.md; its plot is FILE.svg")
	sideOnly   = flag.String("side.only", "", "BenchmarkSideBySide: only workloads whose name matches")
)

// BenchmarkSideBySide compares lanekeeper with whatever else stands between clients and a
// service, and with services that take a lock for each request, in alternating rounds: the
// same clients, which are this process, and one witness as the service, which is another, as
// services are: clients that share a process with it are woken for less. It judges
// each round by what the witness saw, and fails if lanekeeper broke an order. ns/op means
// nothing here; what it found is in its log, and in the page that -side.write writes:
//
//	go test ./cmd/lanekeeper -run '^$' -bench SideBySide -benchtime 1x -timeout 2h -side.write "$PWD/configs/guide/side-by-side.md"
func BenchmarkSideBySide(b *testing.B) {
	service := startChild(b, "the service", "service").targets[0]
	all := contenders(b, service)
	all = append(all, &contender{name: oneClient, targets: all[0].targets})
	only := regexp.MustCompile(*sideOnly)
	table := &comparison{rounds: make(map[string]map[string][]round)}
	for _, c := range all {
		c.answers(b)
		table.contenders = append(table.contenders, c.name)
	}
	for n := range *sideRounds + 1 {
		for _, w := range workloads {
			if !only.MatchString(w.name) {
				continue
			}
			for i := range all {
				c := all[i]
				if n%2 == 1 { // nobody is always first, or after the same one
					c = all[len(all)-1-i]
				}
				if c.name == oneClient && w.traffic.Keys > 1 {
					continue
				}
				r := c.round(b, w, service)
				fmt.Printf("%-15s %-47s %v\n", w.name, c.name, r) // a benchmark's own log is cut after ten lines
				if n > 0 {                                        // the first is to get warm
					table.add(w.name, c.name, r)
				}
			}
		}
	}
	for _, line := range table.verdicts() {
		fmt.Println(line)
	}
	if *sideWrite != "" {
		table.write(b, *sideWrite)
	}
}

// oneClient asks the service for one key, one request after the other: nothing can serve
// a key faster.
const oneClient = "one client, direct"

// workload is what clients do.
type workload struct {
	name, what string
	traffic    loadtest.Traffic
	times      time.Duration // as long as -side.round are its rounds
}

const closedRequests = 1_000_000 // which no round reaches

var workloads = func() []workload {
	usual := loadtest.Traffic{Mode: loadtest.Closed, Keys: 10_000, Connections: 64, BodyBytes: 1024, Requests: closedRequests, Headers: []string{"Witness-Delay: 1ms"}}
	with := func(change func(*loadtest.Traffic)) loadtest.Traffic {
		t := usual
		change(&t)
		return t
	}
	return []workload{
		{"1 ms", "64 connections in a closed loop, 10 000 keys alike, bodies of 1 KiB, a service that takes 1 ms", usual, 1},
		{"0 ms", "the same, and the service answers at once", with(func(t *loadtest.Traffic) { t.Headers = []string{"Witness-Delay: 0s"} }), 1},
		{"long tail", "the same, and the service takes 0.5 to 1.5 ms, and 20 ms more for one in a hundred", with(func(t *loadtest.Traffic) { t.Headers = nil }), 1},
		{"16 connections", "1 ms, 16 connections", with(func(t *loadtest.Traffic) { t.Connections = 16 }), 1},
		{"256 connections", "1 ms, 256 connections", with(func(t *loadtest.Traffic) { t.Connections = 256 }), 1},
		{"64 KiB", "1 ms, 64 connections, bodies of 64 KiB", with(func(t *loadtest.Traffic) { t.BodyBytes = 64 << 10 }), 1},
		{"Zipf 1.1", "1 ms, 64 connections, keys by Zipf's law with exponent 1.1", with(func(t *loadtest.Traffic) { t.Zipf = 1.1 }), 1},
		// No wait is longer than its round.
		{"hot key", "1 ms, 64 connections, one key; rounds are three times as long", with(func(t *loadtest.Traffic) { t.Keys = 1 }), 3},
		{"order", "20 keys, a request of each every 10 ms, on whatever connection is free; a long tail", loadtest.Traffic{Mode: loadtest.Spaced, Keys: 20, PerKey: 100_000, Gap: 10 * time.Millisecond, Connections: 256, BodyBytes: 1024}, 1},
	}
}()

// round is what one contender did with one workload.
type round struct {
	rate, cpu             float64 // requests per second; seconds of CPU per request, of all its processes
	p50, p99, longest     time.Duration
	memory                int64
	requests, failed      int
	overlaps, broken, out int  // executions beside others of their key; those that ran out of the order of arrival; of sending
	ordered               bool // the order of arrival is known
}

func (r round) String() string {
	return fmt.Sprintf("%6.0f/s, p50 %6.2f ms, p99 %7.2f ms, longest %7.2f ms, %6.1f µs of CPU each, %4.0f MB; %d failed, %d overlaps, %d against arrival, %d against sending",
		r.rate, milliseconds(r.p50), milliseconds(r.p99), milliseconds(r.longest), r.cpu*1e6, float64(r.memory)/1e6, r.failed, r.overlaps, r.broken, r.out)
}

func milliseconds(d time.Duration) float64 { return float64(d) / 1e6 }

func (c *contender) round(b *testing.B, w workload, service string) round {
	b.Helper()
	ctx := context.Background()
	if err := (&bench{witness: service}).forget(ctx); err != nil {
		b.Fatal(err)
	}
	traffic := w.traffic
	traffic.Targets, traffic.Duration, traffic.Timeout, traffic.Client = c.targets, w.times**sideRound, sideTimeout, rand.Text()
	if c.name == oneClient {
		traffic.Connections = 1
	}
	before := c.cpu(b)
	result, err := traffic.Run(ctx)
	if err != nil {
		b.Fatalf("%s: %v", c.name, err)
	}
	used := c.cpu(b) - before
	report := judgeRound(b, service, traffic.Client, result)
	r := round{
		rate: result.Throughput(), cpu: used.Seconds() / float64(len(result.Sent)), memory: c.memory(b),
		p50: result.LatencyAt(50), p99: result.LatencyAt(99), longest: result.LatencyAt(100),
		requests: len(result.Sent), failed: len(result.Sent) - result.OK,
		overlaps: report.Count(loadtest.Overlap), out: report.Count(loadtest.SendSwap),
		broken: report.Count(loadtest.TicketInversion), ordered: report.Judged(loadtest.TicketInversion) > 0,
	}
	if strings.HasPrefix(c.name, "lanekeeper") && (!report.OK() || r.failed > 0) {
		b.Errorf("%s, %s: statuses %v\n%s", w.name, c.name, result.Statuses(), report)
	}
	return r
}

// sideTimeout is how long an answer is waited for: HAProxy with two threads and servers of one
// connection each stands still now and then, with requests in its queues.
const sideTimeout = 10 * time.Second

// judgeRound leaves out what ran for clients of an earlier round. What a contender has held for
// longer than they waited runs while another one is looked at, who has nothing to do with it.
func judgeRound(b *testing.B, service, client string, result *loadtest.Result) *loadtest.Report {
	b.Helper()
	history, err := openHistory(context.Background(), nil, service)
	if err != nil {
		b.Fatal(err)
	}
	defer history.Close()
	evidence, err := loadtest.ReadHistory(history, 10*loadtest.DefaultMaxRecords)
	if err != nil {
		b.Fatal(err)
	}
	all := len(evidence.Executions)
	evidence.Executions = slices.DeleteFunc(evidence.Executions, func(e loadtest.Execution) bool { return e.Client != client })
	if late := all - len(evidence.Executions); late > 0 {
		fmt.Printf("%d requests of an earlier round ran in the next one\n", late)
	}
	evidence.Sent = result.Sent
	return loadtest.Check(evidence, loadtest.Rules{})
}

// comparison is all rounds, by workload and contender.
type comparison struct {
	contenders []string
	rounds     map[string]map[string][]round
}

func (t *comparison) add(workload, contender string, r round) {
	if t.rounds[workload] == nil {
		t.rounds[workload] = make(map[string][]round)
	}
	t.rounds[workload][contender] = append(t.rounds[workload][contender], r)
}

// measure is one figure of a round.
type measure func(round) float64

func rateOf(r round) float64    { return r.rate }
func cpuPer(r round) float64    { return r.cpu }
func p50Of(r round) float64     { return float64(r.p50) }
func p99Of(r round) float64     { return float64(r.p99) }
func longestOf(r round) float64 { return float64(r.longest) }

// aim is a bound of the ratio of one contender's figure to the best of others', of the
// same round.
type aim struct {
	what, workload string
	of             string
	against        []string
	figure, than   measure // than: of the others, if it is another one
	least, most    float64 // one of them is the bound; 0: none
}

const (
	hashing   = "HAProxy, consistent hash"
	minimal   = "minimal fasthttp proxy"
	alone     = "lanekeeper"
	three     = "lanekeeper, 3 nodes"
	strictOne = "lanekeeper, strict"
)

var (
	lanes64 = []string{"HAProxy, 64 servers of maxconn 1, one thread", "HAProxy, 64 servers of maxconn 1, two threads"}
	perLock = []string{"a Redis lock per request (SET NX, polled)", "a ZooKeeper lock per request", "an etcd lock per request"}
)

var aims = []aim{
	{"throughput against the minimal fasthttp proxy", "1 ms", alone, []string{minimal}, rateOf, nil, 0.97, 0},
	{"CPU per request against it", "1 ms", alone, []string{minimal}, cpuPer, nil, 0, 1.05},
	{"p99 against it", "1 ms", alone, []string{minimal}, p99Of, nil, 0, 1.1},
	{"throughput against HAProxy", "1 ms", alone, []string{hashing}, rateOf, nil, 1, 0},
	{"throughput against HAProxy", "0 ms", alone, []string{hashing}, rateOf, nil, 1, 0},
	{"CPU per request against HAProxy", "1 ms", alone, []string{hashing}, cpuPer, nil, 0, 1},
	{"CPU per request against HAProxy", "0 ms", alone, []string{hashing}, cpuPer, nil, 0, 1},
	{"CPU per request of three nodes, at any of which requests arrive, against one", "1 ms", three, []string{alone}, cpuPer, nil, 0, 1.7},
	{"throughput, strict against best effort", "0 ms", strictOne, []string{alone}, rateOf, nil, 0.98, 0},
	{"throughput against one client that asks the service directly", "hot key", alone, []string{oneClient}, rateOf, nil, 0.97, 0},
	{"p99 against 64 times one client's median", "hot key", alone, []string{oneClient}, p99Of, func(r round) float64 { return 64 * p50Of(r) }, 0, 1.2},
	{"throughput against HAProxy's 64 lanes", "1 ms", alone, lanes64, rateOf, nil, 1.2, 0},
	{"p99 against them", "1 ms", alone, lanes64, p99Of, nil, 0, 1},
	{"throughput against them", "Zipf 1.1", alone, lanes64, rateOf, nil, 1.2, 0},
	{"p99 against them", "Zipf 1.1", alone, lanes64, p99Of, nil, 0, 1},
	{"throughput against them", "hot key", alone, lanes64, rateOf, nil, 1, 0},
	{"p99 against them", "hot key", alone, lanes64, p99Of, nil, 0, 1},
	{"throughput against the best lock per request", "1 ms", alone, perLock, rateOf, nil, 2, 0},
	{"throughput against it", "hot key", alone, perLock, rateOf, nil, 1.5, 0},
	{"longest wait against the polled Redis lock's", "hot key", alone, perLock[:1], longestOf, nil, 0, 1. / 50},
}

// ratios are those of an aim, one of each round.
func (t *comparison) ratios(a aim) (all []float64) {
	than := a.than
	if than == nil {
		than = a.figure
	}
	for i, r := range t.rounds[a.workload][a.of] {
		best := math.NaN()
		for _, name := range a.against {
			if of := t.rounds[a.workload][name]; i < len(of) {
				if v := than(of[i]); math.IsNaN(best) || (a.least > 0) == (v > best) {
					best = v
				}
			}
		}
		all = append(all, a.figure(r)/best)
	}
	slices.Sort(all)
	return all
}

// confidence is the median of sorted values with its 95 % interval, which is between two
// of them, whatever their distribution: the ranks are binomial. Of fewer than six values
// it is narrower than that, their range.
func confidence(sorted []float64) (low, middle, high float64) {
	n := len(sorted)
	below, term := 0.0, math.Pow(0.5, float64(n)) // P(fewer than k+1 of n values are below the median)
	k := 0
	for ; k < n/2; k++ {
		if below += term; below > 0.025 {
			break
		}
		term *= float64(n-k) / float64(k+1)
	}
	k = max(k-1, 0)
	return sorted[k], sorted[n/2], sorted[n-1-k]
}

// verdict is how the rounds stand to the aim.
func (a aim) verdict(low, middle, high float64) string {
	met, bound := middle >= a.least, a.least
	if a.most > 0 {
		met, bound = middle <= a.most, a.most
	}
	switch {
	case met:
		return "met"
	case low <= bound && bound <= high:
		return "tie"
	}
	return "missed"
}

func (a aim) bound() string {
	if a.most > 0 {
		return fmt.Sprintf("≤ %.3g", a.most)
	}
	return fmt.Sprintf("≥ %.3g", a.least)
}

// verdicts are lines about the aims that were measured.
func (t *comparison) verdicts() (lines []string) {
	for _, a := range aims {
		if sorted := t.ratios(a); len(sorted) > 0 {
			low, middle, high := confidence(sorted)
			lines = append(lines, fmt.Sprintf("%s | %s | %s | %.3g (%.3g–%.3g) | %s", a.workload, a.what, a.bound(), middle, low, high, a.verdict(low, middle, high)))
		}
	}
	return lines
}
