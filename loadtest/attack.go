package loadtest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
	"github.com/tsenart/vegeta/v12/lib/plot"
)

// Attack sends Open traffic as most clients would, by net/http and vegeta's attacker: at
// Rate whatever comes back, each request on a free connection or a new one, up to
// Connections. If all are busy a request is sent late, and its latency counts from when
// it was due all the same. Unlike Run it may send two requests that are due at nearly the
// same moment in either order, so it knows no order of sending.
//
// latencies, if it is not nil, is given every request that has ended.
func (t Traffic) Attack(ctx context.Context, latencies *Plot) (*Result, error) {
	t = t.withDefaults()
	if _, err := t.validated(); err != nil {
		return nil, err
	}
	if t.Mode != Open || t.Pinned || t.Producer != "" {
		return nil, fmt.Errorf("an attack is open traffic, neither pinned nor numbered for a producer")
	}
	a := &attack{ctx: ctx, run: newRun(t)}
	random := rand.New(rand.NewPCG(t.Seed, 0))
	a.key, a.random = a.run.keyDraw(random), random
	transport := &http.Transport{
		DialContext:         func(ctx context.Context, _, address string) (net.Conn, error) { return t.Dial(ctx, address) },
		MaxIdleConnsPerHost: t.Connections, MaxConnsPerHost: t.Connections,
		DisableCompression: true,
	}
	defer transport.CloseIdleConnections()
	a.transport = transport
	attacker := vegeta.NewAttacker(
		vegeta.Client(&http.Client{Transport: a, Timeout: t.Timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}),
		vegeta.MaxWorkers(uint64(t.Connections)), vegeta.MaxBody(0))
	target := vegeta.Target{Method: t.Method, URL: t.Targets[0]} // RoundTrip makes the request
	const per = 1000 * time.Second                               // rates of a thousandth of a request
	pacer := bounded{vegeta.ConstantPacer{Freq: int(math.Round(t.Rate * per.Seconds())), Per: per}, t}

	a.run.started, a.run.startedAt = time.Now(), t.Clock.Now()
	stopProgress := a.run.report()
	results := attacker.Attack(vegeta.NewStaticTargeter(target), pacer, 0, "")
	stop := context.AfterFunc(ctx, func() { attacker.Stop() })
	defer stop()
	for result := range results {
		if latencies != nil {
			result.Latency += result.Timestamp.Sub(a.run.started.Add(a.due(result.Seq)))
			latencies.add(result)
		}
	}
	stopProgress()
	return a.run.result(), context.Cause(ctx)
}

// bounded ends an attack after so many requests, or so much time. vegeta would end it when
// the last request is due, though that may still wait for a connection.
type bounded struct {
	vegeta.Pacer
	traffic Traffic
}

func (b bounded) Pace(elapsed time.Duration, hits uint64) (time.Duration, bool) {
	if hits >= uint64(b.traffic.Requests) || elapsed > b.traffic.Duration {
		return 0, true
	}
	return b.Pacer.Pace(elapsed, hits)
}

// Plot is the latencies of an Attack over time, for a browser.
type Plot struct{ plot *plot.Plot }

// NewPlot makes an empty one.
func NewPlot(title string) *Plot {
	return &Plot{plot.New(plot.Title(title), plot.Downsample(plotPoints), plot.Label(func(r *vegeta.Result) string {
		if r.Code == 0 {
			return "no answer"
		}
		return strconv.Itoa(int(r.Code))
	}))}
}

// plotPoints is how many points of each line are drawn; more make no difference to see.
const plotPoints = 4000

func (p *Plot) add(r *vegeta.Result) {
	p.plot.Add(r) //nolint:errcheck // of results out of order, which vegeta's are not
}

// WriteTo writes a page of HTML that needs nothing beside itself. Nothing may be added
// after that.
func (p *Plot) WriteTo(w io.Writer) (int64, error) {
	p.plot.Close()
	return p.plot.WriteTo(w)
}

// attack is one Attack. It is the transport of vegeta's client: each of its requests,
// known by their numbers alone, becomes the next one of the run.
type attack struct {
	ctx       context.Context
	run       *run
	transport http.RoundTripper

	mu     sync.Mutex // guards key and random
	key    func() int
	random *rand.Rand
}

// due is when the request of a number, from 0, is to be sent, after the start: vegeta
// waits before the first as it does between two.
func (a *attack) due(number uint64) time.Duration {
	return time.Duration(float64(number+1) / a.run.Rate * float64(time.Second))
}

func (a *attack) RoundTrip(asked *http.Request) (*http.Response, error) {
	number, err := strconv.ParseUint(asked.Header.Get("X-Vegeta-Seq"), 10, 64)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	key := a.key()
	s := a.run.draw(key, a.random)
	a.mu.Unlock()
	if s == nil {
		return nil, errStopped // one more than Requests, by rounding
	}
	s.due = a.run.startedAt + int64(a.due(number))
	request, err := a.run.request(asked.Context(), s, a.run.keys[key], a.run.Targets[number%uint64(len(a.run.Targets))])
	if err != nil {
		return nil, err
	}
	a.run.unsettled.Add(1)
	a.run.sent.Add(1)
	defer a.run.settle(s)
	s.Connection = a.run.connections.Add(1) // each is judged alone
	s.SentAt = a.run.Clock.Now()
	response, body, err := a.exchange(request)
	if err != nil {
		s.Err = err.Error()
		return nil, err
	}
	s.AnsweredAt = a.run.Clock.Now()
	s.readAnswer(response.StatusCode, response.Header.Get("Content-Type"), response.Header.Get("Lanekeeper-Ticket"), body)
	s.readTimes(response.Header.Values("Server-Timing"))
	response.Body = io.NopCloser(bytes.NewReader(body))
	return response, nil
}

// exchange sends a request and reads its answer whole.
func (a *attack) exchange(request *http.Request) (*http.Response, []byte, error) {
	response, err := a.transport.RoundTrip(request)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, answerBytesMax))
	return response, body, err
}

// request is s as net/http sends it.
func (r *run) request(ctx context.Context, s *Sent, key, target string) (*http.Request, error) {
	var body io.Reader
	if s.Method != http.MethodGet && s.Method != http.MethodHead {
		body = bytes.NewReader(appendBody(nil, key, s.Seq, r.BodyBytes))
	}
	request, err := http.NewRequestWithContext(ctx, s.Method, strings.TrimSuffix(target, "/")+strings.ReplaceAll(r.Path, "{key}", url.PathEscape(key)), body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	request.Header.Set(r.KeyHeader, key)
	request.Header.Set("Witness-Key", s.Key)
	request.Header.Set("Witness-Client", s.Client)
	request.Header.Set("Witness-Seq", strconv.FormatInt(s.Seq, 10))
	for _, header := range r.Headers {
		name, value, _ := strings.Cut(header, ":")
		request.Header.Add(name, strings.TrimSpace(value))
	}
	return request, nil
}
