// Package screen reads the requests of a connection strictly, before anybody
// else does, and lets only those bytes pass that can be understood in one way.
//
// A Screen sees every byte that a client sends, in order and in pieces of any
// size. It holds lines against RFC 9112 with nothing of its leniency, so that
// where a message ends does not depend on who reads it: lines end in CRLF, a
// body has one length or is chunked, and never both. What it refuses does not
// pass, nor does anything behind it; what has passed by then is never a whole
// head, as its last line is held back.
//
// It promises nothing about what fields mean beyond framing and routing. It
// starts no goroutine, allocates nothing for a head that comes in one piece, and
// is not safe for concurrent use.
package screen

import (
	"bytes"
	"fmt"
	"sync/atomic"
)

// Limits bound a request's head.
type Limits struct {
	Head   int // bytes of the request line and the fields, and of a trailer section
	URI    int // bytes of the request target
	Fields int // lines
}

// Reason is the kind of a refusal.
type Reason uint8

// The reasons.
const (
	Malformed   Reason = iota // it is not HTTP/1.1, or could be read in two ways
	Method                    // it asks for another kind of proxy
	Coding                    // a transfer coding but chunked
	Expectation               // it expects something but 100-continue
	LongURI
	LargeHead
)

// Refusal says what is wrong with a request.
type Refusal struct {
	Reason Reason
	Detail string
}

func (r *Refusal) Error() string { return r.Detail }

// Screen is of one connection. The zero Screen refuses every head for its size.
type Screen struct {
	limits  *atomic.Pointer[Limits]
	refusal *Refusal

	state  state
	after  state  // a body, or the data of a chunk
	rest   int64  // bytes of that which are still to come
	line   []byte // the beginning of a line whose end has not come yet
	unseen bool   // bytes have passed as a tunnel's
	size   int    // bytes of the head's complete lines
	fields int

	request
}

// request is what a head has said so far.
type request struct {
	authority []byte // of a target in absolute form; nil: in another one
	length    int64  // of the body
	version   byte   // of HTTP/1: '0' or '1'
	empty     bool   // an empty line stood before the request
	host      bool
	sized     bool // it has Content-Length
	chunked   bool
	typed     bool // it has Content-Type
	upgrades  bool
}

type state uint8

const (
	requestLine state = iota // also between two requests
	fieldLine
	data      // of a body or chunk
	chunkLine // its size
	chunkEnd
	trailerLine
	tunnel // another protocol, if the service grants it; until then a client is silent
)

// Init makes s ready for a connection's first byte. What limits points to may change at any
// time.
func (s *Screen) Init(limits *atomic.Pointer[Limits]) { *s = Screen{limits: limits} }

// Refusal is what is wrong with the request at which s has stopped, or nil.
func (s *Screen) Refusal() *Refusal { return s.refusal }

// Resume tells s that requests follow, if the last one had asked for another protocol.
// It reports false if something has passed since, unseen, that nobody may take for a
// request.
func (s *Screen) Resume() bool {
	if s.state == tunnel && !s.unseen {
		s.state = requestLine
	}
	return s.state != tunnel
}

// Open tells s that what follows is no request: all of it passes.
func (s *Screen) Open() { s.state, s.unseen = tunnel, true }

// Pass returns how many of the next bytes may be seen by whoever reads requests. If
// not all, there is a Refusal, and nothing passes any more.
//
// At least one byte of a refused request passes, so that its reader knows of it.
func (s *Screen) Pass(b []byte) int {
	if s.refusal != nil {
		return 0
	}
	for at := 0; at < len(b); {
		switch s.state {
		case tunnel:
			s.unseen = true
			return len(b)
		case data:
			n := min(s.rest, int64(len(b)-at))
			at += int(n)
			if s.rest -= n; s.rest == 0 {
				s.enter(s.after)
			}
		default:
			n := bytes.IndexByte(b[at:], '\n') + 1
			if n == 0 {
				return s.keep(b, at)
			}
			line, begins := b[at:at+n], len(s.line) == 0
			if !begins {
				s.line = append(s.line, line...)
				line = s.line
			}
			if s.refusal = s.read(line); s.refusal != nil {
				return s.stop(at, begins)
			}
			s.forgetLine()
			at += n
		}
	}
	return len(b)
}

// stop returns how much passes before a line that is refused.
func (s *Screen) stop(at int, begins bool) int {
	s.line = nil
	if s.state == requestLine && begins {
		at++
	}
	return at
}

// keptLine is the largest buffer for a line that outlives it.
const keptLine = 256

func (s *Screen) forgetLine() {
	if s.line = s.line[:0]; cap(s.line) > keptLine {
		s.line = nil
	}
}

// keep remembers a line's beginning at the end of b, b[at:], unless it is too long or
// plainly not HTTP: nobody waits for the end of such a line.
func (s *Screen) keep(b []byte, at int) int {
	part, begins := b[at:], len(s.line) == 0
	s.line = append(s.line, part...)
	switch first := s.line[0]; {
	case s.state == requestLine && first != '\r' && !token[first]:
		s.refusal = notHTTP(first)
	case s.state == requestLine && len(s.line) > s.limits.Load().URI+requestLineRest:
		s.refusal = s.longURI()
	case s.state == chunkLine && len(s.line) > chunkLineMax, s.state == chunkEnd && len(s.line) > 1:
		s.refusal = malformed("the body's chunks are broken")
	case s.state != chunkLine && s.size+len(s.line) > s.limits.Load().Head:
		s.refusal = s.largeHead()
	default:
		return len(b)
	}
	return s.stop(at, begins)
}

// read takes one line, with its end.
func (s *Screen) read(line []byte) *Refusal {
	end := len(line) - 2
	if end < 0 || line[end] != '\r' {
		return malformed("a line ends in a bare line feed")
	}
	text := line[:end]
	switch s.state {
	case chunkLine:
		return s.readChunkLine(text)
	case chunkEnd:
		if len(text) > 0 {
			return malformed("a chunk of the body is longer than it says")
		}
		s.enter(chunkLine)
		return nil
	}
	if s.size += len(line); s.size > s.limits.Load().Head {
		return s.largeHead()
	}
	switch {
	case s.state == requestLine && len(line)-1 > s.limits.Load().URI+requestLineRest:
		return s.longURI()
	case s.state == requestLine:
		return s.readRequestLine(text)
	case len(text) > 0:
		if s.fields++; s.fields > s.limits.Load().Fields {
			return &Refusal{LargeHead, fmt.Sprintf("the request has more than %d header lines", s.limits.Load().Fields)}
		}
		return s.readField(text)
	case s.state == trailerLine:
		s.finish()
		return nil
	default:
		return s.endHead()
	}
}

// enter changes the state, and what is counted anew in it.
func (s *Screen) enter(next state) {
	if s.state = next; next == requestLine {
		s.finish()
	}
}

// finish makes s ready for the next request, or for what is none.
func (s *Screen) finish() {
	s.state = requestLine
	if s.upgrades {
		s.state = tunnel
	}
	s.request, s.size, s.fields = request{}, 0, 0
}

// endHead finds where the request ends.
func (s *Screen) endHead() *Refusal {
	switch {
	case !s.host && (s.version == '1' || s.authority != nil):
		return malformed("the request has no Host field")
	case s.chunked && s.version == '0':
		return malformed("HTTP/1.0 has no Transfer-Encoding")
	case s.chunked && s.sized:
		return malformed("the request has both Content-Length and Transfer-Encoding")
	case s.chunked:
		s.size, s.fields = 0, 0 // from now on those of the trailer section
		s.enter(chunkLine)
	case s.length > 0:
		s.rest, s.after = s.length, requestLine
		s.enter(data)
	default:
		s.finish()
	}
	return nil
}

// The longest size is below what fits into 63 bits; the longest line leaves room for
// an extension, which is passed over.
const (
	chunkSizeMax = 15
	chunkLineMax = 256
)

// readChunkLine takes the size of a chunk.
func (s *Screen) readChunkLine(text []byte) *Refusal {
	digits, size := 0, int64(0)
	for digits < len(text) && hex[text[digits]] >= 0 {
		size = size<<4 | int64(hex[text[digits]])
		if digits++; digits > chunkSizeMax {
			return malformed("the size of a chunk of the body has too many digits")
		}
	}
	extension := text[digits:]
	switch {
	case digits == 0, len(extension) > 0 && extension[0] != ';':
		return malformed("the size of a chunk of the body is no number")
	case len(text) >= chunkLineMax: // as keep counts: with the carriage return
		return malformed("a chunk of the body has too long an extension")
	case control(extension) >= 0:
		return malformed("a chunk of the body has a control byte in its extension")
	}
	if size == 0 {
		s.enter(trailerLine)
		return nil
	}
	s.rest, s.after = size, chunkEnd
	s.enter(data)
	return nil
}

func (s *Screen) longURI() *Refusal {
	return &Refusal{LongURI, fmt.Sprintf("the request target has more than %d bytes", s.limits.Load().URI)}
}

func (s *Screen) largeHead() *Refusal {
	return &Refusal{LargeHead, fmt.Sprintf("the header section has more than %d bytes", s.limits.Load().Head)}
}

func malformed(format string, args ...any) *Refusal {
	return &Refusal{Malformed, fmt.Sprintf(format, args...)}
}
