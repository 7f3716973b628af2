package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"lanekeeper/loadtest"
)

// witnessGrace is how long requests that run when a witness is told to stop may
// still take.
const witnessGrace = 5 * time.Second

func witnessCommand() *cobra.Command {
	var listen string
	var recordsMax int
	var config loadtest.WitnessConfig
	command := &cobra.Command{
		Use:   "witness",
		Short: "Run an upstream that records what ran, and when",
		Long: `Witness is a service to put behind lanekeeper, or behind anything else. It
answers every request and records its execution, so that "witness check" can
say whether requests with the same key ran one at a time and in order.

A request's key is its Witness-Key header, or else the Lanekeeper-Key that
lanekeeper sends. Set Witness-Key (to "order:7", as lanekeeper names a key) to
compare runs with and without lanekeeper. Witness-Client and Witness-Seq (from 1)
name a request, so that one that ran twice is found. Witness-Delay: 50ms makes
one request slow; Witness-Echo: 1 returns its body.

  GET  /.witness/history   one execution per line: key, ticket, fence, client,
                           seq, start_ns, end_ns (NDJSON)
  POST /.witness/reset     forget everything
  GET  /healthz            200

With --fenced it is a resource that late requests cannot reach: one whose fence is
below another's of its key is answered 409, counted, and not executed.

The history is bounded. When it is full, requests are answered 507 and not
executed, and the history says so: it can no longer pass a check.`,
		Example: `  lanekeeper witness --delay 20ms --jitter 30ms --seed 1
  curl -X POST -H 'Witness-Key: order:7' http://127.0.0.1:7950/orders/7
  lanekeeper witness check http://127.0.0.1:7950`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if recordsMax < 1 {
				return fmt.Errorf("--max-records %d: must be at least 1", recordsMax)
			}
			if err := config.Validate(); err != nil {
				return err
			}
			return runWitness(cmd.Context(), cmd.ErrOrStderr(), listen, config, recordsMax)
		},
	}
	flags := command.Flags()
	flags.StringVar(&listen, "listen", "127.0.0.1:7950", "address to listen on")
	flags.DurationVar(&config.Delay, "delay", time.Millisecond, "service time of every request")
	flags.DurationVar(&config.Jitter, "jitter", 0, "random addition to the delay, uniform from 0 to this")
	flags.Float64Var(&config.SlowShare, "slow-share", 0, "share of requests that take --slow-delay more, from 0 to 1")
	flags.DurationVar(&config.SlowDelay, "slow-delay", 100*time.Millisecond, "addition to the delay of slow requests")
	flags.Uint64Var(&config.Seed, "seed", 0, "the same seed gives the same numbered requests the same service times")
	flags.BoolVar(&config.Fenced, "fenced", false, "refuse requests whose Lanekeeper-Fence is below one that was executed for their key, with 409")
	flags.StringVar(&config.Name, "name", "", "name of this witness in the history")
	flags.IntVar(&recordsMax, "max-records", loadtest.DefaultMaxRecords, "executions to record before refusing; a million take about 250 MB")
	command.AddCommand(witnessCheckCommand())
	return command
}

// runWitness serves until ctx ends or a signal comes; a second signal ends the
// program at once.
func runWitness(ctx context.Context, out io.Writer, listen string, config loadtest.WitnessConfig, recordsMax int) error {
	ctx, restore := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer restore()

	history := loadtest.NewHistory(loadtest.NewClock(), recordsMax)
	witness, err := loadtest.NewWitness(config, history)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return &exitError{code: exitFailure, err: err}
	}
	if err := witness.Start(listener); err != nil {
		return &exitError{code: exitFailure, err: err}
	}
	address := "http://" + listener.Addr().String()
	fmt.Fprintf(out, "witness listens on %s, records up to %d executions\n", address, recordsMax)
	fmt.Fprintf(out, "history: curl %s/.witness/history\n", address)
	fmt.Fprintf(out, "check:   lanekeeper witness check %s\n", address)

	<-ctx.Done()
	restore()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), witnessGrace)
	defer cancel()
	if err := witness.Stop(grace); err != nil {
		fmt.Fprintf(out, "witness cut requests that still ran after %s\n", witnessGrace)
	}
	fmt.Fprintf(out, "witness recorded %d executions", history.Len())
	if refused := history.Refused(); refused > 0 {
		fmt.Fprintf(out, " and refused %d requests", refused)
	}
	fmt.Fprintln(out)
	return nil
}

func witnessCheckCommand() *cobra.Command {
	var output string
	var rules loadtest.Rules
	var recordsMax int
	command := &cobra.Command{
		Use:   "check FILE|URL",
		Short: "Judge a witness's history",
		Long: `Check reads a history, from a file, from a witness's address, or from standard
input ("-"), and says whether executions of a key overlapped, ran against the
order of their tickets, ran twice, or carried falling fences. What only the
clients know (answers lost, order on a connection) it cannot see; "bench" and
"demo" judge that too.

Exit code 0: order was kept. 98: order was broken. 5: nothing was proved,
because the history was cut or no two executions share a key.`,
		Example: `  lanekeeper witness check http://127.0.0.1:7950
  curl -s http://127.0.0.1:7950/.witness/history >history.ndjson
  lanekeeper witness check -o json history.ndjson`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("--output %q: want text or json", output)
			}
			source, err := openHistory(cmd.Context(), cmd.InOrStdin(), args[0])
			if err != nil {
				return &exitError{code: exitFailure, err: err}
			}
			defer source.Close()
			evidence, err := loadtest.ReadHistory(source, recordsMax)
			if err != nil {
				return &exitError{code: exitFailure, err: fmt.Errorf("%s: %w", args[0], err)}
			}
			report := loadtest.Check(evidence, rules)
			if err := writeReport(cmd.OutOrStdout(), output, report); err != nil {
				return &exitError{code: exitFailure, err: err}
			}
			switch {
			case report.Broken() > 0:
				return &exitError{code: exitOrder}
			case !report.OK() || report.Vacuous():
				return &exitError{code: exitNegative}
			}
			return nil
		},
	}
	flags := command.Flags()
	flags.StringVarP(&output, "output", "o", "text", "text or json")
	flags.StringSliceVar(&rules.Shared, "shared", []string{"GET", "HEAD"}, "methods that may run together for one key")
	flags.IntVar(&rules.Examples, "examples", 5, "examples to print of each kind")
	flags.IntVar(&recordsMax, "max-records", 10*loadtest.DefaultMaxRecords, "executions to read at most")
	return command
}

func writeReport(w io.Writer, output string, report *loadtest.Report) error {
	if output == "text" {
		_, err := report.WriteTo(w)
		return err
	}
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(struct {
		Verdict string `json:"verdict"`
		OK      bool   `json:"ok"`
		*loadtest.Report
	}{report.Verdict(), report.OK() && !report.Vacuous(), report})
}

// openHistory opens a file, standard input, or what a witness serves.
func openHistory(ctx context.Context, stdin io.Reader, source string) (io.ReadCloser, error) {
	if source == "-" {
		return io.NopCloser(stdin), nil
	}
	if !strings.HasPrefix(source, "http://") && !strings.HasPrefix(source, "https://") {
		return os.Open(source)
	}
	address, err := url.Parse(source)
	if err != nil {
		return nil, err
	}
	if address.Path == "" || address.Path == "/" {
		address.Path = "/.witness/history"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		return nil, err
	}
	request.Close = true // one request: leave no idle connection behind
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		response.Body.Close()
		return nil, errors.New(address.String() + ": " + response.Status)
	}
	return response.Body, nil
}
