package proxy

import (
	"bytes"
	"context"
	"net"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"lanekeeper/proxy/upstream"
	"lanekeeper/queue"
)

// A request has up to three kinds of span: SERVER for its whole life at the node that
// it came to, INTERNAL for its wait in the lane, and CLIENT for each time that it is sent
// to an upstream, or cannot be since there is no connection. The last two are children of the first, also when another node has the
// lane: the head that is forwarded says whose children they are, as it would to a service.
//
// Neither the path nor the query is in a span, as that is where keys are: http.route
// stands in for them, and the key's hash.

// traced is what spans need to know of a request. A request without it has none, and
// whatever its head says of a trace goes on as it came.
type traced struct {
	ctx    context.Context // with the span that the others are children of
	server trace.Span      // nil: another node has it
	wait   trace.Span      // nil: there is none that has not ended
	client trace.Span      // as wait
	method attribute.KeyValue
	passes bool // the head's traceparent goes on as it came: no span of ours would be found
	sends  int
}

// The attributes that are ours.
const (
	traceSpace     = attribute.Key("lanekeeper.space")
	traceKeyHash   = attribute.Key("lanekeeper.key_hash")
	tracePartition = attribute.Key("lanekeeper.partition")
	traceOwner     = attribute.Key("lanekeeper.owner")
	traceTicket    = attribute.Key("lanekeeper.ticket")
	traceDepth     = attribute.Key("lanekeeper.queue.depth")
	traceFence     = attribute.Key("lanekeeper.fence")
	traceExecuted  = attribute.Key("lanekeeper.executed")
)

const spanWait = "lane wait"

var traceContext propagation.TraceContext

// beginTrace starts the span of a request that a client sent.
func (c *call) beginTrace() {
	if c.config.Tracer == nil {
		return
	}
	h := &c.ctx.Request.Header
	t := &traced{method: tracedMethod(h.Method())}
	ctx := traceContext.Extract(context.Background(), headTrace{h.PeekAll})
	came := trace.SpanContextFromContext(ctx).IsValid()
	t.ctx, t.server = c.config.Tracer.Start(ctx, t.name(""), trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(c.arrived),
		trace.WithAttributes(t.method, semconv.URLScheme(c.scheme())))
	t.passes = came && !t.server.IsRecording()
	c.trace = t
}

// beginForwardedTrace does the same for one that another node accepted. If that node
// says nothing of a trace there is none, as nobody would know what it is of.
func (c *call) beginForwardedTrace() {
	if c.config.Tracer == nil {
		return
	}
	ctx := traceContext.Extract(context.Background(), headTrace{func(name string) [][]byte { return linesOf(c.from.Head, name) }})
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return
	}
	method, _, _ := bytes.Cut(c.from.Head, []byte(" "))
	c.trace = &traced{ctx: ctx, method: tracedMethod(method)}
	c.beginWait(c.arrived)
}

// beginWait starts the span of a wait in a lane at a time; zero is now.
func (c *call) beginWait(since time.Time) {
	t := c.trace
	if t == nil || t.server != nil && !t.server.IsRecording() {
		return
	}
	_, t.wait = c.config.Tracer.Start(t.ctx, spanWait, trace.WithTimestamp(since))
}

// endWait ends it, if it has not ended.
func (c *call) endWait(problem *problem) {
	t := c.trace
	if t == nil || t.wait == nil {
		return
	}
	if t.wait.IsRecording() {
		t.wait.SetAttributes(c.laneAttributes(nil)...)
		fail(t.wait, problem)
	}
	t.wait.End()
	t.wait = nil
}

// beginSend starts the span of an exchange with an upstream.
func (c *call) beginSend(to *upstream.Target) { c.beginClient(to, time.Time{}) }

// tellUnsent makes the span of one that came to nothing, since there was no connection.
func (c *call) tellUnsent(to *upstream.Target, since time.Time, problem *problem) {
	if c.trace != nil {
		c.beginClient(to, since)
		c.endClient(problem)
	}
}

// beginClient starts a CLIENT span at a time; zero is now.
func (c *call) beginClient(to *upstream.Target, since time.Time) {
	t := c.trace
	if t == nil || t.server != nil && !t.server.IsRecording() {
		return
	}
	attributes := []attribute.KeyValue{t.method}
	if host, text, err := net.SplitHostPort(to.Host); err == nil {
		attributes = append(attributes, semconv.ServerAddress(host))
		if port, err := strconv.Atoi(text); err == nil {
			attributes = append(attributes, semconv.ServerPort(port))
		}
	} else {
		attributes = append(attributes, semconv.ServerAddress(to.Host))
	}
	if t.sends > 0 {
		attributes = append(attributes, semconv.HTTPRequestResendCount(t.sends))
	}
	t.sends++
	if c.fence != 0 {
		attributes = append(attributes, traceFence.Int64(int64(c.fence))) //nolint:gosec // fences fit, see Cluster
	}
	_, t.client = c.config.Tracer.Start(t.ctx, t.name(""), trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(since), trace.WithAttributes(attributes...))
}

// endSend ends it, unless the response goes on: then it ends with the request.
func (c *call) endSend(problem *problem) {
	if c.trace == nil || c.later && problem == nil {
		return
	}
	c.endClient(problem)
}

func (c *call) endClient(problem *problem) {
	t := c.trace
	if t.client == nil {
		return
	}
	if t.client.IsRecording() {
		if problem == nil || problem == c.broke {
			c.traceStatus(t.client, c.ctx.Response.StatusCode(), 400)
		}
		fail(t.client, problem)
	}
	t.client.End()
	t.client = nil
}

// endTrace ends what has not ended.
func (c *call) endTrace() {
	t := c.trace
	if t == nil {
		return
	}
	problem := c.problem
	if problem == nil {
		problem = c.broke
	}
	c.endWait(problem)
	c.endClient(problem)
	if t.server == nil {
		return
	}
	if t.server.IsRecording() {
		c.describe(problem)
	}
	t.server.End()
}

// describe says in the SERVER span what is known at the end.
func (c *call) describe(problem *problem) {
	t := c.trace
	attributes := []attribute.KeyValue{semconv.ClientAddress(c.client().String()), semconv.NetworkProtocolVersion("1.1")}
	if c.route != nil && c.route.Match.Path != "" {
		t.server.SetName(t.name(c.route.Match.Path))
		attributes = append(attributes, semconv.HTTPRoute(c.route.Match.Path))
	}
	attributes = c.laneAttributes(attributes)
	if c.fence != 0 {
		attributes = append(attributes, traceFence.Int64(int64(c.fence))) //nolint:gosec // as in beginSend
	}
	if problem != nil {
		attributes = append(attributes, traceExecuted.String(string(problem.executed)))
	}
	t.server.SetAttributes(attributes...)
	if problem == nil || problem.kind != clientGone { // who got no status
		c.traceStatus(t.server, c.status(), 500)
	}
	switch {
	case problem == nil:
	case problem == c.broke, problem.status >= 500:
		fail(t.server, problem)
	case problem.status >= 400:
		t.server.SetAttributes(semconv.ErrorTypeKey.String(problem.slug)) // the client's fault, and no error of ours
	}
}

// traceStatus notes a status, and that it is an error if it is so high.
func (c *call) traceStatus(span trace.Span, status, wrong int) {
	span.SetAttributes(semconv.HTTPResponseStatusCode(status))
	if status >= wrong {
		span.SetAttributes(semconv.ErrorTypeKey.String(strconv.Itoa(status)))
		span.SetStatus(codes.Error, "")
	}
}

// fail notes why a span has not ended well. The details of a problem may hold keys.
func fail(span trace.Span, problem *problem) {
	if problem == nil {
		return
	}
	span.SetAttributes(semconv.ErrorTypeKey.String(problem.slug))
	span.SetStatus(codes.Error, "")
}

// laneAttributes appends what is known of the request's lane.
func (c *call) laneAttributes(to []attribute.KeyValue) []attribute.KeyValue {
	if c.route != nil && c.route.Key.Space != "" {
		to = append(to, traceSpace.String(c.route.Key.Space))
	}
	if c.id.IsZero() {
		return to
	}
	to = append(to, traceTicket.String(c.id.String()), traceDepth.Int(c.depth))
	if c.config.LogKeys != KeysNone {
		to = append(to, traceKeyHash.String(hashOf(c.key)))
	}
	if c.config.Cluster == nil || c.place.Partition == queue.Unowned {
		return to
	}
	owner := c.owner
	switch {
	case owner != "":
	case c.lent != nil && c.lent.call != nil:
		owner = c.lent.call.Owner.Name
	default:
		owner = c.config.Node
	}
	return append(to, tracePartition.Int(c.place.Partition), traceOwner.String(owner))
}

// name is a span's: of few kinds, so a method that nobody has registered is HTTP.
func (t *traced) name(route string) string {
	method := t.method.Value.AsString()
	if method == semconv.HTTPRequestMethodOther.Value.AsString() {
		method = "HTTP"
	}
	if route == "" {
		return method
	}
	return method + " " + route
}

func tracedMethod(method []byte) attribute.KeyValue {
	switch string(method) {
	case "GET":
		return semconv.HTTPRequestMethodGet
	case "POST":
		return semconv.HTTPRequestMethodPost
	case "PUT":
		return semconv.HTTPRequestMethodPut
	case "PATCH":
		return semconv.HTTPRequestMethodPatch
	case "DELETE":
		return semconv.HTTPRequestMethodDelete
	case "HEAD":
		return semconv.HTTPRequestMethodHead
	case "OPTIONS":
		return semconv.HTTPRequestMethodOptions
	case "TRACE":
		return semconv.HTTPRequestMethodTrace
	case "CONNECT":
		return semconv.HTTPRequestMethodConnect
	}
	return semconv.HTTPRequestMethodOther
}

// The fields of W3C Trace Context, in canonical form.
const (
	headerTraceparent = "Traceparent"
	headerTracestate  = "Tracestate"
)

// headTrace reads them. It implements propagation.TextMapCarrier.
type headTrace struct{ lines func(name string) [][]byte }

// Get returns a field's lines as one. Two parents are none.
func (h headTrace) Get(key string) string {
	switch key {
	case "traceparent":
		if lines := h.lines(headerTraceparent); len(lines) == 1 {
			return string(lines[0])
		}
	case "tracestate":
		return string(bytes.Join(h.lines(headerTracestate), []byte(",")))
	}
	return ""
}

func (headTrace) Set(string, string) {}
func (headTrace) Keys() []string     { return nil }

// appendTrace appends the fields that tell whoever gets the request next what its spans
// are children of, in place of those that came.
func (c *call) appendTrace(b []byte) []byte {
	t := c.trace
	if t == nil || t.passes {
		return b
	}
	ctx := t.ctx
	if t.client != nil {
		ctx = trace.ContextWithSpan(ctx, t.client)
	}
	out := traceLines{b}
	traceContext.Inject(ctx, &out)
	return out.b
}

// traceLines writes them. It implements propagation.TextMapCarrier.
type traceLines struct{ b []byte }

func (l *traceLines) Set(key, value string) {
	switch key {
	case "traceparent":
		key = headerTraceparent
	case "tracestate":
		key = headerTracestate
	}
	l.b = append(append(append(append(l.b, key...), ": "...), value...), "\r\n"...)
}

func (*traceLines) Get(string) string { return "" }
func (*traceLines) Keys() []string    { return nil }

// appendForwardedHead appends the head of a request that another node accepted. What it
// says of its trace gives way to this node's span, if there is one.
func (c *call) appendForwardedHead(b []byte) []byte {
	if t := c.trace; t == nil || t.client == nil || !t.client.IsRecording() {
		return append(b, c.from.Head...)
	}
	for line := range bytes.SplitAfterSeq(c.from.Head, []byte("\n")) {
		if name, _, _ := bytes.Cut(line, []byte(":")); string(name) != headerTraceparent && string(name) != headerTracestate {
			b = append(b, line...)
		}
	}
	return c.appendTrace(b)
}

// linesOf returns the values of a field in a head that this program wrote.
func linesOf(head []byte, name string) (values [][]byte) {
	for line := range bytes.SplitSeq(head, []byte("\r\n")) {
		if have, value, _ := bytes.Cut(line, []byte(": ")); string(have) == name {
			values = append(values, value)
		}
	}
	return values
}

// traceID is that of the request's trace, whoever records it; empty: it has none.
func (c *call) traceID() string {
	ctx := context.Background()
	switch {
	case c.trace != nil:
		ctx = c.trace.ctx
	case c.from != nil:
		ctx = traceContext.Extract(ctx, headTrace{func(name string) [][]byte { return linesOf(c.from.Head, name) }})
	case c.ctx != nil:
		ctx = traceContext.Extract(ctx, headTrace{c.ctx.Request.Header.PeekAll})
	}
	if sc := trace.SpanContextFromContext(ctx); sc.HasTraceID() {
		return sc.TraceID().String()
	}
	return ""
}
