package loadtest

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

func startPlain(t *testing.T, config PlainConfig) (url string) {
	t.Helper()
	config.IdleTimeout = 20 * time.Millisecond // fasthttp's cleaner goroutine sleeps that long
	plain, err := NewPlain(config)
	if err != nil {
		t.Fatal(err)
	}
	return start(t, plain)
}

// Hop-by-hop headers stay on their hop, both ways; the rest passes.
// Mutants killed: Connection-named headers kept; response headers not cleaned.
func TestPlainPassesMessages(t *testing.T) {
	var seen string
	ln := listen(t)
	stopServer := answering(t, ln, func(ctx *fasthttp.RequestCtx) {
		seen = string(ctx.Request.Header.Header())
		ctx.Response.Header.Set("Connection", "X-Hop")
		ctx.Response.Header.Set("X-Hop", "1")
		ctx.Response.Header.Set("Keep-Alive", "timeout=5")
		ctx.Response.Header.Set("X-End", "1")
		ctx.SetStatusCode(201)
		ctx.SetBody(ctx.Request.Body())
	})
	defer stopServer()
	url := startPlain(t, PlainConfig{Targets: []string{"http://" + ln.Addr().String()}})

	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "POST /a/../b?x=%2F HTTP/1.1\r\nHost: shop.example\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\nTE: trailers\r\n"+
		"X-Forwarded-For: 192.0.2.1\r\nX-Order-Id: 7\r\nContent-Length: 5\r\n\r\nhello")
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	head, body, _ := strings.Cut(string(answer), "\r\n\r\n")
	if !strings.HasPrefix(head, "HTTP/1.1 201") || body != "hello" || !strings.Contains(head, "X-End: 1") {
		t.Errorf("got %s", answer)
	}
	for _, hop := range []string{"X-Hop", "Keep-Alive"} {
		if strings.Contains(head, hop) {
			t.Errorf("answer has %s: %s", hop, head)
		}
	}
	for _, want := range []string{"POST /a/../b?x=%2F HTTP/1.1\r\n", "Host: shop.example\r\n", "X-Order-Id: 7\r\n", "X-Forwarded-For: 192.0.2.1, 127.0.0.1\r\n"} {
		if !strings.Contains(seen, want) {
			t.Errorf("no %q in\n%s", want, seen)
		}
	}
	for _, hop := range []string{"X-Mine", "Te:", "Connection"} {
		if strings.Contains(seen, hop) {
			t.Errorf("request has %s:\n%s", hop, seen)
		}
	}
}

// Mutant killed: MaxIdemponentCallAttempts left at its default of 5.
func TestPlainSendsOnce(t *testing.T) {
	ln := listen(t)
	var received atomic.Int64
	done := make(chan struct{})
	go func() { // ends when ln is closed
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			received.Add(1)
			io.ReadFull(conn, make([]byte, 10))
			conn.Close()
		}
	}()
	url := startPlain(t, PlainConfig{Targets: []string{"http://" + ln.Addr().String()}})
	if response, _ := do(t, http.MethodPut, url, ""); response.StatusCode != 502 || received.Load() != 1 {
		t.Errorf("status %d, received %d times", response.StatusCode, received.Load())
	}
	ln.Close()
	<-done
	if response, _ := do(t, http.MethodGet, url, ""); response.StatusCode != 502 {
		t.Errorf("nobody there: status %d", response.StatusCode)
	}
}

func TestPlainTimeout(t *testing.T) {
	release := make(chan struct{})
	ln := listen(t)
	stopServer := answering(t, ln, func(*fasthttp.RequestCtx) { <-release })
	url := startPlain(t, PlainConfig{Targets: []string{"http://" + ln.Addr().String()}, Timeout: 20 * time.Millisecond})
	if response, _ := do(t, http.MethodGet, url, ""); response.StatusCode != 504 {
		t.Errorf("status %d, want 504", response.StatusCode)
	}
	close(release)
	stopServer()
}

func TestPlainTargets(t *testing.T) {
	for target, want := range map[string]string{
		"http://a": "a:80", "http://a:81": "a:81", "http://[::1]": "[::1]:80", "http://a:81/": "a:81",
		"": "", "a:80": "", "https://a": "", "http://": "", "http://a:b": "",
	} {
		if got, err := targetAddress(target); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v", target, got, err)
		}
	}
	if _, err := NewPlain(PlainConfig{}); err == nil {
		t.Error("a proxy without a target was made")
	}
	plain, err := NewPlain(PlainConfig{Targets: []string{"http://a"}})
	if err != nil {
		t.Fatal(err)
	}
	stop(t, plain)
	if err := plain.Start(listen(t)); err == nil {
		t.Error("started after stop")
	}
}

func BenchmarkPlain(b *testing.B) {
	w, _ := NewWitness(WitnessConfig{}, NewHistory(NewClock(), 10_000_000))
	upstream, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	w.Start(upstream)
	plain, _ := NewPlain(PlainConfig{Targets: []string{"http://" + upstream.Addr().String()}})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	plain.Start(ln)
	defer w.Stop(context.Background())
	defer plain.Stop(context.Background())
	result, err := Traffic{Targets: []string{"http://" + ln.Addr().String()}, Mode: Closed, Keys: 1000, Requests: min(b.N, RequestsMax), Connections: 32}.Run(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(result.Throughput(), "req/s")
}
