package loadtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/valyala/fasthttp/fasthttputil"
)

// do sends one request with net/http, a client that isn't ours.
func do(t *testing.T, method, url, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(answer)
}

// Mutants killed: Lanekeeper-Key preferred for Key; the ticket header misspelt.
func TestWitnessRecordsWhatNamesARequest(t *testing.T) {
	history := NewHistory(NewClock(), 0)
	url := startWitness(t, WitnessConfig{Name: "w1"}, history)

	response, answer := do(t, "POST", url+"/orders/7", "x", "Witness-Key", "order:7", "Witness-Client", "c", "Witness-Seq", "12",
		"Lanekeeper-Key", "order:7%20", "Lanekeeper-Ticket", p1t1, "Lanekeeper-Fence", "5")
	if response.StatusCode != 200 || answer != `{"client":"c","key":"order:7","seq":12,"n":1}` ||
		response.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%d %s %v", response.StatusCode, answer, response.Header)
	}
	_, answer = do(t, "GET", url+"/", "", "Lanekeeper-Key", "order:8")
	if answer != `{"client":"","key":"order:8","seq":0,"n":2}` {
		t.Errorf("got %s", answer)
	}
	_, answer = do(t, "PUT", url+"/", "hello", "Witness-Echo", "1", "Content-Type", "text/x")
	if answer != "hello" {
		t.Errorf("echo: got %q", answer)
	}

	got := history.Evidence().Executions
	want := []Execution{
		{Key: "order:7", LaneKey: "order:7%20", Ticket: p1t1, Fence: "5", Client: "c", Seq: 12, Method: "POST", Witness: "w1"},
		{Key: "order:8", LaneKey: "order:8", Method: "GET", Witness: "w1"},
		{Method: "PUT", Witness: "w1"},
	}
	if len(got) != len(want) {
		t.Fatalf("got %+v", got)
	}
	for i, e := range got {
		if !(0 < e.Start && e.Start < e.End) {
			t.Errorf("%d: times %+v", i, e)
		}
		if e.Start, e.End = 0, 0; e != want[i] {
			t.Errorf("%d: got %+v, want %+v", i, e, want[i])
		}
	}
}

// A resource that looks at fences executes nothing below the highest of a key, and
// says so; each key has its own, and replicas share them.
// Mutants killed: fences compared as float64; an equal one refused; the last in
// place of the highest remembered (by a refused one too); one fence for all keys;
// looked at without the option; a refusal counted as an execution, or as a full
// history; forgotten by the NDJSON; a highest one that Reset leaves; no fence read
// as 0; what is no fence executed.
func TestWitnessRefusesLowerFences(t *testing.T) {
	history := NewHistory(NewClock(), 0)
	fenced := startWitness(t, WitnessConfig{Fenced: true}, history)
	replica := startWitness(t, WitnessConfig{Fenced: true}, history)
	plain := startWitness(t, WitnessConfig{}, history)
	for i, c := range []struct {
		url, key, fence string
		status          int
	}{
		{fenced, "k", "9007199254740993", 200}, // 2^53 + 1
		{replica, "k", "9007199254740992", 409},
		{fenced, "k", "9007199254740993", 200},
		{fenced, "k", "9007199254740994", 200},
		{fenced, "k", "9", 409},
		{replica, "k", "9007199254740993", 409},
		{fenced, "k", "9223372036854775807", 200},
		{fenced, "k", "9223372036854775806", 409},
		{fenced, "other", "1", 200},
		{fenced, "other", "0", 409},
		{fenced, "k", "", 200},
		{fenced, "", "5", 200},
		{fenced, "", "4", 200},
		{fenced, "k", "9223372036854775808", 400},
		{plain, "k", "1", 200},
		{plain, "k", "one", 200},
	} {
		response, answer := do(t, "POST", c.url+"/", "", "Witness-Key", c.key, "Lanekeeper-Fence", c.fence)
		if response.StatusCode != c.status || (c.status != 200) != strings.Contains(answer, `"executed":"no"`) {
			t.Errorf("%d %+v: %d %s", i, c, response.StatusCode, answer)
		}
	}
	if history.Len() != 10 || history.LowerFences() != 5 || history.Refused() != 0 {
		t.Errorf("%d executions, %d refused for their fences, %d otherwise", history.Len(), history.LowerFences(), history.Refused())
	}
	response, answer := do(t, "GET", fenced+"/.witness/history", "")
	evidence, err := ReadHistory(strings.NewReader(answer), 0)
	if err != nil || len(evidence.Executions) != 10 || evidence.LowerFences != 5 || evidence.Refused != 0 ||
		response.Header.Get("Witness-Lower-Fences") != "5" || history.Evidence().LowerFences != 5 {
		t.Errorf("history: %+v, %v, %v", evidence, err, response.Header)
	}
	history.Reset()
	if response, _ := do(t, "POST", fenced+"/", "", "Witness-Key", "k", "Lanekeeper-Fence", "1"); response.StatusCode != 200 || history.LowerFences() != 0 {
		t.Errorf("after reset: %d, %d refused", response.StatusCode, history.LowerFences())
	}
	if _, answer := do(t, "GET", fenced+"/.witness/history", ""); strings.Contains(answer, "lower_fences") {
		t.Errorf("a history in which nothing was refused: %s", answer)
	}
}

func TestWitnessEndpoints(t *testing.T) {
	history := NewHistory(NewClock(), 1)
	url := startWitness(t, WitnessConfig{}, history)
	if response, answer := do(t, "GET", url+"/healthz", ""); response.StatusCode != 200 || answer != "ok\n" {
		t.Errorf("healthz: %d %q", response.StatusCode, answer)
	}
	if response, _ := do(t, "GET", url+"/.witness/reset", ""); response.StatusCode != 405 || response.Header.Get("Allow") != "POST" {
		t.Errorf("GET reset: %d %v", response.StatusCode, response.Header)
	}
	for _, bad := range [][2]string{{"Witness-Seq", "0"}, {"Witness-Seq", "x"}, {"Witness-Key", strings.Repeat("k", fieldBytesMax+1)}} {
		if response, answer := do(t, "POST", url+"/", "", bad[0], bad[1]); response.StatusCode != 400 || !strings.Contains(answer, `"executed":"no"`) {
			t.Errorf("%.20v: %d %s", bad, response.StatusCode, answer)
		}
	}
	if history.Len() != 0 {
		t.Fatalf("%d executions too early", history.Len())
	}

	// Full: nothing more is executed, and both the header and the last line say so.
	do(t, "POST", url+"/", "", "Witness-Key", "k")
	if response, answer := do(t, "POST", url+"/", "", "Witness-Key", "k"); response.StatusCode != 507 || !strings.Contains(answer, `"executed":"no"`) {
		t.Errorf("full: %d %s", response.StatusCode, answer)
	}
	response, answer := do(t, "GET", url+"/.witness/history", "")
	evidence, err := ReadHistory(strings.NewReader(answer), 0)
	if err != nil || len(evidence.Executions) != 1 || evidence.Refused != 1 {
		t.Errorf("history: %+v, %v", evidence, err)
	}
	if response.Header.Get("Witness-Records") != "1" || response.Header.Get("Witness-Refused") != "1" {
		t.Errorf("headers %v", response.Header)
	}
	if response, answer := do(t, "POST", url+"/.witness/reset", ""); response.StatusCode != 200 || answer != `{"dropped":1,"running":0}`+"\n" {
		t.Errorf("reset: %d %s", response.StatusCode, answer)
	}
	if response, _ := do(t, "POST", url+"/", "", "Witness-Delay", "61s"); response.StatusCode != 400 {
		t.Errorf("delay of 61s: %d", response.StatusCode)
	}
}

// The service time decides when an execution ends, in virtual time exactly.
// Mutants killed: end taken before the delay; jitter ignored; slow share of the rest.
func TestWitnessServiceTime(t *testing.T) {
	run := func(config WitnessConfig, seqs int) (times []time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			history := NewHistory(NewClock(), 0)
			w, err := NewWitness(config, history)
			if err != nil {
				t.Fatal(err)
			}
			ln := fasthttputil.NewInmemoryListener()
			if err := w.Start(ln); err != nil {
				t.Fatal(err)
			}
			result, err := Traffic{
				Targets: []string{"http://witness"}, Dial: func(context.Context, string) (net.Conn, error) { return ln.Dial() },
				Mode: Closed, Connections: 1, Requests: seqs, Client: "c", Clock: history.Clock(), Timeout: time.Hour, Duration: 100 * time.Hour,
			}.Run(t.Context())
			if err != nil || result.OK != seqs {
				t.Fatalf("%+v, %v", result, err)
			}
			stop(t, w)
			for _, e := range history.Evidence().Executions {
				times = append(times, time.Duration(e.End-e.Start).Round(time.Microsecond))
			}
		})
		return times
	}
	for _, took := range run(WitnessConfig{Delay: time.Minute}, 3) {
		if took != time.Minute {
			t.Errorf("took %s, want 1m", took)
		}
	}
	config := WitnessConfig{Delay: time.Second, Jitter: time.Second, SlowShare: 0.2, SlowDelay: time.Minute, Seed: 7}
	times := run(config, 400)
	slow, distinct := 0, make(map[time.Duration]bool)
	for _, took := range times {
		distinct[took] = true
		if took >= time.Minute {
			took -= time.Minute
			slow++
		}
		if took < time.Second || took >= 2*time.Second {
			t.Errorf("took %s, want [1s, 2s)", took)
		}
	}
	if slow < 50 || slow > 110 || len(distinct) < 390 {
		t.Errorf("%d of 400 slow, want about 80; %d distinct times", slow, len(distinct))
	}
	if again := run(config, 400); fmt.Sprint(again) != fmt.Sprint(times) {
		t.Error("the same seed gave other times")
	}
	config.Seed++
	if other := run(config, 400); fmt.Sprint(other) == fmt.Sprint(times) {
		t.Error("another seed gave the same times")
	}
}

// The same request takes the same time wherever it arrives, so that runs with
// and without a proxy compare; unnumbered ones differ by their place.
// Mutant killed: the place in the history drawn from for all.
func TestServiceTimeBelongsToTheRequest(t *testing.T) {
	w, _ := NewWitness(WitnessConfig{Jitter: time.Second, Seed: 1}, nil)
	at := func(key, client string, seq int64, n int) time.Duration {
		delay, err := w.delay(nil, []byte(key), []byte(client), seq, n)
		if err != nil {
			t.Fatal(err)
		}
		return delay
	}
	if a, b := at("k", "c", 1, 1), at("k", "c", 1, 99); a != b {
		t.Errorf("the same request: %s, %s", a, b)
	}
	base := at("k", "c", 1, 1)
	for name, other := range map[string]time.Duration{
		"seq": at("k", "c", 2, 1), "key": at("l", "c", 1, 1), "client": at("k", "d", 1, 1), "split": at("kc", "", 1, 1), "no seq": at("k", "c", 0, 1),
	} {
		if other == base {
			t.Errorf("another %s: also %s", name, other)
		}
	}
	if at("k", "", 0, 1) == at("k", "", 0, 2) {
		t.Error("unnumbered requests all take the same time")
	}
}

// An upstream without a proxy overlaps; the checker must see it here, or the
// whole chain is blind.
func TestWitnessSeesOverlap(t *testing.T) {
	history := NewHistory(NewClock(), 0)
	url := startWitness(t, WitnessConfig{}, history)
	var work sync.WaitGroup
	for range 2 {
		work.Go(func() { do(t, "POST", url+"/", "", "Witness-Key", "k", "Witness-Delay", "200ms") })
	}
	work.Wait()
	if report := Check(history.Evidence(), Rules{}); report.Count(Overlap) != 1 || report.OK() {
		t.Error(report)
	}
}

func TestWitnessConfigIsChecked(t *testing.T) {
	for _, bad := range []WitnessConfig{{Delay: -1}, {Jitter: -1}, {SlowDelay: -1}, {SlowShare: -0.1}, {SlowShare: 1.1}} {
		if _, err := NewWitness(bad, nil); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
}

func TestStopBeforeStartAndTwice(t *testing.T) {
	w, _ := NewWitness(WitnessConfig{}, NewHistory(NewClock(), 0))
	stop(t, w)
	stop(t, w)
	ln := listen(t)
	if err := w.Start(ln); !errors.Is(err, errStopped) {
		t.Errorf("start after stop: %v", err)
	}
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener was left open: %v", err)
	}

	w, _ = NewWitness(WitnessConfig{}, NewHistory(NewClock(), 0))
	start(t, w) // its cleanup stops a third time
	if err := w.Start(listen(t)); !errors.Is(err, errStarted) {
		t.Errorf("second start: %v", err)
	}
	stop(t, w)
	stop(t, w)
}

// A connection that is idle, or never sent a byte, must not hold Stop up; one
// with a request running must be answered.
// Mutants killed: no read deadline in stop; connections killed at once; no
// Connection: close on the last answer; the interrupted one answered 400.
func TestStopAnswersWhatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		history := NewHistory(NewClock(), 0)
		w, _ := NewWitness(WitnessConfig{Delay: time.Second}, history)
		ln := fasthttputil.NewInmemoryListener()
		if err := w.Start(ln); err != nil {
			t.Fatal(err)
		}
		silent, err := ln.Dial()
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
		busy, _ := ln.Dial()
		defer busy.Close()
		io.WriteString(busy, "POST / HTTP/1.1\r\nHost: w\r\nContent-Length: 0\r\n\r\n")
		synctest.Wait()

		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := w.Stop(ctx); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("stop took %s, want 1s", took)
		}
		if answer, _ := io.ReadAll(silent); len(answer) > 0 {
			t.Errorf("unasked: %q", answer)
		}
		answer, _ := io.ReadAll(busy)
		if !strings.HasPrefix(string(answer), "HTTP/1.1 200") || !strings.Contains(string(answer), "Connection: close") {
			t.Errorf("got %q", answer)
		}
	})
}

// Mutant killed: record.end stored also when the wait was cut.
func TestStopCutsWhatOutlivesItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		history := NewHistory(NewClock(), 0)
		w, _ := NewWitness(WitnessConfig{Delay: time.Hour}, history)
		ln := fasthttputil.NewInmemoryListener()
		if err := w.Start(ln); err != nil {
			t.Fatal(err)
		}
		busy, _ := ln.Dial()
		defer busy.Close()
		io.WriteString(busy, "POST / HTTP/1.1\r\nHost: w\r\nContent-Length: 0\r\n\r\n")
		synctest.Wait()

		why := errors.New("no patience")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, why)
		defer cancel()
		if err := w.Stop(ctx); !errors.Is(err, why) {
			t.Errorf("got %v", err)
		}
		stop(t, w)
		if e := history.Evidence().Executions; len(e) != 1 || e[0].End != 0 {
			t.Errorf("got %+v, want one unfinished execution", e)
		}
	})
}

func BenchmarkWitness(b *testing.B) {
	w, _ := NewWitness(WitnessConfig{}, NewHistory(NewClock(), 10_000_000))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	w.Start(ln)
	defer w.Stop(b.Context())
	result, err := Traffic{Targets: []string{"http://" + ln.Addr().String()}, Mode: Closed, Keys: 1000, Requests: min(b.N, RequestsMax), Connections: 32}.Run(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(result.Throughput(), "req/s")
}
