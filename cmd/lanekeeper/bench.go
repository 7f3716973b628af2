package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"charm.land/bubbles/v2/progress"
	"github.com/spf13/cobra"

	"lanekeeper/loadtest"
)

// bench is one run of `lanekeeper bench`.
type bench struct {
	out, err io.Writer

	traffic  loadtest.Traffic
	model    string
	rate     string
	skew     string
	body     string
	limits   []string
	check    bool
	witness  string
	html     string
	json     string
	requests int
	duration time.Duration

	thresholds []threshold
	plot       *loadtest.Plot
	started    time.Time
}

func benchCommand() *cobra.Command {
	b := bench{}
	command := &cobra.Command{
		Use:   "bench",
		Short: "Send load, and see what it took and whether order was kept",
		Long: `Bench sends requests with keys to a node, or to anything else that speaks HTTP, and
says how long they took, where the time went, and what was answered.

The open model, which is the default, sends at a rate whatever comes back, and counts
a latency from when its request was due, so that a wait is seen as a caller would
have seen it. The closed model sends on each connection the next request after the
answer to the last: it shows what a service can do, and hides the wait.

With --check-order it also asks a witness ("lanekeeper witness", the service behind
what is tested) what really ran: whether two requests of a key ran at once, ran twice,
ran against the order of their tickets or with falling fences, whether one that was sent
after another's answer ran before it, and whether answers said what was true. The
witness forgets everything before the run.

Lane wait and upstream time are shown apart where answers carry Server-Timing
(server.server_timing).

Exit code 0: it went well. 98: an order was seen broken. 99: a --max was crossed.
1: nothing could be measured. 130: interrupted.`,
		Example: `  lanekeeper bench --target http://127.0.0.1:7940 --rate 2000/s --duration 1m --keys 10000 --skew zipf:1.1
  lanekeeper bench --rate 500/s --keys 50 --check-order --max p99=250ms --max errors=0.1% --html report.html
  lanekeeper bench --model closed --connections 64 --requests 100000 --skew single`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b.out, b.err = cmd.OutOrStdout(), cmd.ErrOrStderr()
			if err := b.prepare(cmd.Flags().Changed("connections")); err != nil {
				return err
			}
			ctx, restore := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer restore()
			return b.run(ctx)
		},
	}
	flags := command.Flags()
	flags.StringArrayVar(&b.traffic.Targets, "target", []string{"http://127.0.0.1:7940"}, "where to send to; if it is given more than once, in turn")
	flags.StringVar(&b.model, "model", "open", "open (at --rate, whatever comes back) or closed (each connection waits for its answer)")
	flags.StringVar(&b.rate, "rate", "100/s", "requests per second (/s) or minute (/m), of the open model")
	flags.DurationVar(&b.duration, "duration", 10*time.Second, "how long to send")
	flags.IntVar(&b.requests, "requests", 0, "how many to send at most; 0 = as many as --duration has time for")
	flags.IntVar(&b.traffic.Keys, "keys", 1000, "how many keys there are")
	flags.StringVar(&b.skew, "skew", "uniform", "how keys are drawn: uniform, zipf:S with S above 1, or single")
	flags.IntVar(&b.traffic.Connections, "connections", 64, "connections; in the open model at most so many, 1024 unless given")
	flags.StringVar(&b.traffic.Method, "method", "POST", "method of the requests")
	flags.Float64Var(&b.traffic.Reads, "reads", 0, "share of requests that are GET instead, from 0 to 1")
	flags.StringVar(&b.traffic.Path, "path", "/orders/{key}", "path of the requests")
	flags.StringVar(&b.traffic.KeyHeader, "key-header", "X-Order-Id", "header that carries the key")
	flags.StringVar(&b.traffic.Space, "space", "order", "space of the keys, by which the witness's account and this one are compared")
	flags.StringArrayVarP(&b.traffic.Headers, "header", "H", nil, "one more header, \"Name: value\"; may be repeated")
	flags.StringVar(&b.body, "body", "1KiB", "size of each body")
	flags.DurationVar(&b.traffic.Timeout, "timeout", 30*time.Second, "longest wait for an answer")
	flags.Uint64Var(&b.traffic.Seed, "seed", 1, "the same seed draws the same keys")
	flags.BoolVar(&b.check, "check-order", false, "ask the witness what ran, and judge it")
	flags.StringVar(&b.witness, "witness", "http://127.0.0.1:7950", "the witness to ask")
	flags.StringArrayVar(&b.limits, "max", nil, "what must not be crossed, else exit code 99: p50, p90, p99, p99.9, max (latency), wait-p99 (lane wait), upstream-p99, errors (share of answers that are not 2xx, and of requests without one); may be repeated")
	flags.StringVar(&b.html, "html", "", "write a page with plots to this file")
	flags.StringVar(&b.json, "json", "", "write everything as JSON to this file; - is standard output")
	return command
}

// prepare reads what flags alone cannot say.
func (b *bench) prepare(connections bool) error {
	var size Size
	if err := size.UnmarshalText([]byte(b.body)); err != nil {
		return fmt.Errorf("--body %s: %w", b.body, err)
	}
	b.traffic.BodyBytes = int(size)
	b.traffic.Duration = b.duration
	switch b.model {
	case "open":
		b.traffic.Mode = loadtest.Open
		if !connections {
			b.traffic.Connections = 1024
		}
		rate, err := parseRate(b.rate)
		if err != nil {
			return err
		}
		b.traffic.Rate = rate
		b.traffic.Requests = int(rate * b.duration.Seconds())
		b.traffic.Duration += b.traffic.Timeout // for those that are due and wait for a connection
	case "closed":
		b.traffic.Mode = loadtest.Closed
		b.traffic.Requests = loadtest.RequestsMax
	default:
		return fmt.Errorf("--model %s: want open or closed", b.model)
	}
	if b.requests > 0 {
		b.traffic.Requests = min(b.traffic.Requests, b.requests)
	}
	switch name, exponent, _ := strings.Cut(b.skew, ":"); name {
	case "uniform":
	case "single":
		b.traffic.Keys = 1
	case "zipf":
		s, err := strconv.ParseFloat(exponent, 64)
		if err != nil || !(s > 1) {
			return fmt.Errorf("--skew %s: want zipf:S with S above 1, such as zipf:1.1", b.skew)
		}
		b.traffic.Zipf = s
	default:
		return fmt.Errorf("--skew %s: want uniform, zipf:S or single", b.skew)
	}
	for _, limit := range b.limits {
		t, err := parseThreshold(limit)
		if err != nil {
			return err
		}
		b.thresholds = append(b.thresholds, t)
	}
	return b.traffic.Validate()
}

// parseRate reads "2000/s", "30/m" or "2000".
func parseRate(text string) (float64, error) {
	number, unit, _ := strings.Cut(text, "/")
	rate, err := strconv.ParseFloat(number, 64)
	per, known := map[string]float64{"": 1, "s": 1, "m": 60}[unit]
	if err != nil || !known || !(rate > 0) {
		return 0, fmt.Errorf("--rate %s: want a number above 0, and /s or /m", text)
	}
	return rate / per, nil
}

func (b *bench) run(ctx context.Context) error {
	if b.check {
		if err := b.forget(ctx); err != nil {
			return &exitError{code: exitFailure, err: fmt.Errorf("--check-order needs a witness (lanekeeper witness) behind what is tested; --witness %s: %w", b.witness, err)}
		}
	}
	b.traffic.Progress = b.progress()
	if b.html != "" && b.traffic.Mode == loadtest.Open {
		b.plot = loadtest.NewPlot("latency, from when a request was due")
	}
	b.started = time.Now()
	var result *loadtest.Result
	var err error
	if b.traffic.Mode == loadtest.Open {
		result, err = b.traffic.Attack(ctx, b.plot)
	} else {
		result, err = b.traffic.Run(ctx)
	}
	if errors.Is(err, context.Canceled) {
		return &exitError{code: exitInterrupt}
	}
	if err != nil {
		return &exitError{code: exitFailure, err: err}
	}
	if result.Latency.TotalCount() == 0 {
		return &exitError{code: exitFailure, err: fmt.Errorf("nothing was answered: %s", firstError(result))}
	}
	report, err := b.judge(ctx, result)
	if err != nil {
		return &exitError{code: exitFailure, err: err}
	}
	return b.finish(b.account(result, report))
}

func firstError(result *loadtest.Result) string {
	for i := range result.Sent {
		if result.Sent[i].Err != "" {
			return result.Sent[i].Err
		}
	}
	return "nothing was sent"
}

// forget has the witness begin anew.
func (b *bench) forget(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(b.witness, "/")+"/.witness/reset", nil)
	if err != nil {
		return err
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode >= 300 {
		return errors.New(response.Status)
	}
	return nil
}

// judge compares what the clients saw with what ran; without a witness it is nil.
func (b *bench) judge(ctx context.Context, result *loadtest.Result) (*loadtest.Report, error) {
	if !b.check {
		return nil, nil
	}
	history, err := openHistory(ctx, nil, b.witness)
	if err != nil {
		return nil, err
	}
	defer history.Close()
	evidence, err := loadtest.ReadHistory(history, 10*loadtest.DefaultMaxRecords)
	if err != nil {
		return nil, err
	}
	evidence.Sent = result.Sent
	return loadtest.Check(evidence, loadtest.Rules{}), nil
}

// progress draws a bar and a line of figures, if somebody is looking.
func (b *bench) progress() func(loadtest.Progress) {
	if !isTerminal(b.err) {
		return nil
	}
	bar := progress.New(progress.WithWidth(30))
	last := loadtest.Progress{}
	return func(p loadtest.Progress) {
		share := max(float64(p.Answered)/float64(p.Total), p.Elapsed.Seconds()/b.duration.Seconds())
		rate := float64(p.Answered-last.Answered) / max((p.Elapsed-last.Elapsed).Seconds(), 0.001)
		fmt.Fprintf(b.err, "\r%s %8.0f/s  %d sent, %d answered, %d waiting, %d not 2xx   ",
			bar.ViewAs(min(share, 1)), rate, p.Sent, p.Answered, p.Sent-p.Answered-p.Failed, p.Answered-p.OK+p.Failed)
		last = p
	}
}

// benchAccount is what a run brought, as JSON has it. Durations are in milliseconds.
type benchAccount struct {
	Started    time.Time          `json:"started"`
	Model      string             `json:"model"`
	Targets    []string           `json:"targets"`
	Asked      float64            `json:"asked_per_second,omitempty"` // of the open model
	Due        int                `json:"due,omitempty"`              // of the open model; those that were not sent had no connection until it was too late
	Sent       int                `json:"sent"`
	PerSecond  float64            `json:"answered_per_second"`
	Seconds    float64            `json:"seconds"`
	Late       float64            `json:"sent_late_ms"` // how late a request was sent at worst
	Latency    map[string]float64 `json:"latency_ms"`
	Wait       map[string]float64 `json:"lane_wait_ms,omitempty"`
	Upstream   map[string]float64 `json:"upstream_ms,omitempty"`
	Statuses   map[string]int     `json:"statuses"`
	Problems   map[string]int     `json:"problems"`
	Errors     map[string]int     `json:"errors"`
	ErrorShare float64            `json:"error_share"`
	Unknown    int                `json:"executed_unknown"`
	Order      *loadtest.Report   `json:"order,omitempty"`
	Verdict    string             `json:"verdict,omitempty"`
	Crossed    []string           `json:"crossed"`
	steps      []benchStep
}

var quantiles = []struct {
	name string
	at   float64
}{{"p50", 50}, {"p90", 90}, {"p99", 99}, {"p99.9", 99.9}, {"max", 100}}

func (b *bench) account(result *loadtest.Result, report *loadtest.Report) *benchAccount {
	a := &benchAccount{
		Started: b.started, Model: b.model, Targets: b.traffic.Targets, Asked: b.traffic.Rate, Due: b.due(), Sent: len(result.Sent),
		PerSecond: result.Throughput(), Seconds: result.Elapsed.Seconds(), Late: ms(result.LagMax),
		Latency: spread(result.Latency), Statuses: map[string]int{}, Problems: map[string]int{}, Errors: map[string]int{},
		Order: report, Crossed: []string{}, steps: benchSteps(result),
	}
	for i := range result.Sent {
		s := &result.Sent[i]
		if s.Status == 0 {
			a.Errors[s.Err]++
		} else {
			a.Statuses[strconv.Itoa(s.Status)]++
		}
		if s.Problem != "" {
			a.Problems[s.Problem]++
		}
		if s.Executed == "unknown" {
			a.Unknown++
		}
	}
	wait, upstream := result.Times()
	if upstream.TotalCount() > 0 {
		a.Wait, a.Upstream = spread(wait), spread(upstream)
	}
	a.ErrorShare = 1 - float64(result.OK)/float64(max(a.Sent, 1))
	if report != nil {
		a.Verdict = report.Verdict()
	}
	for _, t := range b.thresholds {
		if crossed := t.crossed(a); crossed != "" {
			a.Crossed = append(a.Crossed, crossed)
		}
	}
	return a
}

// due is how many requests the open model wants sent.
func (b *bench) due() int {
	if b.traffic.Mode != loadtest.Open {
		return 0
	}
	return b.traffic.Requests
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func spread(h interface{ ValueAtQuantile(float64) int64 }) map[string]float64 {
	values := make(map[string]float64, len(quantiles))
	for _, q := range quantiles {
		values[q.name] = float64(h.ValueAtQuantile(q.at)) / 1000
	}
	return values
}

// finish writes the account wherever it is wanted, and is the run's exit code.
func (b *bench) finish(a *benchAccount) error {
	if b.json != "-" {
		a.print(b.out)
	}
	if b.json != "" {
		if err := b.write(b.json, func(w io.Writer) error {
			encoder := json.NewEncoder(w)
			encoder.SetEscapeHTML(false)
			encoder.SetIndent("", "  ")
			return encoder.Encode(a)
		}); err != nil {
			return &exitError{code: exitFailure, err: err}
		}
	}
	if b.html != "" {
		if err := b.write(b.html, func(w io.Writer) error { return a.page(w, b.plot) }); err != nil {
			return &exitError{code: exitFailure, err: err}
		}
	}
	switch {
	case a.Order != nil && a.Order.Broken() > 0:
		return &exitError{code: exitOrder}
	case a.Order != nil && (!a.Order.OK() || a.Order.Vacuous()):
		return &exitError{code: exitFailure, err: errors.New("order was not judged: " + a.Verdict)}
	case len(a.Crossed) > 0:
		return &exitError{code: exitThreshold, err: errors.New(strings.Join(a.Crossed, "; "))}
	}
	return nil
}

func (b *bench) write(name string, write func(io.Writer) error) error {
	if name == "-" {
		return write(b.out)
	}
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(write(file), file.Close())
}

// print is the account for people.
func (a *benchAccount) print(w io.Writer) {
	line := func(name, format string, values ...any) {
		fmt.Fprintf(w, "%-9s"+format+"\n", append([]any{name}, values...)...)
	}
	if a.Model == "open" {
		line("rate", "%.1f/s asked, %.1f/s answered, %d requests in %.1fs, open model (latency from the intended send time)", a.Asked, a.PerSecond, a.Sent, a.Seconds)
	} else {
		line("rate", "%.1f/s answered, %d requests in %.1fs, closed model (it waits with the service, so waits are hidden)", a.PerSecond, a.Sent, a.Seconds)
	}
	line("latency", "%s", spreadText(a.Latency))
	if a.Wait != nil {
		line("waiting", "%s in the lane", spreadText(a.Wait))
		line("upstream", "%s", spreadText(a.Upstream))
	}
	if a.Model == "open" && a.Late > 10 {
		line("late", "a request was sent %.0fms after it was due: --connections were all busy, or this machine was", a.Late)
	}
	if a.Due > a.Sent {
		line("not sent", "%d that were due: --connections were busy with others until the end", a.Due-a.Sent)
	}
	line("status", "%s   executed=unknown: %d", countsText(a.Statuses), a.Unknown)
	if len(a.Problems) > 0 {
		line("problems", "%s", countsText(a.Problems))
	}
	if len(a.Errors) > 0 {
		line("no answer", "%s", countsText(a.Errors))
	}
	if a.Order != nil {
		line("order", "%d keys: %s", a.Order.Keys, a.Verdict)
		if a.Order.Broken() > 0 {
			a.Order.WriteTo(w) //nolint:errcheck // the exit code says it too
		}
	}
}

func spreadText(values map[string]float64) string {
	var parts []string
	for _, q := range quantiles {
		parts = append(parts, fmt.Sprintf("%s %s", q.name, time.Duration(values[q.name]*float64(time.Millisecond)).Round(10*time.Microsecond)))
	}
	return strings.Join(parts, "  ")
}

func countsText(counts map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%s: %d", name, counts[name]))
	}
	return strings.Join(parts, "   ")
}
