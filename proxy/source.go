package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"mime"
	"strings"
	"unicode/utf8"

	"github.com/valyala/fasthttp"
)

// pathValue decodes once; %2F gives a slash inside the value.
func (c *call) pathValue(b []byte, s *source) ([]byte, bool, *problem) {
	raw := c.captures[s.wildcard]
	if len(raw) == 0 {
		return b, false, nil // {rest...} may be empty
	}
	value, err := unescape(b, raw)
	if err != nil {
		return b, false, malformedRequest.because(fmt.Sprintf("%s holds %v", s, err))
	}
	return value, true, nil
}

// headerValue takes the whole field line: a comma is data. What is removed
// unless a trusted proxy says it is not there.
func (c *call) headerValue(b []byte, s *source) ([]byte, bool, *problem) {
	if s.forwards && !c.trusts(c.peer()) {
		return b, false, nil
	}
	value, lines, doubt := field(&c.ctx.Request.Header, s.Header)
	if doubt != "" {
		return b, false, ambiguousKey.because(fmt.Sprintf("%s %s", s, doubt))
	}
	// Folding an empty line leaves a blank behind the value, which no service sees.
	return append(b, trimBlanks(value)...), lines > 0, nil
}

// field is a header field as the upstream will get it, and how many lines it
// has. Trailers do not get there and are no part of it. It says what is
// doubtful if servers may see something else.
func field(h *fasthttp.RequestHeader, name string) (value []byte, lines int, doubt string) {
	twin, nominated, endToEnd := "", false, true
	for have, v := range h.All() {
		switch {
		case equalFold(have, name):
			if lines++; lines == 1 {
				value, endToEnd = v, !hopByHop(have)
			}
		case sameVariable(have, name):
			twin = string(have)
		case string(have) == "Connection":
			nominated = nominated || nominates(v, []byte(name))
		}
	}
	switch {
	case lines > 1:
		doubt = fmt.Sprintf("is sent %d times", lines)
	case twin != "":
		doubt = fmt.Sprintf("and header %s are one to some servers; send the former alone", twin)
	case nominated && lines > 0 && endToEnd:
		doubt = "is named by Connection, and so does not reach every service"
	}
	return value, lines, doubt
}

// sameVariable compares header names as the environment of a CGI or WSGI script
// would: X_Order_Id and X-Order-Id are one.
func sameVariable(name []byte, header string) bool {
	if len(name) != len(header) {
		return false
	}
	for i, c := range name {
		if d := header[i]; lowered(c) != lowered(d) && (isAlphanumeric(c) || isAlphanumeric(d)) {
			return false
		}
	}
	return true
}

func isAlphanumeric(c byte) bool {
	c = lowered(c)
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
}

// queryValue reads the query as a form does. A semicolon that would split the
// query differently is refused, since servers disagree on it.
func (c *call) queryValue(b []byte, s *source) ([]byte, bool, *problem) {
	raw, found, twin := parameter(c.query, s.Query, "&")
	if bytes.IndexByte(c.query, ';') >= 0 {
		other, n, splitTwin := parameter(c.query, s.Query, "&;")
		twin = twin || splitTwin
		if n != found || !bytes.Equal(raw, other) {
			return b, false, ambiguousKey.because(s.String() + " depends on whether a semicolon separates parameters; encode it as %3B")
		}
	}
	switch {
	case twin:
		return b, false, ambiguousKey.because(s.String() + " and another parameter are one to some servers; they differ in case, dots, brackets or a bad escape")
	case found > 1:
		return b, false, ambiguousKey.because(fmt.Sprintf("%s is given %d times", s, found))
	case found == 0:
		return b, false, nil
	}
	value, err := unescapeForm(b, raw)
	if err != nil {
		return b, false, malformedRequest.because(fmt.Sprintf("%s holds %v", s, err))
	}
	return value, true, nil
}

// parameter is the first raw value of a query's parameter, and how many it has.
// twin reports whether there is another one that some server takes for it.
func parameter(query []byte, name, separators string) (value []byte, found int, twin bool) {
	var buffer [64]byte
	for len(query) > 0 {
		pair := query
		if end := bytes.IndexAny(query, separators); end >= 0 {
			pair, query = query[:end], query[end+1:]
		} else {
			query = nil
		}
		rawName, rawValue, _ := bytes.Cut(pair, []byte("="))
		decoded, err := unescapeForm(buffer[:0], rawName)
		switch {
		case err == nil && string(decoded) == name:
			if found++; found == 1 {
				value = rawValue
			}
		case err != nil || mistakable(decoded, name):
			twin = true
		}
	}
	return value, found, twin
}

// mistakable reports whether some server takes the parameter or cookie have for
// name. ASP.NET ignores case; PHP drops leading spaces and what follows a zero
// byte, and turns dots and spaces into underscores; PHP, Rails and Express take
// name[...] for parts of name.
func mistakable(have []byte, name string) bool {
	have = bytes.TrimLeft(have, " ")
	if end := bytes.IndexByte(have, 0); end >= 0 {
		have = have[:end]
	}
	if end := bytes.IndexByte(have, '['); end > 0 && strings.IndexByte(name, '[') < 0 {
		have = have[:end]
	}
	if len(have) != len(name) {
		return false
	}
	for i, c := range have {
		if underscored(c) != underscored(name[i]) {
			return false
		}
	}
	return true
}

func underscored(c byte) byte {
	if c == '.' || c == ' ' {
		return '_'
	}
	return lowered(c)
}

// unescapeForm appends raw to b, decoded as forms are: a plus is a space.
func unescapeForm(b, raw []byte) ([]byte, error) {
	for {
		word, rest, more := bytes.Cut(raw, []byte("+"))
		decoded, err := unescape(b, word)
		if err != nil || !more {
			return decoded, err
		}
		b, raw = append(decoded, ' '), rest
	}
}

// cookieValue takes a cookie that is sent once. The quotes that RFC 6265 allows
// around a value are not part of it; percent signs are, since it knows no
// escapes. Nor are blanks around the value, which some servers drop and others
// keep: what any of them takes for one key has one lane.
func (c *call) cookieValue(b []byte, s *source) ([]byte, bool, *problem) {
	h := &c.ctx.Request.Header
	// Not h.Cookies, which leaves out what it does not understand.
	value, found, doubtful := cookie(h.RawHeaders(), s.Cookie)
	if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
		value = value[1 : n-1]
	}
	switch {
	case found > 1:
		return b, false, ambiguousKey.because(fmt.Sprintf("%s is sent %d times", s, found))
	case doubtful || bytes.ContainsAny(value, `",\`):
		return b, false, ambiguousKey.because(s.String() + " is read differently by servers that know quoted strings, commas between cookies, or names in other letters")
	case found == 0:
		return b, false, nil
	}
	if _, _, doubt := field(h, "Cookie"); doubt != "" {
		return b, false, ambiguousKey.because(fmt.Sprintf("%s: header Cookie %s", s, doubt))
	}
	return append(b, value...), true, nil
}

// cookie is the first value of a cookie in a request's header lines, and how
// many there are. It is doubtful if some server would find another one.
func cookie(head []byte, name string) (value []byte, found int, doubtful bool) {
	var line []byte
	twin, broken, inCookie := false, false, false
	for len(head) > 0 {
		line, head, _ = bytes.Cut(head, []byte("\n"))
		if inCookie && len(line) > 0 && (line[0] == ' ' || line[0] == '\t') {
			twin = true // over two lines, where anything may be
			continue
		}
		fieldName, pairs, _ := bytes.Cut(bytes.TrimSuffix(line, []byte("\r")), []byte(":"))
		if inCookie = equalFold(fieldName, "Cookie"); !inCookie {
			continue
		}
		var pair []byte
		for len(pairs) > 0 {
			pair, pairs, _ = bytes.Cut(pairs, []byte(";"))
			have, v, _ := bytes.Cut(pair, []byte("="))
			have, v = trimBlanks(have), trimBlanks(v)
			switch {
			case string(have) != name:
				twin = twin || mistakable(have, name)
			case found == 0:
				value = v
				fallthrough
			default:
				found++
			}
			broken = broken || len(v) > 0 && v[0] == '"' && (len(v) == 1 || v[len(v)-1] != '"')
			for more := true; more; {
				if _, v, more = bytes.Cut(v, []byte(",")); more {
					have, _, _ = bytes.Cut(v, []byte("="))
					twin = twin || mistakable(trimBlanks(have), name)
				}
			}
		}
	}
	return value, found, twin || broken && found > 0
}

// trimBlanks removes what HTTP calls whitespace, and no other space.
func trimBlanks(b []byte) []byte { return bytes.Trim(b, " \t") }

// jsonValue takes a member of a JSON body.
func (c *call) jsonValue(b []byte, s *source) ([]byte, bool, *problem) {
	body := c.ctx.Request.Body()
	if len(body) == 0 {
		return b, false, nil
	}
	value, present, err := jsonMember(b, body, s.json)
	if errors.Is(err, errNotJSON) && !c.saysJSON() && !looksLikeJSON(body) {
		return b, false, nil
	}
	if coding := c.coding(body); coding != "" {
		return b, false, invalidKey.because(fmt.Sprintf("%s: the body is %s; only plain UTF-8 is read", s, coding))
	}
	switch {
	case err == nil:
		return value, present, nil
	case errors.Is(err, errAmbiguous):
		return b, false, ambiguousKey.because(fmt.Sprintf("%s: %v", s, err))
	}
	return b, false, invalidKey.because(fmt.Sprintf("%s: %v", s, err))
}

// looksLikeJSON reports whether a lenient decoder might find an object or an
// array: behind a byte order mark, say, or in UTF-16.
func looksLikeJSON(body []byte) bool {
	for _, mark := range []string{"\xef\xbb\xbf", "\xfe\xff", "\xff\xfe"} {
		body = bytes.TrimPrefix(body, []byte(mark))
	}
	body = bytes.TrimLeft(body, " \t\r\n\x00")
	return len(body) > 0 && (body[0] == '{' || body[0] == '[')
}

// coding says in what the body is coded, if a server that decodes it would see
// something else.
func (c *call) coding(body []byte) string {
	h := &c.ctx.Request.Header
	for _, coding := range h.PeekAll("Content-Encoding") {
		if len(coding) > 0 && !equalFold(coding, "identity") {
			return "coded in " + string(coding)
		}
	}
	media := h.ContentType()
	if !bytes.Contains(bytes.ToLower(media), []byte("charset")) {
		return ""
	}
	_, parameters, err := mime.ParseMediaType(string(media))
	if err != nil {
		return "of a Content-Type that is not well formed"
	}
	switch charset := strings.ToLower(parameters["charset"]); charset {
	case "", "utf-8", "utf8":
		return ""
	case "us-ascii", "ascii", "iso-8859-1", "windows-1252":
		if !bytes.ContainsFunc(body, func(r rune) bool { return r >= utf8.RuneSelf }) {
			return ""
		}
		fallthrough
	default:
		return "in " + charset
	}
}

// meansJSON reports whether every service would look for JSON in the body.
func (c *call) meansJSON() bool {
	for _, method := range []string{"GET", "HEAD", "DELETE", "OPTIONS"} {
		if equalFold(c.ctx.Request.Header.Method(), method) {
			return false
		}
	}
	return c.saysJSON()
}

// saysJSON reports whether the body is declared as JSON: application/json or
// any +json type.
func (c *call) saysJSON() bool {
	media, _, _ := bytes.Cut(c.ctx.Request.Header.ContentType(), []byte(";"))
	media = bytes.ToLower(bytes.TrimSpace(media))
	return bytes.HasSuffix(media, []byte("/json")) || bytes.HasSuffix(media, []byte("+json"))
}

// inHead are the first of the sources, those that need nothing but the head:
// neither the body nor to know who sends it.
func inHead(from []source) []source {
	for i := range from {
		if from[i].readsBody() || from[i].asksTrust() {
			return from[:i]
		}
	}
	return from
}

// asksTrust reports whether the value depends on who sends the request.
func (s *source) asksTrust() bool {
	for i := range s.parts {
		if s.parts[i].asksTrust() {
			return true
		}
	}
	return s.forwards
}

// readsBody reports whether the value depends on the request's body.
func (s *source) readsBody() bool {
	for i := range s.parts {
		if s.parts[i].readsBody() {
			return true
		}
	}
	return s.json != nil
}
