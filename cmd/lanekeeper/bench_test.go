package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lanekeeper/loadtest"
)

func benchRun(t *testing.T, ctx context.Context, args ...string) (stdout string, code int) {
	t.Helper()
	var out, errors bytes.Buffer
	command := benchCommand()
	command.SilenceErrors, command.SilenceUsage = true, true
	command.SetArgs(args)
	command.SetOut(&out)
	command.SetErr(&errors)
	code = witnessExit(command.ExecuteContext(ctx))
	return out.String() + errors.String(), code
}

// startWitnessHere starts a witness in this process.
func startWitnessHere(t *testing.T, config loadtest.WitnessConfig) string {
	t.Helper()
	witness, err := loadtest.NewWitness(config, loadtest.NewHistory(loadtest.NewClock(), 0))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := witness.Start(listener); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopSoon(witness.Stop) })
	return "http://" + listener.Addr().String()
}

// TestBench: what it says, by its exit codes. Mutants: a broken order, or a crossed --max,
// is exit code 0; a witness that is not there is no error; errors are not counted.
func TestBench(t *testing.T) {
	witness := startWitnessHere(t, loadtest.WitnessConfig{Delay: 2 * time.Millisecond})
	dir := t.TempDir()
	page, account := filepath.Join(dir, "report.html"), filepath.Join(dir, "report.json")
	for _, test := range []struct {
		name string
		args []string
		code int
		say  string
	}{
		{"a witness alone keeps no order", []string{"--rate", "400/s", "--duration", "500ms", "--skew", "single", "--check-order", "--witness", witness}, exitOrder, "BROKEN: overlap"},
		{"one client, one after the other", []string{"--model", "closed", "--connections", "1", "--requests", "50", "--keys", "5", "--check-order", "--witness", witness,
			"--max", "p99=10s", "--max", "errors=0%", "--html", page, "--json", account}, exitOK, "order    5 keys: PASS"},
		{"without a look at order", []string{"--rate", "200/s", "--requests", "20", "--html", page}, exitOK, "200: 20"},
		{"too slow", []string{"--rate", "100", "--requests", "10", "--max", "p50=1ms"}, exitThreshold, "latency"},
		{"times that nobody told", []string{"--rate", "100", "--requests", "10", "--max", "wait-p99=1h"}, exitThreshold, "latency"},
		{"answers that are not 2xx", []string{"--rate", "100", "--requests", "10", "-H", "Witness-Delay: x", "--max", "errors=5%"}, exitThreshold, "400: 10"},
		{"no witness", []string{"--check-order", "--witness", "http://127.0.0.1:1"}, exitFailure, ""},
		{"nobody there", []string{"--target", "http://127.0.0.1:1", "--requests", "3"}, exitFailure, ""},
		{"a rate of nothing", []string{"--rate", "0/s"}, exitUsage, ""},
		{"an unknown skew", []string{"--skew", "zipf:1"}, exitUsage, ""},
		{"an unknown limit", []string{"--max", "p98=1s"}, exitUsage, ""},
		{"an unknown model", []string{"--model", "half"}, exitUsage, ""},
		{"a size that is none", []string{"--body", "1k"}, exitUsage, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, code := benchRun(t, t.Context(), append([]string{"--target", witness}, test.args...)...)
			if test.name == "nobody there" {
				out, code = benchRun(t, t.Context(), test.args...)
			}
			if code != test.code || !strings.Contains(out, test.say) {
				t.Errorf("exit code %d, want %d\n%s", code, test.code, out)
			}
		})
	}
	text, err := os.ReadFile(account)
	if err != nil {
		t.Fatal(err)
	}
	var a benchAccount
	if err := json.Unmarshal(text, &a); err != nil || a.Sent != 50 || a.Verdict != "PASS" || a.Statuses["200"] != 50 || a.Latency["p99"] < 2 || a.Order == nil {
		t.Errorf("%v, %+v", err, a)
	}
	if text, err = os.ReadFile(page); err != nil || !strings.Contains(string(text), "20 requests") || !strings.Contains(string(text), "srcdoc=") || strings.Contains(string(text), "ZgotmplZ") {
		t.Errorf("%v\n%.500s", err, text)
	}
}

func TestBenchIsInterrupted(t *testing.T) {
	witness := startWitnessHere(t, loadtest.WitnessConfig{})
	ctx, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, context.Canceled)
	defer cancel()
	if out, code := benchRun(t, ctx, "--target", witness, "--duration", "1m"); code != exitInterrupt {
		t.Errorf("exit code %d\n%s", code, out)
	}
}
