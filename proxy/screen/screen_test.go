package screen

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/valyala/fasthttp"

	"lanekeeper/proxy/screen/screentest"
)

var limits = Limits{Head: 4 << 10, URI: 1 << 10, Fields: 50}

// passed is what a Screen makes of one connection's bytes.
type passed struct {
	n        int
	requests []int // where each ends
	tunnel   bool
	refusal  *Refusal
}

// screenAll passes b in pieces of a size.
func screenAll(b []byte, size int) (p passed) {
	var s Screen
	s.Init(holding(limits))
	for piece := range slices.Chunk(b, size) {
		n := s.Pass(piece)
		p.n += n
		if s.refusal != nil {
			break
		}
		if size == 1 && (s.state == requestLine || s.state == tunnel) && len(s.line) == 0 && !s.empty {
			p.requests = append(p.requests, p.n)
		}
		if s.state == tunnel {
			p.tunnel = true
			break
		}
	}
	p.refusal = s.refusal
	return p
}

// read is a request as somebody reads it.
type read struct {
	method, target, host, kind, body string
	size                             int
}

func byFasthttp(b []byte) (r read, err error) {
	from := bytes.NewReader(b)
	reader := bufio.NewReaderSize(from, limits.Head)
	var request fasthttp.Request
	if err = request.Header.Read(reader); err == nil {
		err = request.ContinueReadBody(reader, 1<<20, false)
	}
	h := &request.Header
	return read{string(h.Method()), string(h.RequestURI()), string(h.Host()), string(h.ContentType()), string(request.Body()), len(b) - from.Len() - reader.Buffered()}, err
}

func byStandard(b []byte) (read, error) {
	from := bytes.NewReader(b)
	reader := bufio.NewReader(from)
	request, err := http.ReadRequest(reader)
	if err != nil {
		return read{}, err
	}
	body, err := io.ReadAll(request.Body)
	return read{request.Method, request.RequestURI, request.Header.Get("Host") + request.Host, request.Header.Get("Content-Type"), string(body), len(b) - from.Len() - reader.Buffered()}, err
}

// FuzzRequests lets a Screen decide what is a request, and asks fasthttp and net/http,
// which do not know of each other. They must agree about each that passes: what it is,
// and where it ends. What is refused must be none to fasthttp. And it does not matter in
// which pieces the bytes came.
//
// Mutants: the last line of a refused head passes; a line that came in two pieces is
// read from its second.
func FuzzRequests(f *testing.F) {
	for _, c := range screentest.Cases() {
		f.Add([]byte(c.Request))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p := screenAll(b, 1)
		for _, size := range []int{2, 7, 1 << 20} {
			if q := screenAll(b, size); !p.tunnel && (q.n != p.n && q.refusal == nil || (q.refusal == nil) != (p.refusal == nil)) {
				t.Fatalf("in pieces of %d: %d bytes pass, %v; one by one %d, %v", size, q.n, q.refusal, p.n, p.refusal)
			}
		}
		begin := 0
		for _, end := range p.requests {
			compare(t, bytes.TrimPrefix(b[begin:end], []byte("\r\n")))
			begin = end
		}
		if p.tunnel || p.refusal == nil {
			return
		}
		if r, err := byFasthttp(b[begin:p.n]); err == nil {
			t.Fatalf("%q is refused (%v), and read: %+v", b[begin:], p.refusal, r)
		}
	})
}

func compare(t *testing.T, request []byte) {
	theirs, err := byFasthttp(request)
	if err != nil {
		return // it refuses more
	}
	if theirs.size != len(request) {
		t.Fatalf("%q ends after %d bytes, says fasthttp", request, theirs.size)
	}
	standard, err := byStandard(request)
	if err != nil {
		if !strings.Contains(err.Error(), "parse ") { // an URL that cannot be parsed stays as it is
			t.Fatalf("%q: net/http says %v", request, err)
		}
		return
	}
	if strings.EqualFold(standard.host, theirs.host) { // that of an absolute target may be in other letters
		standard.host = theirs.host
	}
	if standard != theirs {
		t.Fatalf("%q\nis %+v to net/http\nand %+v to fasthttp", request, standard, theirs)
	}
}

// Mutant: a copy of the line is made in any case.
func TestAHeadInOnePieceAllocatesNothing(t *testing.T) {
	held := holding(limits)
	request := []byte(strings.Repeat("POST /orders/7 HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nbody", 3))
	if n := testing.AllocsPerRun(100, func() {
		var s Screen
		s.Init(held)
		if s.Pass(request) != len(request) {
			t.Fatal(s.Refusal())
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Mutants: bytes that passed as a tunnel's are forgotten; Resume ends a tunnel that is open.
func TestAfterAnUpgrade(t *testing.T) {
	const upgrade = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: chat\r\n\r\n"
	for _, test := range []struct {
		before, after string
		open          bool
		resumes       bool
	}{
		{upgrade, "GET / HTTP/1.1\n", false, true},
		{upgrade + "x", "anything\n", false, false},
		{upgrade, "anything\n", true, false},
		{"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\n\r\n", "GET / HTTP/1.1\n", false, true},
		{"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: chat\r\nUpgrade: h2c\r\n\r\n", "GET / HTTP/1.1\n", false, true},
	} {
		var s Screen
		s.Init(holding(limits))
		if n := s.Pass([]byte(test.before)); n != len(test.before) {
			t.Fatalf("%q: %d bytes pass", test.before, n)
		}
		if test.open {
			s.Open()
		}
		if got := s.Resume(); got != test.resumes {
			t.Errorf("%q: Resume = %v", test.before, got)
		}
		if s.Pass([]byte(test.after)); (s.Refusal() != nil) != test.resumes {
			t.Errorf("%q, then %q: %v", test.before, test.after, s.Refusal())
		}
	}
}

func BenchmarkPass(b *testing.B) {
	request := []byte("POST /orders/7 HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\nAccept: */*\r\nContent-Type: application/json\r\nContent-Length: 1024\r\n\r\n" + strings.Repeat("x", 1024))
	var s Screen
	s.Init(holding(limits))
	b.SetBytes(int64(len(request)))
	b.ReportAllocs()
	for b.Loop() {
		if s.Pass(request) != len(request) {
			b.Fatal(s.Refusal())
		}
	}
}

func holding(limits Limits) *atomic.Pointer[Limits] {
	p := new(atomic.Pointer[Limits])
	p.Store(&limits)
	return p
}
