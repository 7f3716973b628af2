package proxy

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
)

// The header fields between lanekeeper and its neighbours, in canonical form.
const (
	headerKey      = "Lanekeeper-Key"      // to the upstream: the lane
	headerTicket   = "Lanekeeper-Ticket"   // to the upstream, and back with a re-entrant request
	headerDeadline = "Lanekeeper-Deadline" // to the upstream: when lanekeeper gives up; if strict, not after the lease's end
	headerFence    = "Lanekeeper-Fence"    // to the upstream, if strict and exclusive: rises with each for the key
	headerUpload   = "Lanekeeper-Upload"   // within this process: a body that is not read yet
	headerRefused  = "Lanekeeper-Refused"  // within this process: nor will it be
)

// prepare turns the client's request head into the one for the upstream, less
// the fields that appendHead adds.
func (c *call) prepare() {
	if c.prepared {
		return
	}
	c.prepared = true
	h := &c.ctx.Request.Header
	var nominated []byte
	if c.fields.drop {
		nominated = bytes.Join(h.PeekAll("Connection"), []byte(","))
		dropTrailers(h)
		c.dropFields(h, nominated)
	}
	if !nominates(nominated, []byte("Cookie")) {
		restoreCookies(h)
	}
	c.countHop(h)
	if c.trace != nil && !c.trace.passes {
		h.Del(headerTraceparent)
		h.Del(headerTracestate)
	}
	h.SetNoDefaultContentType(true)
	if h.ContentLength() == chunked {
		// The body has arrived whole, so it has a length; trailers end here.
		h.SetContentLength(len(c.ctx.Request.Body()))
	}
}

// appendHead appends the request's head as the upstream gets it. It is written
// from the parsed fields, never copied raw, but for the target and the cookies,
// which stay byte for byte.
func (c *call) appendHead(b []byte) []byte {
	if c.from != nil {
		b = c.appendForwardedHead(b)
	} else {
		b = c.appendFields(b, c.link.lease.Target.Host)
	}
	if c.mode != bypass {
		b = appendKey(append(b, headerKey+": "...), c.key)
		b = c.id.AppendText(append(b, "\r\n"+headerTicket+": "...))
		b = appendMillis(append(b, "\r\n"+headerDeadline+": "...), c.deadline)
		if c.fence != 0 {
			b = strconv.AppendUint(append(b, "\r\n"+headerFence+": "...), c.fence, 10)
		}
		b = append(b, "\r\n"...)
	}
	return append(b, "\r\n"...)
}

// appendFields appends what of the head the request's ingress knows. host is for
// a request that names none.
func (c *call) appendFields(b []byte, host string) []byte {
	h := &c.ctx.Request.Header
	if !h.IsHTTP11() { // the version is ours
		h.SetProtocol("HTTP/1.1")
		defer h.SetProtocol("HTTP/1.0")
	}
	b = h.AppendBytes(b)
	b = b[:len(b)-len("\r\n")]
	if len(h.Host()) == 0 { // HTTP/1.0 may do without
		b = append(append(append(b, "Host: "...), host...), "\r\n"...)
	}
	b = append(append(append(b, "Via: "...), c.via...), "\r\n"...)
	b = c.appendForwarded(b, h)
	b = c.appendTrace(b)
	if c.protocol != nil {
		b = append(append(append(b, "Connection: Upgrade\r\nUpgrade: "...), c.protocol...), "\r\n"...)
	}
	return b
}

// appendMillis appends a time as RFC 3339 with milliseconds, in UTC. The
// standard library is quick only at the layout without them.
func appendMillis(b []byte, t time.Time) []byte {
	b = t.UTC().AppendFormat(b, time.RFC3339)
	ms := t.Nanosecond() / 1e6
	return append(b[:len(b)-1], '.', byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10), 'Z')
}

// dropFields removes what must not reach the upstream, and keeps what the
// client, if it is trusted, said of those before it.
func (c *call) dropFields(h *fasthttp.RequestHeader, nominated []byte) {
	trusted := c.trusts(c.peer())
	c.fields.proto, c.fields.host = c.fields.proto && trusted, c.fields.host && trusted
	style := c.config.Forwarded
	var drop [][]byte
	for name, value := range h.All() {
		switch string(name) {
		case "X-Forwarded-For":
			switch {
			case trusted && style != ForwardedX && style != ForwardedBoth:
				continue
			case trusted:
				c.forwardedFor = append(append(c.forwardedFor, value...), ", "...)
			}
		case "Forwarded":
			switch {
			case trusted && style != ForwardedRFC && style != ForwardedBoth:
				continue
			case trusted:
				c.forwardedElements = append(append(c.forwardedElements, value...), ", "...)
			}
		case "Expect": // answered by this node
		default:
			if !hopByHop(name) && !ours(name) && (trusted || !forwards(name)) && !nominates(nominated, name) {
				continue
			}
		}
		drop = append(drop, bytes.Clone(name))
	}
	for _, name := range drop {
		h.DelBytes(name)
	}
}

// dropTrailers removes the fields that came behind a body. fasthttp would make
// header fields of them when Trailer goes, past every check.
func dropTrailers(h *fasthttp.RequestHeader) {
	trailers := h.PeekTrailerKeys()
	if len(trailers) == 0 {
		return
	}
	var names [][]byte
	for _, name := range trailers {
		names = append(names, bytes.Clone(name))
	}
	var kept [][2][]byte // fields of these names that stood before the body
	for name, value := range h.All() {
		if slices.ContainsFunc(names, func(trailer []byte) bool { return bytes.Equal(trailer, name) }) {
			kept = append(kept, [2][]byte{bytes.Clone(name), bytes.Clone(value)})
		}
	}
	for _, name := range names {
		h.DelBytes(name)
	}
	h.Del("Trailer")
	for _, field := range kept {
		h.AddBytesKV(field[0], field[1])
	}
}

// restoreCookies puts the client's Cookie lines in the place of fasthttp's
// reading of them, which drops values it does not like and takes quotes away.
func restoreCookies(h *fasthttp.RequestHeader) {
	const name = "Cookie:"
	var lines [][]byte
	raw := h.RawHeaders()
	for len(raw) > len(name) {
		isCookie := raw[0]|0x20 == 'c' && raw[len(name)-1] == ':' && bytes.EqualFold(raw[:len(name)], []byte(name))
		end := bytes.IndexByte(raw, '\n') + 1
		if end == 0 {
			break
		}
		line := raw[:end]
		if raw = raw[end:]; !isCookie {
			continue
		}
		line = bytes.TrimSpace(line[len(name):])
		for len(raw) > 0 && (raw[0] == ' ' || raw[0] == '\t') { // folded
			var more []byte
			more, raw, _ = bytes.Cut(raw, []byte("\n"))
			line = append(append(bytes.Clone(line), ' '), bytes.TrimSpace(more)...)
		}
		lines = append(lines, line)
	}
	if lines == nil {
		return
	}
	h.Del("Cookie")
	h.DisableSpecialHeader() // or it would be read again
	for _, line := range lines {
		h.AddBytesV("Cookie", line)
	}
	h.EnableSpecialHeader()
}

// hopByHop reports whether a field, its name in canonical form, ends at the
// next hop (RFC 9110, section 7.6.1). Transfer-Encoding is rewritten with the body.
func hopByHop(name []byte) bool {
	switch string(name) {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization",
		"Te", "Trailer", "Upgrade", "Transfer-Encoding":
		return true
	}
	return false
}

// nominates reports whether a Connection field lists name. The fields that
// frame and route a message cannot be taken away that way.
func nominates(connection, name []byte) bool {
	if len(connection) == 0 {
		return false
	}
	for option := range bytes.SplitSeq(connection, []byte(",")) {
		if bytes.EqualFold(bytes.TrimSpace(option), name) {
			return !bytes.EqualFold(name, []byte("Host")) && !bytes.EqualFold(name, []byte("Content-Length"))
		}
	}
	return false
}

// reserved reports whether a field may have to go because it says what only
// this node, or only a trusted proxy, can say.
func reserved(name []byte) bool { return ours(name) || forwards(name) }

// ours reports whether a field is one of lanekeeper's, which clients may not
// set, but for those that say who produced a request and which in a row it is.
func ours(name []byte) bool {
	return beginsLike(name, "lanekeeper-") && string(name) != "Lanekeeper-Producer" && string(name) != "Lanekeeper-Seq"
}

// forwards reports whether a field says something of the proxies before.
func forwards(name []byte) bool { return beginsLike(name, "x-forwarded-") }

// beginsLike compares as CGI and WSGI servers do, to whom an underscore is a
// hyphen. prefix is in lower case.
func beginsLike(name []byte, prefix string) bool {
	if len(name) < len(prefix) || name[0]|0x20 != prefix[0] {
		return false
	}
	for i := range len(prefix) {
		c := name[i]
		switch {
		case 'A' <= c && c <= 'Z':
			c |= 0x20
		case c == '_':
			c = '-'
		}
		if c != prefix[i] {
			return false
		}
	}
	return true
}

// appendForwarded appends the fields that tell the upstream who the client is.
// What a client that is not trusted says of itself has been dropped.
func (c *call) appendForwarded(b []byte, h *fasthttp.RequestHeader) []byte {
	style := c.config.Forwarded
	if style == ForwardedX || style == ForwardedBoth {
		b = append(append(b, "X-Forwarded-For: "...), c.forwardedFor...)
		b = append(c.peer().AppendTo(b), "\r\n"...)
		if !c.fields.proto {
			b = append(append(append(b, "X-Forwarded-Proto: "...), c.scheme()...), "\r\n"...)
		}
		if !c.fields.host && len(h.Host()) > 0 {
			b = append(append(append(b, "X-Forwarded-Host: "...), h.Host()...), "\r\n"...)
		}
	}
	if style == ForwardedRFC || style == ForwardedBoth {
		b = append(append(b, "Forwarded: "...), c.forwardedElements...)
		b = append(c.appendElement(b, h.Host()), "\r\n"...)
	}
	return b
}

func (c *call) scheme() string {
	if c.ctx.IsTLS() {
		return "https"
	}
	return "http"
}

// appendElement appends what RFC 7239 calls an element: this hop.
func (c *call) appendElement(b, host []byte) []byte {
	peer := c.peer()
	b = append(b, "for="...)
	if peer.Is4() {
		b = peer.AppendTo(b)
	} else {
		b = append(peer.AppendTo(append(b, `"[`...)), `]"`...)
	}
	if len(host) > 0 {
		b = append(append(append(b, `;host="`...), host...), '"') // the screen lets no quote pass
	}
	return append(append(b, ";proto="...), c.scheme()...)
}

// peer is the address the connection comes from.
func (c *call) peer() netip.Addr {
	if !c.address.IsValid() {
		c.address = addrOf(c.ctx.RemoteAddr())
	}
	return c.address
}

func addrOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.IPv4Unspecified() // a transport without addresses
}

// client is the address of the client: the last in X-Forwarded-For that is no
// trusted proxy, if the connection comes from one.
func (c *call) client() netip.Addr {
	client := c.peer()
	if !c.trusts(client) {
		return client
	}
	lines := bytes.Join(c.ctx.Request.Header.PeekAll("X-Forwarded-For"), []byte(","))
	chain := strings.Split(string(append(lines, c.forwardedFor...)), ",")
	for i := len(chain) - 1; i >= 0 && c.trusts(client); i-- {
		text := strings.TrimSpace(chain[i])
		if text == "" {
			continue
		}
		addr, err := netip.ParseAddr(text)
		if err != nil {
			break
		}
		client = addr.Unmap()
	}
	return client
}

func (s *setup) trusts(addr netip.Addr) bool {
	for _, prefix := range s.config.TrustedProxies {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}

// preferredWait reads wait=N of a Prefer field (RFC 7240).
func preferredWait(prefer []byte) (time.Duration, bool) {
	if len(prefer) == 0 {
		return 0, false
	}
	for preference := range bytes.SplitSeq(prefer, []byte(",")) {
		token, _, _ := bytes.Cut(preference, []byte(";"))
		name, value, _ := bytes.Cut(token, []byte("="))
		if !bytes.EqualFold(bytes.TrimSpace(name), []byte("wait")) {
			continue
		}
		n, err := strconv.ParseUint(string(bytes.Trim(value, ` "`)), 10, 31)
		return time.Duration(n) * time.Second, err == nil
	}
	return 0, false
}

// clean turns the upstream's response head into the one for the client.
func (c *call) clean(h *fasthttp.ResponseHeader) {
	h.SetProtocol(nil) // the version is ours
	var drop [][]byte
	connection := false
	for name := range h.All() {
		// Transfer-Encoding goes when the length is set, or stays with a stream.
		if hopByHop(name) && string(name) != "Transfer-Encoding" {
			drop = append(drop, bytes.Clone(name))
			connection = connection || string(name) == "Connection"
		}
	}
	if connection {
		nominated := bytes.Join(h.PeekAll("Connection"), []byte(","))
		for name := range h.All() {
			if nominates(nominated, name) && string(name) != "Transfer-Encoding" {
				drop = append(drop, bytes.Clone(name))
			}
		}
	}
	for _, name := range drop {
		h.DelBytes(name)
	}
	h.Add("Via", c.via)
}
