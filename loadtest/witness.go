package loadtest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"
)

// WitnessConfig says how long a request takes at a witness. The zero value
// answers at once.
type WitnessConfig struct {
	Name   string        // replica name in the history; "" = none
	Delay  time.Duration // every request's service time
	Jitter time.Duration // added to it: uniform in [0, Jitter)

	// SlowShare of the requests, in [0, 1], take SlowDelay more: the long tail
	// in which order breaks.
	SlowShare float64
	SlowDelay time.Duration

	// Seed makes Jitter and SlowShare the same in each run, for each request
	// that has a client and a number: whichever way and in whatever order
	// requests arrive, the same ones are slow.
	Seed uint64

	// Fenced has the witness be a resource that late holders of a lock cannot
	// reach: a request whose Lanekeeper-Fence is below that of an execution of its
	// key, at whichever replica, is answered 409 and not executed. One without a
	// fence, or a key, is.
	Fenced bool

	// Obedient has the witness end what it does by Lanekeeper-Deadline, as a service
	// does that keeps to it.
	Obedient bool
}

// delayMax bounds what a request may ask for by Witness-Delay.
const delayMax = time.Minute

// Validate checks ranges.
func (c WitnessConfig) Validate() error {
	switch {
	case c.Delay < 0 || c.Jitter < 0 || c.SlowDelay < 0:
		return errors.New("delay, jitter and slow delay must not be negative")
	case c.SlowShare < 0 || c.SlowShare > 1 || math.IsNaN(c.SlowShare):
		return fmt.Errorf("slow share %v is outside [0, 1]", c.SlowShare)
	}
	return nil
}

// Witness is an upstream that records the execution of every request.
//
// A request may carry Witness-Key, Witness-Client and Witness-Seq, which name
// it; Witness-Delay, a duration that replaces the configured service time; and
// Witness-Echo, which returns its body instead of the JSON
//
//	{"client":"c","key":"order:7","seq":12,"n":34}
//
// where n counts the history's executions. Paths of its own, not recorded:
//
//	GET  /.witness/history  NDJSON of Execution; headers Witness-Records, Witness-Refused, Witness-Lower-Fences
//	POST /.witness/reset    forget everything
//	GET  /healthz           200
//
// When the history is full it answers 507 and executes nothing. It is a test
// tool: it trusts its clients and sets them no timeouts.
type Witness struct {
	config  WitnessConfig
	history *History
	host    host
}

// NewWitness makes a witness that records into history, which replicas share.
func NewWitness(config WitnessConfig, history *History) (*Witness, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	w := &Witness{config: config, history: history}
	w.host.init(w.serve)
	return w, nil
}

// Start serves ln, which the witness owns from now on, also if Start fails. It
// can be started once.
func (w *Witness) Start(ln net.Listener) error { return w.host.start(ln) }

// Stop lets running requests be answered and returns when the last connection
// is closed. When ctx ends first, running requests are cut, stay unfinished in
// the history, and Stop returns ctx's cause. It may be called twice, or before
// Start.
func (w *Witness) Stop(ctx context.Context) error { return w.host.stop(ctx) }

func (w *Witness) serve(ctx *fasthttp.RequestCtx) {
	switch string(ctx.Path()) { // no allocation: the compiler knows this form
	case "/.witness/history":
		if allowed(ctx, fasthttp.MethodGet) {
			w.serveHistory(ctx)
		}
	case "/.witness/reset":
		if allowed(ctx, fasthttp.MethodPost) {
			dropped, running := w.history.Reset()
			ctx.SetContentType("application/json")
			fmt.Fprintf(ctx, `{"dropped":%d,"running":%d}`+"\n", dropped, running)
		}
	case "/healthz":
		if allowed(ctx, fasthttp.MethodGet) {
			ctx.SetContentType("text/plain; charset=utf-8")
			ctx.SetBodyString("ok\n")
		}
	default:
		w.execute(ctx)
	}
}

func allowed(ctx *fasthttp.RequestCtx, method string) bool {
	if string(ctx.Method()) == method {
		return true
	}
	ctx.Response.Header.Set(fasthttp.HeaderAllow, method)
	refuse(ctx, fasthttp.StatusMethodNotAllowed, "use "+method)
	return false
}

// refuse answers that nothing was executed.
func refuse(ctx *fasthttp.RequestCtx, status int, detail string) {
	ctx.SetStatusCode(status)
	ctx.SetContentType("application/problem+json")
	body, _ := json.Marshal(map[string]any{"status": status, "detail": "witness: " + detail, "executed": "no"})
	ctx.SetBody(body)
}

func (w *Witness) serveHistory(ctx *fasthttp.RequestCtx) {
	ctx.SetContentType("application/x-ndjson")
	ctx.Response.Header.Set("Witness-Records", strconv.Itoa(w.history.Len()))
	ctx.Response.Header.Set("Witness-Refused", strconv.FormatInt(w.history.Refused(), 10))
	ctx.Response.Header.Set("Witness-Lower-Fences", strconv.FormatInt(w.history.LowerFences(), 10))
	ctx.SetBodyStreamWriter(func(bw *bufio.Writer) {
		_ = w.history.WriteNDJSON(bw) // a client that hung up sees a cut chunked body
	})
}

func (w *Witness) execute(ctx *fasthttp.RequestCtx) {
	header := &ctx.Request.Header
	laneKey := header.Peek("Lanekeeper-Key")
	key := header.Peek("Witness-Key")
	if len(key) == 0 {
		key = laneKey
	}
	seq, err := parseSeq(header.Peek("Witness-Seq"))
	if err != nil {
		refuse(ctx, fasthttp.StatusBadRequest, err.Error())
		return
	}
	client := header.Peek("Witness-Client")
	record, n, err := w.history.begin(call{
		key: key, laneKey: laneKey,
		ticket: header.Peek("Lanekeeper-Ticket"), fence: header.Peek("Lanekeeper-Fence"),
		client: client, seq: seq,
		method: methodName(header.Method()), witness: w.config.Name,
		fenced: w.config.Fenced,
	})
	switch {
	case errors.Is(err, ErrHistoryFull):
		refuse(ctx, fasthttp.StatusInsufficientStorage, "the history is full and must be reset; not executed")
		return
	case errors.Is(err, errLowerFence):
		refuse(ctx, fasthttp.StatusConflict, err.Error()+"; not executed")
		return
	case err != nil:
		refuse(ctx, fasthttp.StatusBadRequest, err.Error())
		return
	}

	delay, err := w.delay(header.Peek("Witness-Delay"), key, client, seq, n)
	if err == nil && w.config.Obedient {
		delay = w.inTime(delay, header.Peek("Lanekeeper-Deadline"))
	}
	if err == nil && delay > 0 && !w.wait(delay) {
		return // cut: the record keeps no end, the connection is gone
	}
	record.end.Store(w.history.clock.Now())

	switch {
	case err != nil:
		ctx.SetStatusCode(fasthttp.StatusBadRequest) // executed, as an upstream that finds fault with its input does
		ctx.SetBodyString(err.Error())
	case len(header.Peek("Witness-Echo")) > 0:
		ctx.SetContentTypeBytes(header.ContentType())
		ctx.SetBody(ctx.Request.Body())
	default:
		ctx.SetContentType("application/json")
		body := appendAnswer(ctx.Response.Body()[:0], record.text[record.cut[3]:], record.text[:record.cut[0]], seq)
		body = append(body, `,"n":`...)
		body = append(strconv.AppendInt(body, int64(n), 10), '}')
		ctx.SetBody(body)
	}
}

// wait sleeps, and reports false if the witness was cut meanwhile.
func (w *Witness) wait(delay time.Duration) bool {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-w.host.quit:
		return false
	}
}

// inTime is a delay that ends by a deadline. One that cannot be read is none.
func (w *Witness) inTime(delay time.Duration, deadline []byte) time.Duration {
	if at, err := time.Parse(time.RFC3339, string(deadline)); err == nil {
		return max(0, min(delay, time.Until(at)))
	}
	return delay
}

// delay is the service time of one request. Numbered requests draw from what
// names them, others from their place in the history.
func (w *Witness) delay(asked, key, client []byte, seq int64, n int) (time.Duration, error) {
	if len(asked) > 0 {
		delay, err := time.ParseDuration(string(asked))
		if err != nil || delay < 0 || delay > delayMax {
			return 0, fmt.Errorf("Witness-Delay %q is no duration in [0, %s]", asked, delayMax)
		}
		return delay, nil
	}
	delay := w.config.Delay
	if w.config.Jitter == 0 && w.config.SlowShare == 0 {
		return delay, nil
	}
	if seq == 0 {
		seq = -int64(n)
	}
	state := w.config.Seed ^ uint64(seq)*0x9e3779b97f4a7c15
	for _, part := range [...][]byte{key, client} {
		for _, c := range part {
			state = (state ^ uint64(c)) * 0x100000001b3 // FNV-1a
		}
		state ^= 0xff << 56 // so that ("ab","c") isn't ("a","bc")
	}
	delay += time.Duration(unit(&state) * float64(w.config.Jitter))
	if unit(&state) < w.config.SlowShare {
		delay += w.config.SlowDelay
	}
	return delay, nil
}

// unit draws from [0, 1) (splitmix64).
func unit(state *uint64) float64 {
	*state += 0x9e3779b97f4a7c15
	z := *state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return float64((z^z>>31)>>11) / (1 << 53)
}

func parseSeq(b []byte) (int64, error) {
	if len(b) == 0 {
		return 0, nil
	}
	seq, err := strconv.ParseInt(string(b), 10, 64)
	if err != nil || seq < 1 {
		return 0, fmt.Errorf("Witness-Seq %.40q is no number from 1", b)
	}
	return seq, nil
}

// methodName spares the usual methods an allocation.
func methodName(b []byte) string {
	switch string(b) {
	case "POST":
		return "POST"
	case "GET":
		return "GET"
	case "PUT":
		return "PUT"
	case "DELETE":
		return "DELETE"
	case "PATCH":
		return "PATCH"
	case "HEAD":
		return "HEAD"
	}
	return string(b[:min(len(b), 32)])
}

// appendAnswer writes the beginning of the witness's answer, by which a client
// knows its own.
func appendAnswer(b []byte, client, key string, seq int64) []byte {
	b = appendJSON(append(b, `{"client":`...), client)
	b = appendJSON(append(b, `,"key":`...), key)
	return strconv.AppendInt(append(b, `,"seq":`...), seq, 10)
}

func appendJSON(b []byte, s string) []byte {
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' { // nothing else needs it: appendVisible saw to that
			quoted, _ := json.Marshal(s)
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
