package main

import (
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-retryablehttp"
)

// till is a service that takes payments, and has bad days: it is away, busy, slow, or ends
// the connection when it has done what it was asked for.
type till struct {
	mu    sync.Mutex // guards the rest
	asked map[string]int
	took  map[string]int // payments by their names
	lost  map[string]bool
}

func newTill() *till {
	return &till{asked: make(map[string]int), took: make(map[string]int), lost: make(map[string]bool)}
}

// slowest is longer than any client here waits at once.
const slowest = 150 * time.Millisecond

func (s *till) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := r.Header.Get("Idempotency-Key")
	hash := fnv.New32a()
	io.WriteString(hash, name)
	s.mu.Lock()
	s.asked[name]++
	first := s.asked[name] == 1
	mood := hash.Sum32() % 8
	s.mu.Unlock()
	switch {
	case first && mood == 0:
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	case first && mood == 1:
		w.WriteHeader(http.StatusTooManyRequests)
		return
	case mood == 2:
		time.Sleep(slowest)
	}
	s.mu.Lock()
	s.took[name]++
	s.lost[name] = mood == 3
	s.mu.Unlock()
	if mood == 3 {
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(http.StatusCreated)
	fmt.Fprintf(w, `{"payment": %q}`, name)
}

// startTill returns the address of a node in front of a service that takes payments.
func startTill(t *testing.T, service *till) string {
	t.Helper()
	server := httptest.NewServer(service)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "lanekeeper.yaml")
	writeFile(t, file, fmt.Sprintf(`
server: {listen: "127.0.0.1:0"}
observe: {listen: "127.0.0.1:0"}
admin: {listen: "127.0.0.1:0"}
upstreams: [{name: app, targets: [%q]}]
routes:
  - name: payments
    match: {path: "/accounts/{account}/payments", methods: [POST]}
    upstream: app
    key: {space: account, from: [{path: account}]}
    idempotency: {mode: required, accept_crash_loss: true}
shutdown: {delay: 0s, drain_timeout: 5s}
`, server.URL))
	p := launch(t, file)
	line := p.log("serving")
	p.forget()
	return "http://" + line["listen"].(string)
}

// judge holds what clients were told of each payment against what was taken.
func (s *till) judge(t *testing.T, answers map[string]string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, n := range s.took {
		if n != 1 {
			t.Errorf("%s was taken %d times", name, n)
		}
	}
	paid := 0
	for name, answer := range answers {
		want := fmt.Sprintf(`201 {"payment": %q}`, name)
		switch {
		case s.lost[name] && strings.Contains(answer, "idempotency-outcome-unknown"):
		case answer == want && s.took[name] == 1:
			paid++
		default:
			t.Errorf("%s: %s, and it was taken %d times", name, answer, s.took[name])
		}
	}
	if paid < len(answers)/2 {
		t.Errorf("only %d of %d were answered", paid, len(answers))
	}
}

// TestAClientThatRetries is what payment libraries do, Stripe's for one: the same body
// with the same Idempotency-Key, after a lost connection, a timeout, 409, 429 and 5xx, at
// intervals that double. Each payment is taken once, and its client is told so, unless
// nobody can know.
//
// Mutants: no record is kept (the slow are taken twice); 429 and 503 are recorded.
func TestAClientThatRetries(t *testing.T) {
	service := newTill()
	address := startTill(t, service)
	client := retryablehttp.NewClient()
	client.Logger = nil
	client.HTTPClient.Timeout = slowest * 2 / 3
	client.RetryMax, client.RetryWaitMin, client.RetryWaitMax = 12, 5*time.Millisecond, 200*time.Millisecond
	client.Backoff = func(least, most time.Duration, attempt int, _ *http.Response) time.Duration {
		return min(least<<attempt, most) // not Retry-After, which is for people's patience
	}
	client.CheckRetry = func(ctx context.Context, r *http.Response, err error) (bool, error) {
		if err == nil && r.StatusCode == http.StatusConflict {
			return true, nil
		}
		return retryablehttp.DefaultRetryPolicy(ctx, r, err)
	}
	client.ErrorHandler = retryablehttp.PassthroughErrorHandler
	var mu sync.Mutex
	answers := make(map[string]string)
	var payers sync.WaitGroup
	for account := range 8 {
		payers.Go(func() {
			for i := range 12 {
				name := fmt.Sprintf("%d-%d", account, i)
				request, err := retryablehttp.NewRequest(http.MethodPost, fmt.Sprintf("%s/accounts/%d/payments", address, account), strings.NewReader(`{"amount": 100}`))
				if err != nil {
					t.Error(err)
					return
				}
				request.Header.Set("Idempotency-Key", name)
				answer := answerTo(client.Do(request))
				mu.Lock()
				answers[name] = answer
				mu.Unlock()
			}
		})
	}
	payers.Wait()
	service.judge(t, answers)
}

// TestAConsumerThatRedelivers is a queue's consumer that acknowledges what was answered,
// and is given again what it has not acknowledged in time; some messages come twice at
// once, as at-least-once queues do. Each is taken once.
//
// Mutant: no record is kept.
func TestAConsumerThatRedelivers(t *testing.T) {
	service := newTill()
	address := startTill(t, service)
	const messages, most = 96, 12
	queue := make(chan string, 2*messages*most)
	for i := range messages {
		name := fmt.Sprintf("%d-%d", i%8, i)
		queue <- name
		if i%5 == 0 {
			queue <- name
		}
	}
	var mu sync.Mutex
	answers, deliveries := make(map[string]string), make(map[string]int)
	var consumers sync.WaitGroup
	client := &http.Client{Timeout: slowest * 2 / 3} // the time in which a message is hidden from others
	for range 16 {
		consumers.Go(func() {
			for {
				select {
				case name := <-queue:
					account, _, _ := strings.Cut(name, "-")
					request, err := http.NewRequest(http.MethodPost, fmt.Sprintf("%s/accounts/%s/payments", address, account), strings.NewReader(`{"amount": 100}`))
					if err != nil {
						t.Error(err)
						return
					}
					request.Header.Set("Idempotency-Key", name)
					answer := answerTo(client.Do(request))
					mu.Lock()
					deliveries[name]++
					again := !strings.HasPrefix(answer, "2") && deliveries[name] < most && !strings.Contains(answer, "outcome-unknown")
					if !again && !strings.HasPrefix(answers[name], "2") {
						answers[name] = answer
					}
					mu.Unlock()
					if again {
						time.Sleep(10 * time.Millisecond)
						queue <- name
					}
				default:
					return
				}
			}
		})
	}
	consumers.Wait()
	service.judge(t, answers)
}

// answerTo is an answer as text.
func answerTo(response *http.Response, err error) string {
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %s", response.StatusCode, body)
}
