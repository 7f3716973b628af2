package loadtest

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

// In a bubble time stands still, so that every reading needs the tie-break.
// Mutants killed: Now without last+1; with a plain store instead of the
// compare-and-swap (a true race: most runs see it, not each).
func TestClockNeverRepeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := NewClock()
		const readers, each = 4, 200_000
		readings := make([]int64, readers*each)
		begin := make(chan struct{})
		var work sync.WaitGroup
		for i := range readers {
			own := readings[i*each : (i+1)*each]
			work.Go(func() {
				<-begin
				for j := range own {
					own[j] = clock.Now()
				}
				if !slices.IsSorted(own) {
					t.Errorf("reader %d saw the clock fall", i)
				}
			})
		}
		close(begin)
		work.Wait()
		slices.Sort(readings)
		if distinct := len(slices.Compact(readings)); distinct != readers*each {
			t.Errorf("%d distinct readings of %d", distinct, readers*each)
		}
	})
}

func record1(t *testing.T, h *History, c call) *record {
	t.Helper()
	r, _, err := h.begin(c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Mutants killed: a field cut at another's place; other bytes left to JSON.
func TestHistoryRoundTrip(t *testing.T) {
	h := NewHistory(NewClock(), 0)
	r := record1(t, h, call{
		key: []byte(`order:"7\`), laneKey: []byte("order:7"), ticket: []byte(p1t1), fence: []byte("8388609"), client: []byte("c<1>"),
		seq: 12, method: "POST", witness: "w1",
	})
	r.end.Store(h.clock.Now())
	record1(t, h, call{key: []byte("a\xffb\n%20"), method: "GET"}) // running

	var b bytes.Buffer
	if err := h.WriteNDJSON(&b); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(b.String(), "\n")
	const head = `{"key":"order:\"7\\","ticket":"` + p1t1 + `","fence":"8388609","client":"c<1>","seq":12,"start_ns":`
	if !strings.HasPrefix(lines[0], head) {
		t.Errorf("got  %s\nwant %s…", lines[0], head)
	}
	evidence, err := ReadHistory(&b, 0)
	if err != nil {
		t.Fatal(err)
	}
	if want := h.Evidence(); !reflect.DeepEqual(evidence, want) {
		t.Errorf("got  %+v\nwant %+v", evidence, want)
	}
	first, second := evidence.Executions[0], evidence.Executions[1]
	if !(0 < first.Start && first.Start < first.End && first.End < second.Start) || second.End != 0 {
		t.Errorf("times %+v %+v", first, second)
	}
	if second.Key != "a%FFb%0A%20" {
		t.Errorf("key %q", second.Key)
	}
}

// The limit at n-1, n and n+1, and the line a cut history ends with.
// Mutants killed: no limit; refused not counted; no last line.
func TestFullHistoryRefusesAndSaysSo(t *testing.T) {
	h := NewHistory(NewClock(), 2)
	for i := range 4 {
		_, n, err := h.begin(call{key: []byte("k"), seq: int64(i + 1)})
		if full := errors.Is(err, ErrHistoryFull); full != (i >= 2) || !full && n != i+1 {
			t.Fatalf("%d: n %d, err %v", i, n, err)
		}
	}
	var b bytes.Buffer
	if err := h.WriteNDJSON(&b); err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(b.String(), "\n"+`{"truncated":true,"refused":2}`+"\n") {
		t.Errorf("got\n%s", b.String())
	}
	evidence, err := ReadHistory(&b, 0)
	if err != nil || len(evidence.Executions) != 2 || evidence.Refused != 2 {
		t.Fatalf("%+v, %v", evidence, err)
	}
	if Check(evidence, Rules{}).OK() {
		t.Error("a cut history passed")
	}
	if dropped, running := h.Reset(); dropped != 2 || running != 2 || h.Len() != 0 || h.Refused() != 0 {
		t.Errorf("reset: dropped %d, running %d, left %d, refused %d", dropped, running, h.Len(), h.Refused())
	}
	record1(t, h, call{key: []byte("k")})
}

// Mutant killed: text not counted.
func TestHistoryBoundsItsBytes(t *testing.T) {
	h := NewHistory(NewClock(), 100)
	long := bytes.Repeat([]byte("x"), fieldBytesMax)
	if _, _, err := h.begin(call{key: append(long, 'x')}); err == nil || errors.Is(err, ErrHistoryFull) {
		t.Errorf("a field of %d bytes: %v", len(long)+1, err)
	}
	for i := range 100 {
		if _, _, err := h.begin(call{key: long}); err != nil {
			if !errors.Is(err, ErrHistoryFull) || i < 10 {
				t.Fatalf("%d: %v", i, err)
			}
			return
		}
	}
	t.Error("100 records of 4 KiB fit into 100 × 512 bytes")
}

func TestHistoryOverManyChunks(t *testing.T) {
	h := NewHistory(NewClock(), 0)
	const n = 2*recordsPerChunk + 1
	for i := range n {
		record1(t, h, call{key: []byte("k"), seq: int64(i + 1)}).end.Store(h.clock.Now())
	}
	evidence := h.Evidence()
	for i, e := range evidence.Executions {
		if e.Seq != int64(i+1) {
			t.Fatalf("%d: %+v", i, e)
		}
	}
	if report := Check(evidence, Rules{}); !report.OK() || report.Executions != n {
		t.Error(report)
	}
}

// Mutants killed: a line without start_ns accepted; a last line without its end accepted.
func TestReadHistoryIsStrict(t *testing.T) {
	const line = `{"key":"k","seq":1,"start_ns":1,"end_ns":2}` + "\n"
	for _, c := range []struct{ name, text, want string }{
		{"no JSON", line + "key,ticket\n", "line 2"},
		{"no execution", line + `{"key":"k"}` + "\n", "line 2: no execution"},
		{"cut off", line + line[:len(line)-1], "line 2: cut off"},
		{"too long", line + strings.Repeat(" ", lineBytesMax+1) + "\n", "line 2: longer"},
		{"too many", strings.Repeat(line, 4), "line 4: history is full"},
		{"another type", `{"key":7,"start_ns":1}` + "\n", "line 1"},
	} {
		if _, err := ReadHistory(strings.NewReader(c.text), 3); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s…", c.name, err, c.want)
		}
	}
	evidence, err := ReadHistory(strings.NewReader("\n"+line+`{"key":"k","start_ns":3,"new_field":[]}`+"\n"), 3)
	if err != nil || len(evidence.Executions) != 2 {
		t.Errorf("got %+v, %v", evidence, err)
	}
}

func BenchmarkHistory(b *testing.B) {
	h := NewHistory(NewClock(), b.N+1_000_000_000)
	c := call{key: []byte("order:7"), laneKey: []byte("order:7"), ticket: []byte(p1t1), client: []byte("load"), seq: 1, method: "POST"}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r, n, _ := h.begin(c)
			r.end.Store(h.clock.Now())
			if n%1_000_000 == 0 {
				h.Reset()
			}
		}
	})
}
