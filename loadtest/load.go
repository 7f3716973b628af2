package loadtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Mode is how Traffic decides when to send.
type Mode uint8

const (
	// Spaced sends each key's requests 1…PerKey, Gap apart, each on the next
	// free connection and without waiting for answers: what order is for. One
	// goroutine sends everything, so the send order is exact.
	Spaced Mode = iota
	// Open sends at Rate whatever comes back, keys drawn by Zipf, each request
	// on the next free connection.
	Open
	// Pipelined keeps Depth requests unanswered on each connection.
	Pipelined
	// Closed sends on each connection the next request after the answer to the
	// last, Gap later. A closed loop slows down with the service, so its
	// latencies say nothing about a queue.
	Closed
)

// Bounds of what zero values mean, and of a run.
const (
	DefaultRequests    = 100_000
	DefaultConnections = 16
	DefaultTimeout     = 30 * time.Second
	DefaultDuration    = 10 * time.Minute
	RequestsMax        = 10_000_000
	answerBytesMax     = 16 << 20
)

// Traffic describes one run of load. It never repeats a request: a broken
// connection fails what was on it, and the next request gets a new one.
type Traffic struct {
	Targets []string // http://host:port; connections take them in turn

	// Dial opens a connection to a target's host:port; nil means TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)

	// Clock times the requests; nil means one of its own. Give it the
	// History's, and both accounts can be read side by side.
	Clock *Clock

	Mode        Mode
	Keys        int           // how many; 0 = 1. They are called 0, 1, 2, …
	Zipf        float64       // exponent above 1 of how keys are drawn; 0 = uniform. Not for Spaced
	PerKey      int           // Spaced: requests of each key; 0 = 100
	Requests    int           // otherwise: in all; 0 = DefaultRequests
	Gap         time.Duration // between requests of a key (Spaced) or connection (Closed, Pipelined)
	Rate        float64       // Open: requests per second
	Depth       int           // Pipelined: unanswered requests per connection; 0 = 8
	Connections int           // open at once; 0 = DefaultConnections
	Pinned      bool          // Spaced, Open: a key's requests take the connections of one target, the key's number modulo theirs
	Own         bool          // Closed, Pipelined: a connection keeps to one key, its own number modulo Keys, so that a key that stands still costs the others no load

	Duration time.Duration   // sending stops after it; 0 = DefaultDuration
	Stop     <-chan struct{} // sending stops when it is closed; nil = never
	Timeout  time.Duration   // of an answer; its connection is then closed; 0 = DefaultTimeout

	Method    string   // 0 = POST
	Reads     float64  // share of requests sent as GET instead, in [0, 1]
	Path      string   // "{key}" is replaced; "" = /orders/{key}
	KeyHeader string   // carries the key; "" = X-Order-Id
	Space     string   // Witness-Key is Space:key, as lanekeeper names it; "" = order
	Headers   []string // more lines, "Name: value"
	BodyBytes int      // pads the JSON body up to this size

	// Client names the sender in Witness-Client; "" = a random name. Two runs
	// against one history need two names.
	Client string
	// Producer sends Lanekeeper-Producer and Lanekeeper-Seq, numbers from 1 per
	// key. Only for Spaced and Open, where requests are sent in their order.
	Producer string
	Seed     uint64 // of keys and Reads

	Progress      func(Progress) // called by one goroutine, every ProgressEvery and at the end
	ProgressEvery time.Duration  // 0 = 1 s
}

// Progress is a look at a running Run.
type Progress struct {
	Elapsed  time.Duration
	Total    int // that will be sent at most
	Sent     int
	Answered int
	OK       int // 2xx
	Failed   int // without an answer
}

// Result is what the clients saw.
type Result struct {
	Sent []Sent // by the time it was sent

	// Latency of answers in microseconds, from when a request was due: a late
	// sender's delay counts as the service's.
	Latency *hdrhistogram.Histogram
	Elapsed time.Duration // from the first sending to the last answer

	OK         int           // 2xx
	LongestGap time.Duration // without any 2xx, between the first sending and the last answer
	LagMax     time.Duration // Spaced, Open: how late a request was sent at worst
	Stray      int           // answers that nobody had asked for
}

// Times is how long requests waited in their lanes, and how long the upstream took, in
// microseconds, as far as answers said so.
func (r *Result) Times() (lane, upstream *hdrhistogram.Histogram) {
	lane, upstream = hdrhistogram.New(1, (2*time.Hour).Microseconds(), 3), hdrhistogram.New(1, (2*time.Hour).Microseconds(), 3)
	for i := range r.Sent {
		if s := &r.Sent[i]; s.Upstream > 0 {
			_ = lane.RecordValue(s.Lane.Microseconds()) // out of range is impossible: Timeout
			_ = upstream.RecordValue(s.Upstream.Microseconds())
		}
	}
	return lane, upstream
}

// Throughput is answers per second.
func (r *Result) Throughput() float64 {
	if r.Elapsed <= 0 {
		return 0
	}
	return float64(r.Latency.TotalCount()) / r.Elapsed.Seconds()
}

// Statuses counts answers by status; 0 stands for none.
func (r *Result) Statuses() map[int]int {
	statuses := make(map[int]int)
	for i := range r.Sent {
		statuses[r.Sent[i].Status]++
	}
	return statuses
}

// LatencyAt returns the latency that quantile (0 to 100) of the answers kept.
func (r *Result) LatencyAt(quantile float64) time.Duration {
	return time.Duration(r.Latency.ValueAtQuantile(quantile)) * time.Microsecond
}

func (t Traffic) withDefaults() Traffic {
	set := func(field *int, value int) {
		if *field == 0 {
			*field = value
		}
	}
	set(&t.Keys, 1)
	set(&t.PerKey, 100)
	set(&t.Requests, DefaultRequests)
	set(&t.Depth, 8)
	set(&t.Connections, DefaultConnections)
	if t.Mode == Closed {
		t.Depth = 1
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&t.Duration, DefaultDuration}, {&t.Timeout, DefaultTimeout}, {&t.ProgressEvery, time.Second}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	for _, s := range []struct {
		field *string
		value string
	}{
		{&t.Method, "POST"}, {&t.Path, "/orders/{key}"}, {&t.KeyHeader, "X-Order-Id"}, {&t.Space, "order"},
		{&t.Client, fmt.Sprintf("load-%08x", rand.Uint32())},
	} {
		if *s.field == "" {
			*s.field = s.value
		}
	}
	if t.Clock == nil {
		t.Clock = NewClock()
	}
	if t.Dial == nil {
		t.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			return (&net.Dialer{Timeout: 3 * time.Second}).DialContext(ctx, "tcp", address)
		}
	}
	return t
}

// groups is how many sets of connections there are.
func (t Traffic) groups() int {
	if t.Pinned {
		return len(t.Targets)
	}
	return 1
}

// total is how many requests the run sends at most.
func (t Traffic) total() int {
	if t.Mode == Spaced {
		return t.Keys * t.PerKey
	}
	return t.Requests
}

// Validate checks ranges and what doesn't go together.
func (t Traffic) Validate() error {
	_, err := t.withDefaults().validated()
	return err
}

func (t Traffic) validated() ([]string, error) {
	if len(t.Targets) == 0 {
		return nil, errors.New("traffic needs a target")
	}
	var addresses []string
	for _, target := range t.Targets {
		address, err := targetAddress(target)
		if err != nil {
			return nil, err
		}
		addresses = append(addresses, address)
	}
	switch {
	case t.Mode > Closed:
		return nil, fmt.Errorf("unknown mode %d", t.Mode)
	case t.Keys < 1 || t.PerKey < 1 || t.Requests < 1 || t.Depth < 1 || t.Connections < 1:
		return nil, errors.New("keys, requests, depth and connections must be at least 1")
	case t.Keys > RequestsMax || t.PerKey > RequestsMax || t.total() > RequestsMax:
		return nil, fmt.Errorf("a run has at most %d requests", RequestsMax)
	case t.Mode == Open && !(t.Rate > 0):
		return nil, errors.New("open traffic needs a rate above 0")
	case t.Zipf != 0 && !(t.Zipf > 1):
		return nil, fmt.Errorf("zipf exponent %v must be above 1", t.Zipf)
	case !(t.Reads >= 0 && t.Reads <= 1):
		return nil, fmt.Errorf("share of reads %v is outside [0, 1]", t.Reads)
	case t.Pinned && t.Connections < len(t.Targets):
		return nil, errors.New("pinned traffic needs a connection to each target")
	case t.Own && (t.Mode == Spaced || t.Mode == Open):
		return nil, errors.New("spaced and open traffic has no connections of a key's own")
	case t.Gap < 0 || t.Duration < 0 || t.Timeout < 0:
		return nil, errors.New("gap, duration and timeout must not be negative")
	case t.Producer != "" && t.Mode != Spaced && t.Mode != Open:
		return nil, errors.New("a producer needs spaced or open traffic: elsewhere connections race for its numbers")
	}
	return addresses, nil
}

// Run sends the traffic and returns when every request has been answered or has
// failed. When ctx ends it closes all connections and returns what it has, with
// ctx's cause. It returns an error and no result if it could not begin.
func (t Traffic) Run(ctx context.Context) (*Result, error) {
	t = t.withDefaults()
	addresses, err := t.validated()
	if err != nil {
		return nil, err
	}
	r := newRun(t)
	for range r.groups() {
		r.free = append(r.free, make(chan *wire, t.Connections))
	}

	life, end := context.WithCancelCause(ctx)
	defer end(nil)
	wires := make([]*wire, t.Connections)
	for i := range wires {
		wires[i] = newWire(r, i, addresses)
	}
	var work sync.WaitGroup // of the wires: they end with life
	interrupted := make(chan struct{})
	context.AfterFunc(life, func() { // waited for below; wakes every reader
		defer close(interrupted)
		for _, w := range wires {
			w.interrupt()
		}
	})
	for _, w := range wires {
		work.Go(func() { w.keep(life) })
	}
	finish := func() {
		end(nil)
		<-interrupted
		work.Wait()
	}
	for _, w := range wires {
		if err := <-w.dialed; err != nil {
			finish()
			return nil, fmt.Errorf("connect: %w", err)
		}
	}

	r.started = time.Now()
	r.startedAt = t.Clock.Now()
	stopProgress := r.report()
	r.send(life, wires)
	r.unsettled.Wait() // each has a deadline
	stopProgress()
	finish()
	return r.result(), context.Cause(ctx)
}

// run is one Run. Sents live in chunks that never move; each is written by its
// sender, then handed over under the wire's mutex to its reader.
type run struct {
	Traffic
	keys, names []string
	free        []chan *wire // Spaced, Open: connections that may be written to, by group
	started     time.Time
	startedAt   int64

	sent, answered, ok, failed, stray atomic.Int64
	connections                       atomic.Int64
	unsettled                         sync.WaitGroup

	mu     sync.Mutex // guards next, chunks, count
	next   []int64    // last number given, per key
	chunks []*[recordsPerChunk]Sent
	count  int
}

func newRun(t Traffic) *run {
	r := &run{Traffic: t, next: make([]int64, t.Keys)}
	for k := range t.Keys {
		r.keys = append(r.keys, strconv.Itoa(k))
		r.names = append(r.names, t.Space+":"+r.keys[k])
	}
	return r
}

// draw makes the next request of key, or returns nil when the run is complete.
func (r *run) draw(key int, random *rand.Rand) *Sent {
	method := r.Method
	if r.Reads > 0 && random.Float64() < r.Reads {
		method = "GET"
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.count == r.total() {
		return nil
	}
	if r.count == len(r.chunks)*recordsPerChunk {
		r.chunks = append(r.chunks, new([recordsPerChunk]Sent))
	}
	s := &r.chunks[r.count/recordsPerChunk][r.count%recordsPerChunk]
	r.count++
	r.next[key]++
	s.Client, s.Seq, s.Key, s.Method = r.Client, r.next[key], r.names[key], method
	return s
}

// keyDraw returns a function that draws keys.
func (r *run) keyDraw(random *rand.Rand) func() int {
	switch {
	case r.Keys == 1:
		return func() int { return 0 }
	case r.Zipf > 0:
		zipf := rand.NewZipf(random, r.Zipf, 1, uint64(r.Keys-1))
		return func() int { return int(zipf.Uint64()) }
	default:
		return func() int { return random.IntN(r.Keys) }
	}
}

// onSchedule: one goroutine sends everything when it is due. Otherwise each
// connection has its own, and a window of unanswered requests.
func (r *run) onSchedule() bool { return r.Mode == Spaced || r.Mode == Open }

// send returns when nothing more is to be sent.
func (r *run) send(life context.Context, wires []*wire) {
	ctx, cancel := context.WithTimeout(life, r.Duration)
	defer cancel()
	if r.Stop != nil {
		go func() { // ends with ctx
			select {
			case <-r.Stop:
				cancel()
			case <-ctx.Done():
			}
		}()
	}
	if r.onSchedule() {
		r.sendOnSchedule(ctx)
		return
	}
	var senders sync.WaitGroup
	for i, w := range wires {
		senders.Go(func() { r.sendInWindow(ctx, w, i) }) // ends with the run's last request, or ctx
	}
	senders.Wait()
}

func (r *run) sendOnSchedule(ctx context.Context) {
	random := rand.New(rand.NewPCG(r.Seed, 0))
	draw := r.keyDraw(random)
	var buffer []byte
	for i := range r.total() {
		var at time.Duration
		var key int
		if r.Mode == Spaced { // rounds over the keys; a round takes Gap
			key = i % r.Keys
			at = time.Duration(i/r.Keys)*r.Gap + time.Duration(key)*r.Gap/time.Duration(r.Keys)
		} else {
			key = draw()
			at = time.Duration(float64(i) / r.Rate * float64(time.Second))
		}
		if !sleepUntil(ctx, r.started.Add(at)) {
			return
		}
		s := r.draw(key, random)
		s.due = r.startedAt + int64(at)
		for sent := false; !sent; {
			select {
			case w := <-r.free[key%len(r.free)]:
				buffer, sent = w.send(s, r.keys[key], buffer)
			case <-ctx.Done():
				return
			}
		}
	}
}

func sleepUntil(ctx context.Context, t time.Time) bool {
	if wait := time.Until(t); wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	return ctx.Err() == nil
}

func (r *run) sendInWindow(ctx context.Context, w *wire, number int) {
	random := rand.New(rand.NewPCG(r.Seed, uint64(number)+1))
	draw := r.keyDraw(random)
	if r.Own {
		draw = func() int { return number % r.Keys }
	}
	var buffer []byte
	for first := true; ; first = false {
		select {
		case w.window <- struct{}{}:
		case <-ctx.Done():
			return
		}
		if r.Gap > 0 && !first && !sleepUntil(ctx, time.Now().Add(r.Gap)) {
			return
		}
		if !w.await(ctx) {
			return
		}
		key := draw()
		s := r.draw(key, random)
		if s == nil {
			return
		}
		for sent := false; !sent; {
			if buffer, sent = w.send(s, r.keys[key], buffer); !sent && !w.await(ctx) {
				return
			}
		}
	}
}

// settle ends a request: it was answered or has failed.
func (r *run) settle(s *Sent) {
	switch {
	case s.Status == 0:
		r.failed.Add(1)
	default:
		r.answered.Add(1)
		if s.Status < 300 {
			r.ok.Add(1)
		}
	}
	r.unsettled.Done()
}

// report calls Progress until the returned function is called, which makes the
// last call.
func (r *run) report() (stop func()) {
	if r.Progress == nil {
		return func() {}
	}
	show := func() {
		r.Progress(Progress{
			Elapsed: time.Since(r.started), Total: r.total(), Sent: int(r.sent.Load()),
			Answered: int(r.answered.Load()), OK: int(r.ok.Load()), Failed: int(r.failed.Load()),
		})
	}
	quit := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() { // ends when quit is closed
		ticker := time.NewTicker(r.ProgressEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				show()
			case <-quit:
				show()
				return
			}
		}
	})
	return func() {
		close(quit)
		work.Wait()
	}
}

func (r *run) result() *Result {
	result := &Result{
		Latency: hdrhistogram.New(1, (2 * time.Hour).Microseconds(), 3),
		OK:      int(r.ok.Load()),
		Stray:   int(r.stray.Load()),
		Sent:    make([]Sent, 0, r.count),
	}
	last := r.startedAt
	good := []int64{r.startedAt}
	for i := range r.count {
		s := &r.chunks[i/recordsPerChunk][i%recordsPerChunk]
		if s.SentAt == 0 {
			continue // drawn, and then there was no time or connection left
		}
		due := s.due
		if due == 0 {
			due = s.SentAt
		}
		result.LagMax = max(result.LagMax, time.Duration(s.SentAt-due))
		if s.Status != 0 {
			_ = result.Latency.RecordValue(max(s.AnsweredAt-due, 0) / 1000) // out of range is impossible: Timeout
			last = max(last, s.AnsweredAt)
			if s.Status < 300 {
				good = append(good, s.AnsweredAt)
			}
		}
		result.Sent = append(result.Sent, *s)
	}
	slices.SortStableFunc(result.Sent, func(a, b Sent) int { return int(a.SentAt - b.SentAt) })
	result.Elapsed = time.Duration(last - r.startedAt)
	good = append(good, last)
	slices.Sort(good)
	for i := 1; i < len(good); i++ {
		result.LongestGap = max(result.LongestGap, time.Duration(good[i]-good[i-1]))
	}
	return result
}

// appendRequest writes one request as it goes over the wire.
func (r *run) appendRequest(b []byte, s *Sent, key, host string) []byte {
	b = append(b, s.Method...)
	b = append(b, ' ')
	before, after, found := strings.Cut(r.Path, "{key}")
	b = append(b, before...)
	if found {
		b = append(b, url.PathEscape(key)...)
		b = append(b, after...)
	}
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, host...)
	line := func(name, value string) {
		b = append(b, "\r\n"...)
		b = append(b, name...)
		b = append(b, ": "...)
		b = append(b, value...)
	}
	line(r.KeyHeader, key)
	line("Witness-Key", s.Key)
	line("Witness-Client", s.Client)
	b = append(b, "\r\nWitness-Seq: "...)
	b = strconv.AppendInt(b, s.Seq, 10)
	if r.Producer != "" {
		line("Lanekeeper-Producer", r.Producer)
		b = append(b, "\r\nLanekeeper-Seq: "...)
		b = strconv.AppendInt(b, s.Seq, 10)
	}
	for _, header := range r.Headers {
		b = append(b, "\r\n"...)
		b = append(b, header...)
	}
	if s.Method == "GET" || s.Method == "HEAD" {
		return append(b, "\r\n\r\n"...)
	}

	at := len(b)
	b = appendBody(b, key, s.Seq, r.BodyBytes)
	body := b[at:]
	var length [20]byte
	head := append([]byte("\r\nContent-Type: application/json\r\nContent-Length: "), strconv.AppendInt(length[:0], int64(len(body)), 10)...)
	return slices.Insert(b, at, append(head, "\r\n\r\n"...)...)
}

// appendBody writes the JSON body of a request, padded up to size.
func appendBody(b []byte, key string, seq int64, size int) []byte {
	at := len(b)
	b = append(b, `{"order_id":"`...)
	b = append(b, key...)
	b = append(b, `","seq":`...)
	b = strconv.AppendInt(b, seq, 10)
	const before, after = `,"pad":"`, `"}`
	if pad := size - (len(b) - at) - len(before) - len(after); pad >= 0 {
		b = append(b, before...)
		for range pad {
			b = append(b, 'x')
		}
		return append(b, after...)
	}
	return append(b, '}')
}
