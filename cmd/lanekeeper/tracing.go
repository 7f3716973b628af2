package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// tracing makes spans and sends them in the background. Where to, how, and how many of
// them is said by OpenTelemetry's own environment variables: whoever runs a collector has
// set them for all programs alike. https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
type tracing struct {
	provider *sdktrace.TracerProvider
	log      *slog.Logger
}

// newTracing returns nil if there are to be no spans.
func newTracing(config *Config, log *slog.Logger) (*tracing, error) {
	if !config.Tracing.Enabled || strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return nil, nil
	}
	sampler, err := config.Tracing.sampler()
	if err != nil {
		return nil, err
	}
	otel.SetLogger(logr.FromSlogHandler(log.Handler()))
	otel.SetErrorHandler(&exportErrors{log: log})
	version, _ := buildVersion()
	ours := resource.NewWithAttributes(semconv.SchemaURL, semconv.ServiceName("lanekeeper"), semconv.ServiceVersion(version), semconv.ServiceInstanceID(config.nodeName()))
	about, err := resource.Merge(resource.Default(), ours)
	if err == nil {
		about, err = resource.Merge(about, resource.Environment()) // which has the last word
	}
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	options := []sdktrace.TracerProviderOption{sdktrace.WithSampler(sampler), sdktrace.WithResource(about)}
	switch exporter := os.Getenv("OTEL_TRACES_EXPORTER"); exporter {
	case "none":
	case "", "otlp":
		if err := isHTTP("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"); err != nil {
			return nil, err
		}
		otlp, err := otlptracehttp.New(context.Background()) // it connects with its first spans
		if err != nil {
			return nil, fmt.Errorf("tracing: %w", err)
		}
		options = append(options, sdktrace.WithBatcher(otlp))
	default:
		return nil, fmt.Errorf("tracing: OTEL_TRACES_EXPORTER is %q: this program knows otlp and none", exporter)
	}
	if os.Getenv("OTEL_TRACES_SAMPLER") != "" {
		log.Warn("OTEL_TRACES_SAMPLER is ignored: tracing.sample says which requests have spans", "sample", config.Tracing.Sample)
	}
	return &tracing{sdktrace.NewTracerProvider(options...), log}, nil
}

// isHTTP refuses what this program cannot speak: the first of the variables that is set counts.
func isHTTP(variables ...string) error {
	for _, name := range variables {
		switch protocol := os.Getenv(name); protocol {
		case "":
			continue
		case "http/protobuf":
			return nil
		default:
			return fmt.Errorf("tracing: %s is %q: this program speaks http/protobuf, on port 4318 of most collectors", name, protocol)
		}
	}
	return nil
}

// sampler is what tracing.sample names.
func (t *TracingConfig) sampler() (sdktrace.Sampler, error) {
	ratio := 1.0
	if text := os.Getenv("OTEL_TRACES_SAMPLER_ARG"); text != "" {
		var err error
		if ratio, err = strconv.ParseFloat(text, 64); err != nil || !(ratio >= 0 && ratio <= 1) {
			return nil, fmt.Errorf("tracing: OTEL_TRACES_SAMPLER_ARG is %q, and no number from 0 to 1", text)
		}
	}
	switch t.Sample {
	case "parent":
		return sdktrace.ParentBased(sdktrace.TraceIDRatioBased(ratio)), nil
	case "ratio":
		return sdktrace.TraceIDRatioBased(ratio), nil
	case "always":
		return sdktrace.AlwaysSample(), nil
	case "never":
		return sdktrace.NeverSample(), nil
	}
	panic("an unchecked tracing.sample: " + t.Sample)
}

// tracer is the edge's; nil without tracing.
func (t *tracing) tracer() trace.Tracer {
	if t == nil {
		return nil
	}
	version, _ := buildVersion()
	return t.provider.Tracer("lanekeeper/proxy", trace.WithInstrumentationVersion(version), trace.WithSchemaURL(semconv.SchemaURL))
}

// close sends what is left, for a while: no request makes another span.
func (t *tracing) close() {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		t.log.Warn("the last spans could not be sent", "error", err)
	}
}

// exportErrors tells the log of spans that could not be sent, at most once a minute: a
// collector that is away is so for each of many batches. It implements otel.ErrorHandler.
type exportErrors struct {
	log *slog.Logger

	mu    sync.Mutex // guards the rest
	said  time.Time
	since int // errors that were not said
}

// Handle implements otel.ErrorHandler.
func (e *exportErrors) Handle(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.said.IsZero() && time.Since(e.said) < time.Minute {
		e.since++
		return
	}
	e.log.Warn("spans cannot be sent, and are lost", "error", err, "since_last", e.since)
	e.said, e.since = time.Now(), 0
}
