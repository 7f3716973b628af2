package proxy

import (
	"bufio"
	"bytes"
	"testing"

	"github.com/valyala/fasthttp"
)

const usualHead = "HTTP/1.1 200 OK\r\nServer: nginx/1.24.0\r\nDate: Mon, 01 Jan 2001 00:00:00 GMT\r\nContent-Type: application/json; charset=utf-8\r\n" +
	"Content-Length: 11\r\nETag: \"64a7-5f\"\r\nVary: Accept-Encoding\r\nCache-Control: no-store\r\nX-Request-Id: 0190f0a2-7c1e-7d7a-9d4e-000000000001\r\n\r\n"

// To look at a head as it came takes no memory.
func TestToLookAtAHeadTakesNoMemory(t *testing.T) {
	var h fasthttp.ResponseHeader
	in := bytes.NewReader(nil)
	r := bufio.NewReaderSize(in, 4<<10)
	text := []byte(usualHead)
	look := func() {
		in.Reset(text)
		r.Reset(in)
		if err := nextHead(r, &h); err != nil {
			t.Fatal(err)
		}
	}
	look()
	if n := testing.AllocsPerRun(100, look); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkNextHead compares reading a head with fasthttp's reading alone.
func BenchmarkNextHead(b *testing.B) {
	var h fasthttp.ResponseHeader
	in := bytes.NewReader(nil)
	r := bufio.NewReaderSize(in, 4<<10)
	text := []byte(usualHead)
	for name, read := range map[string]func() error{
		"looked at": func() error { return nextHead(r, &h) },
		"alone":     func() error { return h.Read(r) },
	} {
		b.Run(name, func(b *testing.B) {
			for range b.N {
				in.Reset(text)
				r.Reset(in)
				if err := read(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
