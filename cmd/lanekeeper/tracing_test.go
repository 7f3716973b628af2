package main

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// receiver is a collector that has no more than a test needs.
type receiver struct {
	*httptest.Server
	batches chan *collector.ExportTraceServiceRequest
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{batches: make(chan *collector.ExportTraceServiceRequest, 100)}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		body, err := io.ReadAll(request.Body)
		batch := new(collector.ExportTraceServiceRequest)
		if err != nil || request.URL.Path != "/v1/traces" || proto.Unmarshal(body, batch) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		r.batches <- batch
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(r.Close)
	return r
}

// A whole process sends its spans to where OTEL_EXPORTER_OTLP_ENDPOINT says, those of its
// last requests when it ends: the batch that is sent by itself comes after hours here.
//
// Mutants: the node does not close its tracing; the edge gets no Tracer; the node is not
// named in the resource; the environment's name of the service is overruled.
func TestAProcessSendsItsSpans(t *testing.T) {
	to := newReceiver(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", to.URL)
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "10000000")
	t.Setenv("OTEL_SERVICE_NAME", "edge")
	u := newHoldingUpstream(t)
	p := serveProcess(t, u.URL, "node: {name: lk-9}\nshutdown: {delay: 0s}\ntracing: {enabled: true}\n")
	answer := post(p.address+"/orders/7", "one")
	u.next(t)
	u.release <- struct{}{}
	if got := <-answer; got != "200 done one" {
		t.Fatal(got)
	}
	p.signal(syscall.SIGTERM)
	if code := p.wait(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	var batch *collector.ExportTraceServiceRequest
	select {
	case batch = <-to.batches:
	default:
		t.Fatal("the process ended and had sent nothing")
	}
	var names []string
	kinds := map[spans.Span_SpanKind]int{}
	for _, from := range batch.ResourceSpans {
		said := map[string]string{}
		for _, a := range from.Resource.Attributes {
			said[a.Key] = a.Value.GetStringValue()
		}
		if said["service.name"] != "edge" || said["service.instance.id"] != "lk-9" {
			t.Errorf("they are of %v", said)
		}
		for _, scope := range from.ScopeSpans {
			for _, span := range scope.Spans {
				names, kinds[span.Kind] = append(names, span.Name), kinds[span.Kind]+1
			}
		}
	}
	if len(names) != 3 || kinds[spans.Span_SPAN_KIND_SERVER] != 1 || kinds[spans.Span_SPAN_KIND_INTERNAL] != 1 || kinds[spans.Span_SPAN_KIND_CLIENT] != 1 {
		t.Errorf("it sent %q", names)
	}
}

// A collector that is away costs a line in the log, and no request.
//
// Mutant: the edge gets no Tracer.
func TestACollectorThatIsAway(t *testing.T) {
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", closed.URL)
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
	t.Setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "100")
	u := newHoldingUpstream(t)
	p := serveProcess(t, u.URL, "shutdown: {delay: 0s}\ntracing: {enabled: true}\n")
	for range 3 {
		answer := post(p.address+"/orders/7", "one")
		u.next(t)
		u.release <- struct{}{}
		if got := <-answer; got != "200 done one" {
			t.Fatal(got)
		}
	}
	p.log("spans cannot be sent, and are lost")
	p.signal(syscall.SIGTERM)
	if code := p.wait(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

// A collector that does not answer does not keep a process from its end.
//
// Mutant: the close waits for as long as the exporter does.
func TestACollectorThatIsSilent(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+silent.Addr().String())
	t.Setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60000")
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "10000000")
	u := newHoldingUpstream(t)
	p := serveProcess(t, u.URL, "shutdown: {delay: 0s}\ntracing: {enabled: true}\n")
	answer := post(p.address+"/orders/7", "one")
	u.next(t)
	u.release <- struct{}{}
	<-answer
	p.signal(syscall.SIGTERM)
	p.log("the last spans could not be sent") // within 20 s, or it is too late
	if code := p.wait(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

// Mutants: the protocol, the exporter or the range of the argument is not looked at; OTEL_SDK_DISABLED is not.
func TestTracingRefusesWhatItCannotDo(t *testing.T) {
	for _, test := range []struct{ name, value, says string }{
		{"OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"},
		{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", "http/protobuf"},
		{"OTEL_TRACES_EXPORTER", "zipkin", "otlp and none"},
		{"OTEL_TRACES_SAMPLER_ARG", "1.1", "0 to 1"},
		{"OTEL_TRACES_SAMPLER_ARG", "NaN", "0 to 1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv(test.name, test.value)
			config := Default()
			if made, err := newTracing(&config, slog.New(slog.DiscardHandler)); made != nil || err != nil {
				t.Errorf("without tracing it matters: %v", err)
			}
			config.Tracing.Enabled = true
			if _, err := newTracing(&config, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), test.name) {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("OTEL_SDK_DISABLED", func(t *testing.T) {
		t.Setenv("OTEL_SDK_DISABLED", "true")
		config := Default()
		config.Tracing.Enabled = true
		if made, err := newTracing(&config, slog.New(slog.DiscardHandler)); made != nil || err != nil {
			t.Errorf("got %v, %v", made, err)
		}
	})
}

// Mutants: ratio obeys the parent; parent does not; the argument is not read.
func TestTracingSamples(t *testing.T) {
	for sample, want := range map[string]string{
		"parent": "ParentBased{root:TraceIDRatioBased{0.01}",
		"ratio":  "TraceIDRatioBased{0.01}",
		"always": "AlwaysOnSampler",
		"never":  "AlwaysOffSampler",
	} {
		t.Setenv("OTEL_TRACES_SAMPLER_ARG", "0.01")
		sampler, err := (&TracingConfig{Sample: sample}).sampler()
		if err != nil || !strings.HasPrefix(sampler.Description(), want) {
			t.Errorf("%s: %v, %v", sample, sampler.Description(), err)
		}
	}
}

// Mutant: every error is said.
func TestExportErrorsAreSaidOnceAMinute(t *testing.T) {
	var out strings.Builder
	e := &exportErrors{log: slog.New(slog.NewTextHandler(&out, nil))}
	for range 5 {
		e.Handle(io.ErrUnexpectedEOF)
	}
	if n := strings.Count(out.String(), "\n"); n != 1 {
		t.Errorf("%d lines: %s", n, &out)
	}
	e.said = e.said.Add(-time.Minute)
	e.Handle(io.ErrUnexpectedEOF)
	if !strings.Contains(out.String(), "since_last=4") {
		t.Error(out.String())
	}
}
