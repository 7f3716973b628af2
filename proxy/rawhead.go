package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"github.com/valyala/fasthttp"
)

// fasthttp reads a response's head leniently: it takes line ends without CR, folded lines,
// names with spaces in them, a length beside chunks, and any version. Each is something that
// the next reader of the same bytes may see otherwise, which is what response splitting is made
// of. So a head is looked at as it came before fasthttp takes it. What fasthttp refuses itself is
// left to it: control bytes in values, names that are none, lengths that are none or two, and
// other codings.

var (
	errNotHTTP   = errors.New("its answer does not begin as one of HTTP/1.1 does")
	errStatus    = errors.New("its status line is none")
	errLineEnd   = errors.New("a line of its head does not end with CR and LF")
	errFolded    = errors.New("a line of its head is folded")
	errName      = errors.New("a line of its head has no name, or one with a space in it")
	errFramed    = errors.New("its head has both Content-Length and Transfer-Encoding")
	errOldCoding = errors.New("its head has Transfer-Encoding, which HTTP/1.0 does not know")
	errLargeHead = errors.New("its head is larger than server.max_header")
)

// nextHead reads a head, which may be an interim response's, into h.
func nextHead(r *bufio.Reader, h *fasthttp.ResponseHeader) error {
	var raw rawHead
	head, err := raw.await(r)
	if err != nil {
		return err
	}
	if raw.encodings < 2 {
		return h.Read(r)
	}
	all := raw.contentEncoding(head) // fasthttp keeps the last line alone, and with it nobody could decode the body
	err = h.Read(r)
	h.SetContentEncodingBytes(all)
	return err
}

// rawHead is what is known of a head as far as it has come.
type rawHead struct {
	at        int  // the beginning of the first line that has not come whole
	old       bool // HTTP/1.0
	length    bool // Content-Length is there
	coding    bool // Transfer-Encoding is
	encodings int  // lines of Content-Encoding
}

// await returns when a head has come whole. It stays in r. One that is wrong is not waited for
// any further.
func (h *rawHead) await(r *bufio.Reader) ([]byte, error) {
	for n := 1; ; n = r.Buffered() + 1 {
		_, err := r.Peek(n)
		head, _ := r.Peek(r.Buffered())
		whole, wrong := h.look(head)
		switch {
		case wrong != nil:
			return nil, wrong
		case whole:
			return head[:h.at], nil
		case errors.Is(err, bufio.ErrBufferFull):
			return nil, errLargeHead
		case errors.Is(err, io.EOF) && len(head) > 0:
			return nil, io.ErrUnexpectedEOF
		case err != nil:
			return nil, err
		}
	}
}

// look goes on with the lines that have come since.
func (h *rawHead) look(head []byte) (whole bool, _ error) {
	const version = "HTTP/1."
	if h.at == 0 && string(head[:min(len(head), len(version))]) != version[:min(len(head), len(version))] {
		return false, errNotHTTP
	}
	for {
		rest := head[h.at:]
		end := bytes.IndexByte(rest, '\n')
		switch {
		case end < 0:
			return false, nil
		case end == 0 || rest[end-1] != '\r':
			return false, errLineEnd
		}
		line, first := rest[:end-1], h.at == 0
		h.at += end + 1
		var err error
		switch {
		case first:
			err = h.statusLine(line)
		case len(line) == 0:
			return true, h.framing()
		default:
			err = h.field(line)
		}
		if err != nil {
			return false, err
		}
	}
}

// statusLine looks at "HTTP/1.x NNN reason". The space before a reason that is missing may be
// missing, too, as it often is.
func (h *rawHead) statusLine(line []byte) error {
	const least = len("HTTP/1.1 200")
	if len(line) < least || line[7] != '0' && line[7] != '1' || line[8] != ' ' || line[9] == '0' || len(line) > least && line[least] != ' ' {
		return errStatus
	}
	h.old = line[7] == '0'
	for _, digit := range line[9:least] {
		if digit < '0' || digit > '9' {
			return errStatus
		}
	}
	for _, char := range line[least:] {
		if char < ' ' && char != '\t' || char == 0x7f {
			return errStatus
		}
	}
	return nil
}

// field looks at "Name: value". Space between the name and its colon is what a proxy has to
// remove from a response (RFC 9112, section 5.1), and fasthttp does.
func (h *rawHead) field(line []byte) error {
	if line[0] == ' ' || line[0] == '\t' {
		return errFolded
	}
	name, _, _ := bytes.Cut(line, []byte(":"))
	name = bytes.TrimRight(name, " ")
	if len(name) == 0 || bytes.IndexByte(name, ' ') >= 0 {
		return errName
	}
	switch {
	case isField(name, "Content-Length"):
		h.length = true
	case isField(name, "Transfer-Encoding"):
		h.coding = true
	case isField(name, "Content-Encoding"):
		h.encodings++
	}
	return nil
}

func isField(name []byte, field string) bool {
	return len(name) == len(field) && name[0]|0x20 == field[0]|0x20 && bytes.EqualFold(name, []byte(field))
}

func (h *rawHead) framing() error {
	switch {
	case h.coding && h.old:
		return errOldCoding
	case h.coding && h.length:
		return errFramed
	}
	return nil
}

// contentEncoding is the field's lines in one.
func (h *rawHead) contentEncoding(head []byte) (all []byte) {
	for line := range bytes.SplitSeq(head, []byte("\r\n")) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		if name = bytes.TrimRight(name, " "); len(name) > 0 && isField(name, "Content-Encoding") {
			all = listed(all, bytes.TrimSpace(value))
		}
	}
	return all
}

// listed is a list field's value with one element more.
func listed(list, element []byte) []byte {
	if len(list) > 0 {
		list = append(list, ", "...)
	}
	return append(list, element...)
}
