package proxy

import (
	"bytes"
	"strconv"

	"lanekeeper/queue"
)

// fields is what one pass over a request's head finds. Slices alias the head,
// and hold until prepare changes it.
type fields struct {
	connection []byte
	upgrade    []byte
	prefer     []byte
	trace      []byte   // traceparent
	hops       []byte   // Max-Forwards
	upload     []byte   // the length of a hidden body, and the number of the setup that hid it; see headReceived
	refused    bool     // the hidden body is not to be read: there is no room for it; see foresees
	holder     queue.ID // the ticket under which the request was made
	proto      bool     // X-Forwarded-Proto is there
	host       bool     // X-Forwarded-Host is there
	drop       bool     // some field must not reach the upstream
}

func (c *call) readFields() {
	f := &c.fields
	for name, value := range c.ctx.Request.Header.All() {
		switch string(name) {
		case "Connection":
			f.connection, f.drop = joined(f.connection, value), true
		case "Upgrade":
			f.upgrade, f.drop = value, true
		case "Expect":
			f.drop = true
		case "X-Forwarded-For", "Forwarded":
			f.drop = true
		case "X-Forwarded-Proto":
			f.proto, f.drop = true, true
		case "X-Forwarded-Host":
			f.host, f.drop = true, true
		case "Traceparent":
			f.trace = value
		case "Prefer":
			f.prefer = value
		case "Max-Forwards":
			f.hops = joined(f.hops, value)
		case headerTicket:
			f.holder, _ = queue.ParseID(value)
			f.drop = true
		case headerUpload:
			f.upload, f.drop = value, true
		case headerRefused:
			f.refused, f.drop = true, true
		default:
			f.drop = f.drop || hopByHop(name) || reserved(name)
		}
	}
}

// joined is a list field's lines as one.
func joined(list, line []byte) []byte {
	if list == nil {
		return line
	}
	return append(append(bytes.Clone(list), ','), line...)
}

// upgrades reports whether the request wants another protocol. A client's offer
// of HTTP/2 is one that may be ignored, and is.
func (f *fields) upgrades() bool {
	return len(f.upgrade) > 0 && !bytes.EqualFold(f.upgrade, []byte("h2c")) && nominates(f.connection, []byte("Upgrade"))
}

// length is that of the hidden body.
func (f *fields) length() int {
	text, _, _ := bytes.Cut(f.upload, []byte(" "))
	length, err := strconv.Atoi(string(text))
	if err != nil {
		panic("proxy: a hidden body without a length")
	}
	return length
}

// uploads reports whether the request's body is hidden.
func (f *fields) uploads() bool { return f.upload != nil }
