package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// BenchmarkObserved measures what it costs to watch a node: 16 connections, 1 KiB bodies, a
// key of its own for each request, and a service that answers at once; with neither access
// log nor tracing, with metrics scraped once a second, with a line for each request in a
// file, and with spans for one in a hundred requests and for all, sent to a collector that
// reads and forgets them. Each is a process of its own, in alternating rounds. It reports
// medians of the requests per second and of the process's CPU per request, each as a ratio
// to the first; the service, the clients and the collector are on the same machine. Metrics
// are counted always, so that only the scrapes are compared. Spans that come faster than
// they are sent are lost, as everywhere.
//
//	go test ./cmd/lanekeeper -run '^$' -bench Observed -benchtime 9x
func BenchmarkObserved(b *testing.B) {
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }))
	b.Cleanup(collector.Close)
	b.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	service, dir := startService(b, 0), b.TempDir()
	type watched struct {
		kind, settings, ratio string
		process               *process
		rates, cpus           []float64
	}
	all := []*watched{
		{kind: "nothing", settings: "log: {access: none}\n"},
		{kind: "metrics", settings: "log: {access: none}\n"},
		{kind: "log", settings: "log: {access: all}\n"},
		{kind: "traced-1-in-100", settings: "log: {access: none}\ntracing: {enabled: true}\n", ratio: "0.01"},
		{kind: "traced", settings: "log: {access: none}\ntracing: {enabled: true, sample: always}\n", ratio: "1"},
	}
	for _, w := range all {
		b.Setenv("OTEL_TRACES_SAMPLER_ARG", w.ratio)
		w.process = launchToFile(b, filepath.Join(dir, w.kind), fmt.Sprintf(`
server: {listen: "127.0.0.1:0"}
observe: {listen: "127.0.0.1:0"}
admin: {listen: "127.0.0.1:0"}
upstreams: [{name: app, targets: [%q]}]
routes:
  - {name: order, match: {path: "/order/{id}"}, upstream: app, key: {space: order, from: [{path: id}]}}
shutdown: {delay: 0s, drain_timeout: 5s}
`, service)+w.settings)
	}
	for n := range b.N + 1 {
		for _, w := range all {
			scraped := make(chan struct{})
			stop := make(chan struct{})
			go func() { // ends with stop
				defer close(scraped)
				if w.kind == "metrics" {
					scrape(b, w.process.observe, stop)
				}
			}()
			before := cpuOf(b, w.process.cmd.Process.Pid)
			rate, count := recordedRound(b, w.process.address, "order", n)
			cpu := float64((cpuOf(b, w.process.cmd.Process.Pid) - before).Microseconds()) / float64(count)
			close(stop)
			<-scraped
			b.Logf("%-17s %6.0f/s, %.1f µs", w.kind, rate, cpu)
			if n > 0 { // the first is to get warm
				w.rates, w.cpus = append(w.rates, rate), append(w.cpus, cpu)
			}
		}
	}
	for _, w := range all[1:] {
		b.ReportMetric(middle(w.rates)/middle(all[0].rates), w.kind+"-rate-ratio")
		b.ReportMetric(middle(w.cpus)/middle(all[0].cpus), w.kind+"-cpu-ratio")
	}
}

// scrape asks for the metrics once a second until stop.
func scrape(b *testing.B, observe string, stop <-chan struct{}) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		response, err := http.Get("http://" + observe + "/metrics")
		if err != nil {
			b.Error(err)
			return
		}
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
		select {
		case <-tick.C:
		case <-stop:
			return
		}
	}
}

// launchToFile runs the whole program with its log in a file, as a service manager would.
func launchToFile(b *testing.B, at, config string) *process {
	writeFile(b, at+".yaml", config)
	p := launchIn(b, at+".yaml", "sh", "-c", `exec "$@" 2>"$0"`, at+".log")
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); <-tick.C {
		text, _ := os.ReadFile(at + ".log")
		for line := range strings.Lines(string(text)) {
			var said struct{ Msg, Listen, Observe string }
			if json.Unmarshal([]byte(line), &said) == nil && said.Msg == "serving" {
				p.address, p.observe = said.Listen, said.Observe
				return p
			}
		}
	}
	b.Fatal("the process does not serve")
	return nil
}
