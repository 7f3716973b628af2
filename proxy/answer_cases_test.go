package proxy_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"lanekeeper/proxy"
)

// answerCase is what an upstream sends byte by byte, and what has to become of it.
type answerCase struct {
	name     string
	request  string // its method, and in place of the rest "HEAD", say; "" is a GET
	response string // "|" in it: a packet ends here
	then     string // what the upstream does after it: "closes", or nothing
	want     string // all bytes at the client, or the slug of a problem
	again    bool   // the connection to the upstream is used again
}

const (
	via     = "Via: 1.1 lanekeeper\r\n"
	gotOK   = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + via + "\r\nok"
	chunks  = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	tail    = "\r\nContent-Length: 2\r\n\r\nok" // of a response whose head goes on
	invalid = "upstream-invalid"
	reset   = "upstream-reset"
	timeout = "upstream-timeout"
)

// In the order of RFC 9112: the status line, fields, the body's length, chunks; then what RFC 9110
// says of statuses and methods, and what has been used to split, hide or swap responses.
var answerCases = []answerCase{
	// RFC 9112, sections 2.2, 2.3 and 4.
	{name: "plain", response: fine, want: gotOK, again: true},
	{name: "no reason, and no space", response: "HTTP/1.1 200" + tail, want: gotOK, again: true},
	{name: "no reason", response: "HTTP/1.1 200 " + tail, want: gotOK, again: true},
	{name: "a reason with tabs and Latin", response: "HTTP/1.1 200 \ttr\xe8s bien" + tail, want: "HTTP/1.1 200 \ttr\xe8s bien\r\nContent-Length: 2\r\n" + via + "\r\nok", again: true},
	{name: "a status of three digits that means nothing", response: "HTTP/1.1 999 Odd" + tail, want: "HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n" + via + "\r\nok", again: true},
	{name: "an empty line first", response: "\r\n" + fine, want: invalid},
	{name: "a space first", response: " " + fine, want: invalid},
	{name: "HTTP/0.9", response: "<html>hello</html>", then: "closes", want: invalid},
	{name: "HTTP/1.2", response: "HTTP/1.2 200 OK" + tail, want: invalid},
	{name: "HTTP/2 in words", response: "HTTP/2 200 OK" + tail, want: invalid},
	{name: "HTTP/2.0 in words", response: "HTTP/2.0 200 OK" + tail, want: invalid},
	{name: "HTTP/2 in frames", response: "\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x80\x00\x04\x00\x01\x00\x00\x00\x05\x00\xff\xff\xff", want: invalid},
	{name: "HTTP/10.1", response: "HTTP/10.1 200 OK" + tail, want: invalid},
	{name: "small letters", response: "http/1.1 200 OK" + tail, want: invalid},
	{name: "another protocol", response: "RTSP/1.0 200 OK" + tail, want: invalid},
	{name: "Shoutcast", response: "ICY 200 OK" + tail, want: invalid},
	{name: "an echo", response: "GET /orders/7 HTTP/1.1\r\nHost: a\r\n\r\n", want: invalid},
	{name: "a TLS alert", response: "\x15\x03\x03\x00\x02\x02\x46", want: invalid},
	{name: "a greeting without an end", response: "220 mail", want: invalid},
	{name: "two spaces", response: "HTTP/1.1  200 OK" + tail, want: invalid},
	{name: "a tab for the space", response: "HTTP/1.1\t200 OK" + tail, want: invalid},
	{name: "a status of two digits", response: "HTTP/1.1 20 OK" + tail, want: invalid},
	{name: "a status of four digits", response: "HTTP/1.1 2000 OK" + tail, want: invalid},
	{name: "a status below 100", response: "HTTP/1.1 099 OK" + tail, want: invalid},
	{name: "a status of zeros", response: "HTTP/1.1 000 OK" + tail, want: invalid},
	{name: "a status with a letter", response: "HTTP/1.1 2x0 OK" + tail, want: invalid},
	{name: "a status with a sign", response: "HTTP/1.1 +20 OK" + tail, want: invalid},
	{name: "a NUL in the reason", response: "HTTP/1.1 200 O\x00K" + tail, want: invalid},
	{name: "a CR in the reason", response: "HTTP/1.1 200 OK\rSet-Cookie: a=1" + tail, want: invalid},
	{name: "an escape in the reason", response: "HTTP/1.1 200 \x1b[31mOK" + tail, want: invalid},
	{name: "the status line ends in LF", response: "HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok", want: invalid},

	// RFC 9112, section 5; RFC 9110, section 5.5.
	{name: "LF alone", response: "HTTP/1.1 200 OK\r\nX-A: 1\nX-B: 2" + tail, want: invalid},
	{name: "LF alone, before a coding", response: "HTTP/1.1 200 OK\r\nX-A: 1\nTransfer-Encoding: chunked" + tail, want: invalid},
	{name: "LF alone, everywhere", response: "HTTP/1.1 200 OK\nContent-Length: 2\n\nok", want: invalid},
	{name: "LF alone, at the end", response: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\nok\r\n\r\n", want: invalid},
	{name: "CR alone", response: "HTTP/1.1 200 OK\r\nX-A: 1\rX-B: 2" + tail, want: invalid},
	{name: "CR CR LF", response: "HTTP/1.1 200 OK\r\nX-A: 1\r" + tail, want: invalid},
	{name: "folded", response: "HTTP/1.1 200 OK\r\nX-A: 1\r\n 2" + tail, want: invalid},
	{name: "folded by a tab", response: "HTTP/1.1 200 OK\r\nX-A: 1\r\n\t2" + tail, want: invalid},
	{name: "folded around a coding", response: "HTTP/1.1 200 OK\r\nX-A: 1\r\n Transfer-Encoding: chunked" + tail, want: invalid},
	{name: "folded at once", response: "HTTP/1.1 200 OK\r\n X-A: 1" + tail, want: invalid},
	{name: "a folded length", response: "HTTP/1.1 200 OK\r\nContent-Length:\r\n 2\r\n\r\nok", want: invalid},
	{name: "a NUL in a value", response: "HTTP/1.1 200 OK\r\nX-A: 1\x002" + tail, want: invalid},
	{name: "a control byte in a value", response: "HTTP/1.1 200 OK\r\nX-A: 1\x072" + tail, want: invalid},
	{name: "DEL in a value", response: "HTTP/1.1 200 OK\r\nX-A: 1\x7f2" + tail, want: invalid},
	{name: "a NUL in a name", response: "HTTP/1.1 200 OK\r\nX\x00A: 1" + tail, want: invalid},
	{name: "a space in a name", response: "HTTP/1.1 200 OK\r\nX A: 1" + tail, want: invalid},
	{name: "a bracket in a name", response: "HTTP/1.1 200 OK\r\nX(A): 1" + tail, want: invalid},
	{name: "Latin in a name", response: "HTTP/1.1 200 OK\r\nX-\xe8: 1" + tail, want: invalid},
	{name: "a tab before the colon", response: "HTTP/1.1 200 OK\r\nX-A\t: 1" + tail, want: invalid},
	{name: "no name", response: "HTTP/1.1 200 OK\r\n: 1" + tail, want: invalid},
	{name: "no name but a space", response: "HTTP/1.1 200 OK\r\nX-B: 1\r\n : 1" + tail, want: invalid},
	{name: "no colon", response: "HTTP/1.1 200 OK\r\nwhat" + tail, want: invalid},
	{name: "a space before the colon", response: "HTTP/1.1 200 OK\r\nX-A : 1" + tail, want: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: 1\r\n" + via + "\r\nok", again: true},
	{name: "Latin in a value", response: "HTTP/1.1 200 OK\r\nX-A: caf\xe9" + tail, want: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: caf\xe9\r\n" + via + "\r\nok", again: true},
	{name: "space around a value", response: "HTTP/1.1 200 OK\r\nX-A:\t a\tb \t" + tail, want: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: a\tb\r\n" + via + "\r\nok", again: true},
	{name: "lines of one name", response: "HTTP/1.1 200 OK\r\nVary: a\r\nX-A: 1\r\nVary: b" + tail, want: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nVary: a\r\nX-A: 1\r\nVary: b\r\n" + via + "\r\nok", again: true},
	{name: "two codings of the content", response: "HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nX-A: 1\r\ncontent-encoding :  gzip" + tail, want: "HTTP/1.1 200 OK\r\nContent-Encoding: br, gzip\r\nContent-Length: 2\r\nX-A: 1\r\n" + via + "\r\nok", again: true},
	{name: "cookies", response: "HTTP/1.1 200 OK\r\nSet-Cookie: b=\"2\"; Path=/\r\nset-cookie: a=1, x\r\nSet-Cookie: b=3" + tail, want: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + via + "Set-Cookie: b=\"2\"; Path=/\r\nSet-Cookie: a=1, x\r\nSet-Cookie: b=3\r\n\r\nok", again: true},
	{name: "a head that is too large", response: "HTTP/1.1 200 OK\r\nX-A: " + strings.Repeat("x", 20_000) + tail, want: invalid},
	{name: "fields without end", response: "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-A: 1\r\n", 20_000), want: invalid},
	{name: "in the middle of a name", response: "HTTP/1.1 200 OK\r\nX-", then: "closes", want: reset},
	{name: "before the empty line", response: "HTTP/1.1 200 OK\r\nX-A: 1\r\n", then: "closes", want: reset},
	{name: "byte by byte", response: strings.Join(strings.Split(fine, ""), "|"), want: gotOK, again: true},

	// RFC 9112, section 6.
	{name: "two lengths", response: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc", want: invalid},
	{name: "two equal lengths", response: "HTTP/1.1 200 OK\r\nContent-Length: 2" + tail, want: invalid},
	{name: "a list of lengths", response: "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", want: invalid},
	{name: "a length and a comma", response: "HTTP/1.1 200 OK\r\nContent-Length: 2,\r\n\r\nok", want: invalid},
	{name: "an empty length", response: "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nok", want: invalid},
	{name: "a length with a plus", response: "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", want: invalid},
	{name: "a negative length", response: "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok", want: invalid},
	{name: "a length in hex", response: "HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nok", want: invalid},
	{name: "a length with a point", response: "HTTP/1.1 200 OK\r\nContent-Length: 2.0\r\n\r\nok", want: invalid},
	{name: "a length with an exponent", response: "HTTP/1.1 200 OK\r\nContent-Length: 2e0\r\n\r\nok", want: invalid},
	{name: "a length in two words", response: "HTTP/1.1 200 OK\r\nContent-Length: 2 0\r\n\r\nok", want: invalid},
	{name: "a length with a parameter", response: "HTTP/1.1 200 OK\r\nContent-Length: 2;q=1\r\n\r\nok", want: invalid},
	{name: "a length beyond all numbers", response: "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551618\r\n\r\nok", want: invalid},
	{name: "a length in other digits", response: "HTTP/1.1 200 OK\r\nContent-Length: \xd9\xa2\r\n\r\nok", want: invalid},
	{name: "a length before a length with a space", response: "HTTP/1.1 200 OK\r\nContent-Length : 5" + tail, want: invalid},
	{name: "a length with zeros", response: "HTTP/1.1 200 OK\r\nContent-Length: 0002\r\n\r\nok", want: gotOK, again: true},
	{name: "length and coding", response: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", want: invalid},
	{name: "coding and length", response: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n", want: invalid},
	{name: "coding with a space, and length", response: "HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n", want: invalid},
	{name: "no coding, and length", response: "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity" + tail, want: invalid},
	{name: "an empty coding", response: "HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n\r\n2\r\nok\r\n0\r\n\r\n", want: invalid},
	{name: "two lines of codings", response: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", want: invalid},
	{name: "chunked twice", response: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", want: invalid},
	{name: "gzip, chunked", response: "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", want: invalid},
	{name: "chunked, identity", response: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity\r\n\r\n2\r\nok\r\n0\r\n\r\n", want: invalid},
	{name: "gzip", response: "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok", then: "closes", want: invalid},
	{name: "xchunked", response: "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", want: invalid},
	{name: "chunked with a parameter", response: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked;q=1\r\n\r\n2\r\nok\r\n0\r\n\r\n", want: invalid},
	{name: "chunked behind a control byte", response: "HTTP/1.1 200 OK\r\nTransfer-Encoding: \x0bchunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", want: invalid},
	{name: "chunked in quotes", response: "HTTP/1.1 200 OK\r\nTransfer-Encoding: \"chunked\"\r\n\r\n2\r\nok\r\n0\r\n\r\n", want: invalid},
	{name: "a coding in HTTP/1.0", response: "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", then: "closes", want: invalid},
	{name: "a coding and a length in HTTP/1.0", response: "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked" + tail, want: invalid},
	{name: "CHUNKED", response: "HTTP/1.1 200 OK\r\nTRANSFER-ENCODING:\t CHUNKED\r\n\r\n2\r\nok\r\n0\r\n\r\n", want: gotOK, again: true},
	{name: "an underscore is no hyphen", response: "HTTP/1.1 200 OK\r\nTransfer_encoding: chunked" + tail, want: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer_encoding: chunked\r\n" + via + "\r\nok", again: true},
	{name: "until it closes", response: "HTTP/1.1 200 OK\r\n\r\nok", then: "closes", want: gotOK},
	{name: "HTTP/1.0 until it closes", response: "HTTP/1.0 200 OK\r\n\r\nok", then: "closes", want: gotOK},
	{name: "HTTP/1.0 with a length", response: "HTTP/1.0 200 OK" + tail, want: gotOK},
	{name: "HTTP/1.0 that lives on", response: "HTTP/1.0 200 OK\r\nConnection: Keep-Alive" + tail, want: gotOK, again: true},
	{name: "less than its length", response: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok", then: "closes", want: reset},
	{name: "less than its length, and silence", response: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok", want: timeout},
	{name: "more than its length", response: fine + "!", want: gotOK},
	{name: "more than its length, later", response: fine + "|!", want: gotOK},
	{name: "another response", response: fine + "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", want: gotOK},
	{name: "another response, later", response: fine + "|HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", want: gotOK},
	{name: "an empty line behind it", response: fine + "\r\n", want: gotOK},

	// RFC 9112, section 7.
	{name: "chunks", response: chunks + "1\r\no\r\n|1\r\nk\r\n0\r\n\r\n", want: gotOK, again: true},
	{name: "a chunk's extensions", response: chunks + "2;a=b;c=\"d;e\"\r\nok\r\n0;last\r\n\r\n", want: gotOK, again: true},
	{name: "a size with zeros", response: chunks + "0002\r\nok\r\n000\r\n\r\n", want: gotOK, again: true},
	{name: "a size in letters", response: chunks + "A\r\n0123456789\r\nb\r\n0123456789-\r\n0\r\n\r\n", want: "HTTP/1.1 200 OK\r\nContent-Length: 21\r\n" + via + "\r\n01234567890123456789-", again: true},
	{name: "trailers", response: "HTTP/1.1 200 OK\r\nTrailer: X-T\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\nContent-Md5: x\r\n\r\n", want: gotOK, again: true},
	{name: "a size in C", response: chunks + "0x2\r\nok\r\n0\r\n\r\n", want: invalid},
	{name: "a size with a plus", response: chunks + "+2\r\nok\r\n0\r\n\r\n", want: invalid},
	{name: "a negative size", response: chunks + "-2\r\nok\r\n0\r\n\r\n", want: invalid},
	{name: "a size behind a space", response: chunks + " 2\r\nok\r\n0\r\n\r\n", want: invalid},
	{name: "a size with an underscore", response: chunks + "0_2\r\nok\r\n0\r\n\r\n", want: invalid},
	{name: "a size beyond all numbers", response: chunks + "10000000000000002\r\nok\r\n0\r\n\r\n", want: invalid},
	{name: "no size", response: chunks + "\r\nok\r\n0\r\n\r\n", want: invalid},
	{name: "a size that ends in LF", response: chunks + "2\nok\r\n0\r\n\r\n", want: invalid},
	{name: "a size that ends in CR", response: chunks + "2\rok\r\n0\r\n\r\n", want: invalid},
	{name: "LF in an extension", response: chunks + "2;a\nok\r\n0\r\n\r\n", want: invalid},
	{name: "CR in an extension", response: chunks + "2;a\rb\r\nok\r\n0\r\n\r\n", want: invalid},
	{name: "a chunk that ends in LF", response: chunks + "2\r\nok\n0\r\n\r\n", want: invalid},
	{name: "a chunk that does not end", response: chunks + "2\r\nokay\r\n0\r\n\r\n", want: invalid},
	{name: "a trailer that is none", response: chunks + "2\r\nok\r\n0\r\nwhat\r\n\r\n", want: invalid},
	{name: "no trailers, and no end", response: chunks + "2\r\nok\r\n0\r\n", then: "closes", want: reset},
	{name: "an end without a last chunk", response: chunks + "2\r\nok\r\n", then: "closes", want: reset},
	{name: "an end in a size", response: chunks + "2", then: "closes", want: reset},
	{name: "a response behind the last chunk", response: chunks + "2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", want: gotOK},

	// RFC 9110: connections, statuses, methods.
	{name: "close", response: "HTTP/1.1 200 OK\r\nConnection: close" + tail, want: gotOK},
	{name: "close among others", response: "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-A\r\nX-A: 1\r\nX-B: 2\r\nConnection: Close" + tail, want: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-B: 2\r\n" + via + "\r\nok"},
	{name: "what frames is nominated", response: "HTTP/1.1 200 OK\r\nConnection: Content-Length, Transfer-Encoding, Via" + tail, want: gotOK, again: true},
	{name: "fields of this hop", response: "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=9\r\nProxy-Connection: close\r\nProxy-Authenticate: Basic\r\nTE: x\r\nTrailer: X\r\nUpgrade: h2c\r\nDate: Mon, 01 Jan 2001 00:00:00 GMT\r\nServer: s" + tail,
		want: "HTTP/1.1 200 OK\r\nServer: s\r\nContent-Length: 2\r\nDate: Mon, 01 Jan 2001 00:00:00 GMT\r\n" + via + "\r\nok", again: true},
	{name: "to HEAD", request: "HEAD", response: "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", want: "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n" + via + "\r\n", again: true},
	{name: "to HEAD, with a body", request: "HEAD", response: fine, want: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + via + "\r\n"},
	{name: "to HEAD, with a body that is a response", request: "HEAD", response: "HTTP/1.1 200 OK\r\nContent-Length: 44\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", want: "HTTP/1.1 200 OK\r\nContent-Length: 44\r\n" + via + "\r\n"},
	{name: "to HEAD, chunked", request: "HEAD", response: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", want: "HTTP/1.1 200 OK\r\n" + via + "\r\n", again: true},
	{name: "to HEAD, framed twice", request: "HEAD", response: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n", want: invalid},
	{name: "to HEAD, two lengths", request: "HEAD", response: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 2\r\n\r\n", want: invalid},
	{name: "204", response: "HTTP/1.1 204 No Content\r\n\r\n", want: "HTTP/1.1 204 No Content\r\n" + via + "\r\n", again: true},
	{name: "204 with a length of none", response: "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", want: "HTTP/1.1 204 No Content\r\n" + via + "\r\n", again: true},
	{name: "204 with a length", response: "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n", want: "HTTP/1.1 204 No Content\r\n" + via + "\r\n"},
	{name: "204 with a body, later", response: "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n|ok", want: "HTTP/1.1 204 No Content\r\n" + via + "\r\n"},
	{name: "204 in chunks", response: "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n|0\r\n\r\n", want: "HTTP/1.1 204 No Content\r\n" + via + "\r\n"},
	{name: "205", response: "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", want: "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n" + via + "\r\n", again: true},
	{name: "206", request: "GET\r\nRange: bytes=0-1\r\nIf-Range: \"x\"", response: "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-1/10\r\nETag: \"x\"\r\nAccept-Ranges: bytes" + tail,
		want: "HTTP/1.1 206 Partial Content\r\nContent-Length: 2\r\nContent-Range: bytes 0-1/10\r\nEtag: \"x\"\r\nAccept-Ranges: bytes\r\n" + via + "\r\nok", again: true},
	{name: "206 in parts", request: "GET\r\nRange: bytes=0-1,4-5", response: "HTTP/1.1 206 Partial Content\r\nContent-Type: multipart/byteranges; boundary=B\r\nContent-Length: 9\r\n\r\n--B\r\n\r\nok",
		want: "HTTP/1.1 206 Partial Content\r\nContent-Type: multipart/byteranges; boundary=B\r\nContent-Length: 9\r\n" + via + "\r\n--B\r\n\r\nok", again: true},
	{name: "304", request: "GET\r\nIf-None-Match: \"x\", W/\"y\"\r\nIf-Modified-Since: Mon, 01 Jan 2001 00:00:00 GMT", response: "HTTP/1.1 304 Not Modified\r\nETag: W/\"y\"\r\nCache-Control: max-age=1\r\nExpires: 0\r\nVary: *\r\nLast-Modified: Mon, 01 Jan 2001 00:00:00 GMT\r\nContent-Length: 9\r\n\r\n",
		want: "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nEtag: W/\"y\"\r\nCache-Control: max-age=1\r\nExpires: 0\r\nVary: *\r\nLast-Modified: Mon, 01 Jan 2001 00:00:00 GMT\r\n" + via + "\r\n", again: true},
	{name: "304 with a body", response: "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nok", want: "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n" + via + "\r\n"},
	{name: "412", request: "GET\r\nIf-Match: \"x\"", response: "HTTP/1.1 412 Precondition Failed\r\nETag: \"y\"" + tail, want: "HTTP/1.1 412 Precondition Failed\r\nContent-Length: 2\r\nEtag: \"y\"\r\n" + via + "\r\nok", again: true},
	{name: "416", request: "GET\r\nRange: bytes=99-", response: "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */10" + tail, want: "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 2\r\nContent-Range: bytes */10\r\n" + via + "\r\nok", again: true},
	{name: "101", response: switched, want: invalid},
	{name: "101 behind 103", response: "HTTP/1.1 103 Early Hints\r\n\r\n" + switched, want: invalid},
	{name: "an interim response that is none", response: "HTTP/1.1 103 Early Hints\r\nX A: 1\r\n\r\n" + fine, want: invalid},
	{name: "an interim response and an end", response: "HTTP/1.1 103 Early Hints\r\n\r\n", then: "closes", want: reset},
	{name: "an interim response with a length", response: "HTTP/1.1 103 Early Hints\r\nContent-Length: 2\r\n\r\nok" + fine, want: invalid},
	{name: "100 interim responses", response: strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 100) + fine, want: gotOK, again: true},
	{name: "101 interim responses", response: strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 101) + fine, want: invalid},

	// Splitting, by a service that puts what it was given into a field.
	{name: "a cookie behind LF", response: "HTTP/1.1 302 Found\r\nLocation: /a\nSet-Cookie: evil=1" + tail, want: invalid},
	{name: "a cookie behind CR", response: "HTTP/1.1 302 Found\r\nLocation: /a\rSet-Cookie: evil=1" + tail, want: invalid},
	{name: "a response behind two LF", response: "HTTP/1.1 302 Found\r\nLocation: /a\n\nHTTP/1.1 200 OK" + tail, want: invalid},
	{name: "a response behind CR LF CR LF", response: "HTTP/1.1 302 Found\r\nLocation: /a\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK" + tail, want: "HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /a\r\n" + via + "\r\n"},
	{name: "encoded line ends", response: "HTTP/1.1 302 Found\r\nLocation: /%0d%0aSet-Cookie:%20a=1" + tail, want: "HTTP/1.1 302 Found\r\nContent-Length: 2\r\nLocation: /%0d%0aSet-Cookie:%20a=1\r\n" + via + "\r\nok", again: true},
	{name: "letters whose low bytes are line ends", response: "HTTP/1.1 302 Found\r\nLocation: /\xe5\x98\x8d\xe5\x98\x8a" + tail, want: "HTTP/1.1 302 Found\r\nContent-Length: 2\r\nLocation: /\xe5\x98\x8d\xe5\x98\x8a\r\n" + via + "\r\nok", again: true},
}

// play answers a request as the case says.
func (c *answerCase) play(x *exchange) {
	for packet := range strings.SplitSeq(c.response, "|") {
		x.write("%s", packet)
		time.Sleep(time.Millisecond) // virtual: it is read alone
	}
	if c.then == "closes" {
		x.conn.Close()
	}
}

// send sends the case's request, and returns its method.
func (c *answerCase) send(to *client, path string) string {
	method, fields, _ := strings.Cut(c.request, "\r\n")
	if method == "" {
		method = "GET"
	}
	if fields != "" {
		fields += "\r\n"
	}
	fmt.Fprintf(to.conn, "%s %s HTTP/1.1\r\nHost: a\r\n%s\r\n", method, path, fields)
	return method
}

// Whatever an upstream says reaches a client as one response in one framing, or as a problem, and
// nothing of it as the answer to another request: at the key's owner, over the hop, and outside
// any lane. The connection to the upstream is used again exactly where nothing can be left on
// it, and the client's unless a body broke off.
//
// Mutants: heads are not looked at (fasthttp's reading alone), or one of the looks is missing: at
// the status line, its reason, line ends, folds, spaces in names, both framings, HTTP/1.0 with a
// coding; 204 with a length leaves its connection in use; the last Content-Encoding replaces the
// others; interim responses are not counted.
func TestEveryAnswerIsOneAnswerOrAProblem(t *testing.T) {
	for _, where := range []struct {
		name, path string
		node       int
	}{{"owner", "/orders/7", 0}, {"hop", "/orders/7", 1}, {"bypass", "/else", 0}} {
		bubble(t, where.name, func(t *testing.T) {
			cases := make(map[string]*answerCase)
			p := startPair(t, lane(func(l *proxy.Lane) {
				l.UpstreamTimeout, l.HoldFor, l.QueueTimeout = time.Second, time.Second, time.Minute
			}), func(x *exchange) { cases[x.path()].play(x) })
			at := p.nodes[where.node]
			for i := range answerCases {
				c := &answerCases[i]
				path := fmt.Sprintf("%s/%d", where.path, i)
				cases[path] = c
				client := at.open()
				m, err := client.final(c.send(client, path))
				streams := where.name == "bypass" && m != nil && m.framing == "chunked"
				switch {
				case streams && errors.Is(err, io.ErrUnexpectedEOF) && (c.want == invalid || c.want == reset): // its beginning was good
					client = at.open()
				case err != nil:
					t.Errorf("%s: %v", c.name, err)
					continue
				case streams:
					if _, body, _ := strings.Cut(c.want, "\r\n\r\n"); m.body != body {
						t.Errorf("%s: %q %q, want %q", c.name, m.head, m.body, c.want)
					}
				case !c.is(m):
					t.Errorf("%s: %q %q, want %q", c.name, m.head, m.body, c.want)
				}
				time.Sleep(100 * time.Millisecond) // virtual: what comes later has come
				before := p.connections()
				again := where.path + "/canary"
				io.WriteString(client.conn, "GET "+again+" HTTP/1.1\r\nHost: a\r\n\r\n")
				if m, err := client.final("GET"); err != nil || m.body != "canary for "+again {
					t.Fatalf("%s: the next request: %+v, %v", c.name, m, err)
				}
				if used := p.connections() == before; used != c.again {
					t.Errorf("%s: the upstream's connection is used again: %v, want %v", c.name, used, c.again)
				}
			}
			if got := p.service.executed(); got != len(answerCases) {
				t.Errorf("%d requests ran, want %d", got, len(answerCases))
			}
		})
	}
}

// is reports whether m is what the client should have got.
func (c *answerCase) is(m *message) bool {
	if strings.HasPrefix(c.want, "HTTP/1.1 ") {
		return m.head+m.body == c.want
	}
	var problem struct {
		Type, Executed string
		Status         int
	}
	status := 502
	if c.want == timeout {
		status = 504
	}
	if m.status() != status || m.get("Content-Type") != "application/problem+json" {
		return false
	}
	if c.request == "HEAD" {
		return m.body == "" && strings.Contains(m.get("Proxy-Status"), c.want)
	}
	return json.Unmarshal([]byte(m.body), &problem) == nil && problem.Type == "urn:lanekeeper:problem:"+c.want && problem.Executed == "unknown" && problem.Status == status
}
