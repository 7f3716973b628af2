package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"charm.land/bubbles/v2/progress"
	"github.com/spf13/cobra"

	"lanekeeper/loadtest"
)

func demoCommand() *cobra.Command {
	var d demo
	command := &cobra.Command{
		Use:   "demo",
		Short: "See the same traffic with and without lanekeeper",
		Long: `Demo starts a service with two replicas, whose requests sometimes take longer,
and sends it numbered requests of many orders, closely spaced: first through an
ordinary round-robin proxy, then through a lanekeeper cluster of three nodes. The
requests of an order arrive at one node, mostly another than the one that has
its lane. In the middle one node leaves, and later another joins. It prints both side by side: how often two requests of one
order ran at once, how often they finished in another order than they were sent
in, and what it cost.

Everything runs in this process, over real sockets on loopback ports that are
free, and ends by itself. Nothing need be installed.

Exit code 0: lanekeeper kept the order. 98: it did not.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, restore := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer restore()
			d.out, d.bar = cmd.OutOrStdout(), cmd.ErrOrStderr()
			err := d.run(ctx)
			if errors.Is(err, context.Canceled) {
				return &exitError{code: exitInterrupt}
			}
			return err
		},
	}
	flags := command.Flags()
	flags.DurationVar(&d.length, "length", 5*time.Second, "how long each of the two runs sends")
	flags.IntVar(&d.orders, "orders", 20, "orders that are worked on at once")
	flags.DurationVar(&d.gap, "gap", 4*time.Millisecond, "time between two requests of an order")
	flags.Uint64Var(&d.seed, "seed", 1, "decides which requests are slow")
	return command
}

// demo is one demonstration.
type demo struct {
	out, bar io.Writer

	length time.Duration
	orders int
	gap    time.Duration
	seed   uint64
}

// The service's time per request: 1 to 3 ms, and now and then 12 ms more, so
// that an order is busy for two thirds of the time.
const (
	demoDelay     = time.Millisecond
	demoJitter    = 2 * time.Millisecond
	demoSlowShare = 0.05
	demoSlowDelay = 12 * time.Millisecond
)

func (d *demo) run(ctx context.Context) error {
	perOrder := int(d.length / max(d.gap, 1))
	if d.orders < 1 || perOrder < 2 {
		return fmt.Errorf("--orders %d, --length %s, --gap %s: this makes fewer than two requests of an order", d.orders, d.length, d.gap)
	}
	traffic := loadtest.Traffic{
		Mode: loadtest.Spaced, Keys: d.orders, PerKey: perOrder, Gap: d.gap,
		Connections: 16 + 8*d.orders, Seed: d.seed, BodyBytes: 256, Pinned: true,
	}
	if err := (loadtest.Traffic{Targets: []string{"http://127.0.0.1:1"}, Keys: d.orders, PerKey: perOrder, Connections: traffic.Connections}).Validate(); err != nil {
		return err
	}
	history := loadtest.NewHistory(loadtest.NewClock(), d.orders*perOrder+1)
	traffic.Clock = history.Clock()

	replicas, stop, err := d.replicas(history)
	if err != nil {
		return &exitError{code: exitFailure, err: err}
	}
	defer stop()
	fmt.Fprintf(d.out, "%d requests of %d orders, the next of an order %s after the one before, to 2 replicas of a service\nthat takes %s to %s and in %.0f %% of cases %s more.\n\n",
		d.orders*perOrder, d.orders, d.gap, demoDelay, demoDelay+demoJitter, 100*demoSlowShare, demoSlowDelay)

	noise, err := d.noise(ctx, traffic)
	if err != nil {
		return err
	}
	plain, stopPlain, err := startPlain(replicas)
	if err != nil {
		return &exitError{code: exitFailure, err: err}
	}
	defer stopPlain()
	without, err := d.through(ctx, "without", traffic, history, noise, []string{plain}, nil)
	if err != nil {
		return err
	}
	cluster := demoCluster{out: d.out, upstreams: replicas}
	defer cluster.stop()
	if err := cluster.start(); err != nil {
		return &exitError{code: exitFailure, err: err}
	}
	fmt.Fprintln(d.out, "Three nodes share the orders. A third of the way through, one leaves; at two thirds, another joins:")
	with, err := d.through(ctx, "with", traffic, history, noise, cluster.addresses(), func(done <-chan struct{}) {
		cluster.change(d.length, done)
	})
	if err != nil {
		return err
	}
	if cluster.failed != nil {
		return &exitError{code: exitFailure, err: cluster.failed}
	}
	fmt.Fprintln(d.out)
	d.print(without, with, noise)
	return d.verdict(without, with)
}

// replicas starts two witnesses that write one history.
func (d *demo) replicas(history *loadtest.History) (targets []string, stop func(), err error) {
	var stops []func()
	stop = func() {
		for _, s := range stops {
			s()
		}
	}
	for i := range 2 {
		witness, err := loadtest.NewWitness(loadtest.WitnessConfig{
			Name: fmt.Sprintf("replica-%d", i+1), Delay: demoDelay, Jitter: demoJitter,
			SlowShare: demoSlowShare, SlowDelay: demoSlowDelay, Seed: d.seed,
		}, history)
		if err != nil {
			stop()
			return nil, nil, err
		}
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err == nil {
			err = witness.Start(listener)
		}
		if err != nil {
			stop()
			return nil, nil, err
		}
		stops = append(stops, func() { stopSoon(witness.Stop) })
		targets = append(targets, "http://"+listener.Addr().String())
	}
	return targets, stop, nil
}

func stopSoon(stop func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	stop(ctx) //nolint:errcheck // what does not stop in time is cut, and nothing depends on it any more
}

// noise measures how often requests overtake each other with no proxy at all,
// on a tenth of the traffic.
func (d *demo) noise(ctx context.Context, traffic loadtest.Traffic) (*loadtest.Noise, error) {
	traffic.PerKey = max(traffic.PerKey/10, 2)
	traffic.Progress = d.progress("measuring the noise of this machine")
	noise, err := loadtest.MeasureNoise(ctx, traffic)
	if err != nil {
		return nil, failed(err)
	}
	return noise, nil
}

func failed(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return &exitError{code: exitFailure, err: err}
}

// demoRun is what one way through brought.
type demoRun struct {
	result  *loadtest.Result
	report  *loadtest.Report
	swapped int // requests that finished before one of their order that was sent earlier
}

// through sends the traffic to targets. during, if there is one, runs beside it
// until it returns; its argument is closed when the traffic has ended.
func (d *demo) through(ctx context.Context, name string, traffic loadtest.Traffic, history *loadtest.History, noise *loadtest.Noise,
	targets []string, during func(done <-chan struct{})) (*demoRun, error) {
	history.Reset()
	traffic.Targets, traffic.Client = targets, name
	traffic.Progress = d.progress(name + " lanekeeper")
	done := make(chan struct{})
	var beside sync.WaitGroup
	if during != nil {
		beside.Go(func() { during(done) })
	}
	result, err := traffic.Run(ctx)
	close(done)
	beside.Wait()
	if err != nil {
		return nil, failed(err)
	}
	evidence := history.Evidence()
	evidence.Sent = result.Sent
	return &demoRun{
		result:  result,
		report:  loadtest.Check(evidence, loadtest.Rules{Examples: 3, Noise: noise}),
		swapped: finishedOutOfOrder(evidence.Executions),
	}, nil
}

// startPlain starts the proxy that most services have today.
func startPlain(targets []string) (string, func(), error) {
	plain, err := loadtest.NewPlain(loadtest.PlainConfig{Targets: targets, IdleTimeout: time.Second})
	if err != nil {
		return "", nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	if err := plain.Start(listener); err != nil {
		return "", nil, err
	}
	return "http://" + listener.Addr().String(), func() { stopSoon(plain.Stop) }, nil
}

// finishedOutOfOrder counts executions that ended after one of their key that
// was sent later: the delete that was done before the insert was.
func finishedOutOfOrder(executions []loadtest.Execution) (count int) {
	byKey := map[string][]loadtest.Execution{}
	for _, e := range executions {
		byKey[e.Key] = append(byKey[e.Key], e)
	}
	for _, of := range byKey {
		slices.SortFunc(of, func(a, b loadtest.Execution) int { return cmp.Compare(b.Seq, a.Seq) })
		earliest := int64(1<<63 - 1) // end of the requests after this one
		for _, e := range of {
			if e.End > earliest {
				count++
			}
			earliest = min(earliest, e.End)
		}
	}
	return count
}

func (d *demo) print(without, with *demoRun, noise *loadtest.Noise) {
	w := tabwriter.NewWriter(d.out, 0, 0, 3, ' ', tabwriter.AlignRight)
	row := func(name string, value func(*demoRun) string) {
		fmt.Fprintf(w, "%s\t%s\t%s\t\n", name, value(without), value(with))
	}
	count := func(kind loadtest.Kind) func(*demoRun) string {
		return func(r *demoRun) string { return fmt.Sprint(r.report.Count(kind)) }
	}
	fmt.Fprintln(w, "\tround-robin proxy\t3 lanekeeper nodes\t")
	row("two of one order ran at once", count(loadtest.Overlap))
	row("finished before one sent earlier", func(r *demoRun) string { return fmt.Sprint(r.swapped) })
	row("ran against the order of admission", func(r *demoRun) string {
		if r.report.Judged(loadtest.TicketInversion) == 0 {
			return "no tickets"
		}
		return fmt.Sprint(r.report.Count(loadtest.TicketInversion))
	})
	row("started before one sent earlier", count(loadtest.SendSwap))
	row("ran twice", count(loadtest.Duplicate))
	row("answered, but never ran", count(loadtest.Loss))
	row("answered 2xx", func(r *demoRun) string { return fmt.Sprint(r.result.OK) })
	row("latency p50", func(r *demoRun) string { return r.result.LatencyAt(50).Round(100 * time.Microsecond).String() })
	row("latency p99", func(r *demoRun) string { return r.result.LatencyAt(99).Round(100 * time.Microsecond).String() })
	row("requests per second", func(r *demoRun) string { return fmt.Sprintf("%.0f", r.result.Throughput()) })
	w.Flush()
	fmt.Fprintf(d.out, "\nRequests go over many connections, and %.2f %% of pairs swap on this machine with no proxy at all.\n", 100*noise.Share())
	if late := with.report.Count(loadtest.SendSwap); late > 0 {
		fmt.Fprintf(d.out, "%d reached lanekeeper after one that was sent later, over another connection or node, and ran in that order: what is to be second has to be sent after the first's answer.\n", late)
	}
}

// verdict says what was seen, in one sentence.
func (d *demo) verdict(without, with *demoRun) error {
	if with.report.Broken() > 0 {
		fmt.Fprintf(d.out, "\nlanekeeper BROKE the order:\n\n")
		with.report.WriteTo(d.out) //nolint:errcheck // the exit code says it too
		return &exitError{code: exitOrder}
	}
	if !with.report.OK() || with.report.Vacuous() || with.report.Judged(loadtest.TicketInversion) == 0 || with.result.OK == 0 {
		return &exitError{code: exitFailure, err: errors.New("the runs were too small to show anything: " + with.report.Verdict())}
	}
	fmt.Fprintf(d.out, "\nThe same requests: without lanekeeper two of one order ran at once %d times and %d took effect out of order; with it, each ran alone and in its turn.\n",
		without.report.Count(loadtest.Overlap), without.swapped)
	return nil
}

// progress draws a bar, if somebody is looking.
func (d *demo) progress(what string) func(loadtest.Progress) {
	if !isTerminal(d.bar) {
		return nil
	}
	bar := progress.New(progress.WithWidth(40))
	return func(p loadtest.Progress) {
		line := fmt.Sprintf("%-36s %s %6d answered", what, bar.ViewAs(float64(p.Answered)/float64(p.Total)), p.Answered)
		if p.Answered+p.Failed >= p.Total {
			line = strings.Repeat(" ", len(line)) + "\r"
		}
		fmt.Fprint(d.bar, "\r"+line)
	}
}
