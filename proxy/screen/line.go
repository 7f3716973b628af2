package screen

import (
	"bytes"
	"encoding/binary"
)

// requestLineRest is room for all of a request line but its target.
const requestLineRest = 64

// readRequestLine takes "METHOD target HTTP/1.1".
func (s *Screen) readRequestLine(text []byte) *Refusal {
	if len(text) == 0 { // what clients of old sent behind a body (RFC 9112, section 2.2)
		if s.empty {
			return malformed("empty lines stand where a request is expected")
		}
		s.empty = true
		return nil
	}
	method, rest, _ := bytes.Cut(text, []byte(" "))
	target, version, ok := bytes.Cut(rest, []byte(" "))
	switch {
	case !token[text[0]]:
		return notHTTP(text[0])
	case !isToken(method):
		return malformed("the request's method is no word")
	case !ok:
		return malformed("the request line lacks its version")
	}
	if len(version) != len("HTTP/1.1") || string(version[:7]) != "HTTP/1." || version[7]&^1 != '0' {
		return malformed("the request's version is neither HTTP/1.1 nor HTTP/1.0")
	}
	s.version = version[7]
	switch {
	case len(target) == 0:
		return malformed("the request line has no target, or one space too many")
	case len(target) > s.limits.Load().URI:
		return s.longURI()
	case bytes.EqualFold(method, []byte("CONNECT")), bytes.EqualFold(method, []byte("TRACE")):
		return &Refusal{Method, "CONNECT and TRACE are for other kinds of proxy"}
	}
	for _, c := range target {
		if c <= ' ' || c == 0x7f || c == '#' {
			return malformed("the request target holds the byte 0x%02x; encode it", c)
		}
	}
	if target[0] != '/' {
		return s.readAbsolute(method, target)
	}
	s.state = fieldLine
	return nil
}

// readAbsolute takes a target that is no path: http://host/path, or the asterisk.
func (s *Screen) readAbsolute(method, target []byte) *Refusal {
	if string(target) == "*" && string(method) == "OPTIONS" {
		s.state = fieldLine
		return nil
	}
	scheme, rest, ok := bytes.Cut(target, []byte("://"))
	if !ok || !bytes.EqualFold(scheme, []byte("http")) && !bytes.EqualFold(scheme, []byte("https")) {
		return malformed("the request target is neither a path nor an http URL")
	}
	if end := bytes.IndexAny(rest, "/?"); end >= 0 {
		rest = rest[:end]
	}
	if !isHost(rest) {
		return malformed("the request target names no host")
	}
	s.authority = bytes.Clone(rest)
	s.state = fieldLine
	return nil
}

// readField takes "Name: value", in the head or behind a body.
func (s *Screen) readField(text []byte) *Refusal {
	if text[0] == ' ' || text[0] == '\t' {
		return malformed("a header line is folded")
	}
	colon := 0
	for colon < len(text) && token[text[colon]] {
		colon++
	}
	if colon == 0 || colon == len(text) || text[colon] != ':' {
		return malformed("a header line does not begin with a name and a colon")
	}
	name, value := text[:colon], text[colon+1:]
	if at := control(value); at >= 0 {
		return malformed("a header's value holds the byte 0x%02x", value[at])
	}
	field := fieldOf(name)
	switch {
	case field == other:
		return nil
	case s.state == trailerLine:
		return malformed("a field behind the body belongs before it")
	case bytes.IndexByte(name, '_') >= 0: // to CGI and what came of it the two are one
		return malformed("a header has an underscore in place of a hyphen, and some servers would take it for the other")
	}
	return s.readKnown(field, trim(value))
}

// field is one of those that frame or route a request, or decide how its body is read.
type field uint8

const (
	other field = iota
	host
	expect
	upgrade
	connection
	contentType
	contentLength
	transferEncoding
)

func fieldOf(name []byte) field {
	switch len(name) {
	case 4:
		return ifLike(name, "host", host)
	case 6:
		return ifLike(name, "expect", expect)
	case 7:
		return ifLike(name, "upgrade", upgrade)
	case 10:
		return ifLike(name, "connection", connection)
	case 12:
		return ifLike(name, "content-type", contentType)
	case 14:
		return ifLike(name, "content-length", contentLength)
	case 17:
		return ifLike(name, "transfer-encoding", transferEncoding)
	}
	return other
}

// ifLike returns f if name is want, which is in lower case, when an underscore is a
// hyphen.
func ifLike(name []byte, want string, f field) field {
	for i, c := range name {
		switch {
		case 'A' <= c && c <= 'Z':
			c |= 0x20
		case c == '_':
			c = '-'
		}
		if c != want[i] {
			return other
		}
	}
	return f
}

func (s *Screen) readKnown(f field, value []byte) *Refusal {
	switch f {
	case host:
		return s.readHost(value)
	case expect:
		if !bytes.EqualFold(value, []byte("100-continue")) {
			return &Refusal{Expectation, "the request expects something else than 100-continue"}
		}
	case upgrade: // an offer of HTTP/2 is one that may be ignored, and is
		s.upgrades = s.upgrades || !bytes.EqualFold(value, []byte("h2c"))
	case contentType:
		if s.typed {
			return malformed("the request has Content-Type twice")
		}
		s.typed = true
	case contentLength:
		return s.readLength(value)
	case transferEncoding:
		return s.readCoding(value)
	}
	return nil
}

func (s *Screen) readHost(value []byte) *Refusal {
	switch {
	case s.host:
		return malformed("the request has more than one Host field")
	case !isHost(value):
		return malformed("the Host field is not a host with an optional port")
	case s.authority != nil && !bytes.EqualFold(s.authority, value):
		return malformed("the request target names another host than the Host field")
	}
	s.host = true
	return nil
}

// lengthDigits is below what fits into 63 bits.
const lengthDigits = 18

func (s *Screen) readLength(value []byte) *Refusal {
	if s.sized {
		return malformed("the request has Content-Length twice")
	}
	if len(value) == 0 || len(value) > lengthDigits {
		return malformed("Content-Length is no number of bytes")
	}
	for _, c := range value {
		if c < '0' || c > '9' {
			return malformed("Content-Length is no number of bytes")
		}
		s.length = s.length*10 + int64(c-'0')
	}
	s.sized = true
	return nil
}

func (s *Screen) readCoding(value []byte) *Refusal {
	switch {
	case s.chunked:
		return malformed("the request has Transfer-Encoding twice")
	case !bytes.EqualFold(value, []byte("chunked")):
		return &Refusal{Coding, "only the transfer coding chunked is understood, and once"}
	}
	s.chunked = true
	return nil
}

// isHost reports whether text is a host and perhaps a port, both as a browser would
// send them. That is less than RFC 3986 allows: no user, and no comma, which would
// make a list of it.
func isHost(text []byte) bool {
	var end int
	if len(text) > 0 && text[0] == '[' {
		if end = bytes.IndexByte(text, ']') + 1; end < len("[::]") {
			return false
		}
		for _, c := range text[1 : end-1] {
			if hex[c] < 0 && c != ':' && c != '.' {
				return false
			}
		}
	} else {
		for end < len(text) && hostByte[text[end]] {
			end++
		}
	}
	if end == 0 || end == len(text) {
		return end > 0
	}
	port := text[end:]
	if port[0] != ':' || len(port) > len(":65535") {
		return false
	}
	for _, c := range port[1:] {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

func notHTTP(first byte) *Refusal {
	if first == 0x16 {
		return malformed("this is TLS, and the port is for HTTP")
	}
	return malformed("this is not HTTP: a request does not begin with the byte 0x%02x", first)
}

// trim takes spaces and tabs from both ends.
func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

func isToken(b []byte) bool {
	for _, c := range b {
		if !token[c] {
			return false
		}
	}
	return len(b) > 0
}

// control returns where the first control byte is that is no tab, or -1. It looks at
// eight bytes at once, of which none is below 0x20 or 0x7f in nearly all values.
func control(b []byte) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	i := 0
	for ; i+8 <= len(b); i += 8 {
		word := binary.LittleEndian.Uint64(b[i:])
		deleted := word ^ 0x7f*ones
		if ((word-0x20*ones)&^word|(deleted-ones)&^deleted)&highs != 0 {
			break
		}
	}
	for ; i < len(b); i++ {
		if c := b[i]; c < 0x20 && c != '\t' || c == 0x7f {
			return i
		}
	}
	return -1
}

// Sets of bytes.
var (
	token    = set("!#$%&'*+-.^_`|~")
	hostByte = set("-._~!$&'()*+;=%")
	hex      = digits()
)

// set is letters, digits and more.
func set(more string) (s [256]bool) {
	for _, c := range []byte("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" + more) {
		s[c] = true
	}
	return s
}

// digits has the value of each hexadecimal digit, and -1 for other bytes.
func digits() (d [256]int8) {
	for c := range d {
		d[c] = -1
	}
	for i, c := range []byte("0123456789abcdef") {
		d[c] = int8(i)
		d[bytes.ToUpper([]byte{c})[0]] = int8(i)
	}
	return d
}
