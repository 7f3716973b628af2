package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// findKey puts the lane's name, space:key, into c.key.
//
// The first source that is present decides; one that is present twice, or in a
// form that the service may read differently, is refused rather than guessed.
// The key is taken byte for byte: two requests share a lane exactly if their
// keys are the same bytes after the route's normalisation.
func (c *call) findKey() *problem {
	k := &c.route.Key
	c.key = append(append(c.key[:0], k.Space...), ':')
	prefix := len(c.key)
	for i := range k.From {
		key, present, problem := c.value(c.key, &k.From[i])
		if problem != nil {
			return problem
		}
		if !present {
			continue
		}
		normalized := normalize(key[prefix:], k.Normalize)
		c.key = append(key[:prefix], normalized...)
		switch {
		case len(normalized) == 0:
			return invalidKey.because(k.From[i].String() + " is there, but empty")
		case len(normalized) > k.MaxLength:
			return invalidKey.because(fmt.Sprintf("%s has %d bytes; a key has at most %d", &k.From[i], len(normalized), k.MaxLength))
		}
		return nil
	}
	switch k.Missing {
	case MissingBypass:
		c.mode = bypass
		return nil
	case MissingClientIP:
		c.key = c.client().AppendTo(c.key)
		return nil
	}
	return missingKey.because("none of the key's sources is present: " + sourceList(k.From))
}

func normalize(key []byte, steps []string) []byte {
	for _, step := range steps {
		switch step {
		case "trim":
			key = bytes.Trim(key, " \t\r\n")
		case "lower":
			key = lower(key)
		default:
			panic("proxy: unknown normalisation " + step)
		}
	}
	return key
}

// lower maps A–Z in place. Other letters have no lower case that every service
// agrees on.
func lower(key []byte) []byte {
	for i, c := range key {
		if 'A' <= c && c <= 'Z' {
			key[i] = c + 'a' - 'A'
		}
	}
	return key
}

// value appends the value of a source to b, if it is present.
func (c *call) value(b []byte, s *Source) (_ []byte, present bool, _ *problem) {
	switch {
	case s.Path != "":
		return c.pathValue(b, s)
	case s.Header != "":
		return c.headerValue(b, s)
	case s.Query != "":
		return c.queryValue(b, s)
	case s.Cookie != "":
		return c.cookieValue(b, s)
	case s.JSON != "":
		return c.jsonValue(b, s)
	}
	return c.compositeValue(b, s)
}

// compositeValue joins parts with "/". A "/" inside a part is escaped, and so
// is the escape, so that no two lists of parts give one key.
func (c *call) compositeValue(b []byte, s *Source) ([]byte, bool, *problem) {
	for i := range s.All {
		if i > 0 {
			b = append(b, '/')
		}
		part, present, problem := c.value(nil, &s.All[i])
		if problem != nil || !present {
			return b, false, problem
		}
		for _, char := range part {
			switch char {
			case '%':
				b = append(b, "%25"...)
			case '/':
				b = append(b, "%2F"...)
			default:
				b = append(b, char)
			}
		}
	}
	return b, true, nil
}

// pathValue decodes once; %2F gives a slash inside the value.
func (c *call) pathValue(b []byte, s *Source) ([]byte, bool, *problem) {
	raw := c.captures[c.route.path.wildcard(s.Path)]
	if len(raw) == 0 {
		return b, false, nil // {rest...} may be empty
	}
	value, err := unescape(b, raw)
	if err != nil {
		return b, false, malformedRequest.because(fmt.Sprintf("%s is %q: %v", s, raw, err))
	}
	return value, true, nil
}

// headerValue takes the whole field line: a comma is data. Underscores are
// looked at because CGI and WSGI servers read X_Order_Id and X-Order-Id as one.
func (c *call) headerValue(b []byte, s *Source) ([]byte, bool, *problem) {
	h := &c.ctx.Request.Header
	lines := h.PeekAll(s.Header)
	if strings.IndexByte(s.Header, '-') >= 0 {
		for name := range h.All() {
			if !bytes.EqualFold(name, []byte(s.Header)) && sameVariable(name, s.Header) {
				return b, false, ambiguousKey.because(fmt.Sprintf("header %s and %s are one to some servers; send %s alone", name, s.Header, s.Header))
			}
		}
	}
	switch len(lines) {
	case 0:
		return b, false, nil
	case 1:
		return append(b, lines[0]...), true, nil
	}
	return b, false, ambiguousKey.because(fmt.Sprintf("%s is sent %d times", s, len(lines)))
}

// sameVariable compares header names as the environment of a CGI script would.
func sameVariable(name []byte, header string) bool {
	if len(name) != len(header) {
		return false
	}
	for i, c := range name {
		if d := header[i]; c|0x20 != d|0x20 && (c != '_' || d != '-') {
			return false
		}
	}
	return true
}

// queryValue reads the query as a form does. A semicolon that would split the
// query differently is refused, since servers disagree on it.
func (c *call) queryValue(b []byte, s *Source) ([]byte, bool, *problem) {
	value, found, err := formValue(c.query, s.Query, "&")
	if err != nil {
		return b, false, malformedRequest.because(fmt.Sprintf("%s: %v", s, err))
	}
	if bytes.IndexByte(c.query, ';') >= 0 {
		other, n, err := formValue(c.query, s.Query, "&;")
		if err != nil || n != found || !bytes.Equal(value, other) {
			return b, false, ambiguousKey.because(s.String() + " depends on whether a semicolon separates parameters; encode it as %3B")
		}
	}
	switch found {
	case 0:
		return b, false, nil
	case 1:
		return append(b, value...), true, nil
	}
	return b, false, ambiguousKey.because(fmt.Sprintf("%s is given %d times", s, found))
}

// formValue is the first value of a form's parameter, and how many it has.
func formValue(query []byte, name, separators string) (value []byte, found int, err error) {
	for len(query) > 0 {
		pair := query
		if end := bytes.IndexAny(query, separators); end >= 0 {
			pair, query = query[:end], query[end+1:]
		} else {
			query = nil
		}
		rawName, rawValue, _ := bytes.Cut(pair, []byte("="))
		if !nameIs(rawName, name) {
			continue
		}
		if found++; found > 1 {
			continue
		}
		if value, err = unescapeForm(rawValue); err != nil {
			return nil, found, err
		}
	}
	return value, found, nil
}

func nameIs(raw []byte, name string) bool {
	if string(raw) == name {
		return true
	}
	if bytes.IndexAny(raw, "%+") < 0 {
		return false
	}
	decoded, err := unescapeForm(raw)
	return err == nil && string(decoded) == name
}

func unescapeForm(raw []byte) ([]byte, error) {
	if bytes.IndexByte(raw, '+') >= 0 {
		raw = bytes.ReplaceAll(raw, []byte("+"), []byte(" "))
	}
	return unescape(nil, raw)
}

// cookieValue takes a cookie that is sent once. The quotes that RFC 6265 allows
// around a value are not part of it.
func (c *call) cookieValue(b []byte, s *Source) ([]byte, bool, *problem) {
	var value []byte
	found := 0
	for name, v := range c.ctx.Request.Header.Cookies() {
		if string(name) == s.Cookie {
			value = v
			found++
		}
	}
	switch found {
	case 0:
		return b, false, nil
	case 1:
		if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
			value = value[1 : n-1]
		}
		return append(b, value...), true, nil
	}
	return b, false, ambiguousKey.because(fmt.Sprintf("%s is sent %d times", s, found))
}

// jsonValue takes a member of a JSON body.
func (c *call) jsonValue(b []byte, s *Source) ([]byte, bool, *problem) {
	body := c.ctx.Request.Body()
	if len(body) == 0 {
		return b, false, nil
	}
	value, present, err := jsonMember(b, body, s.JSON)
	switch {
	case err == nil:
		return value, present, nil
	case errors.Is(err, errNotJSON) && !c.saysJSON():
		return b, false, nil
	case errors.Is(err, errAmbiguous):
		return b, false, ambiguousKey.because(fmt.Sprintf("%s: %v", s, err))
	}
	return b, false, invalidKey.because(fmt.Sprintf("%s: %v", s, err))
}

// saysJSON reports whether the body is declared as JSON: application/json or
// any +json type.
func (c *call) saysJSON() bool {
	media, _, _ := bytes.Cut(c.ctx.Request.Header.ContentType(), []byte(";"))
	media = bytes.ToLower(bytes.TrimSpace(media))
	return bytes.HasSuffix(media, []byte("/json")) || bytes.HasSuffix(media, []byte("+json"))
}

// String names a source as configuration and command lines do: header:X-Order-Id.
func (s *Source) String() string {
	switch {
	case s.Path != "":
		return "path:" + s.Path
	case s.Header != "":
		return "header:" + s.Header
	case s.Query != "":
		return "query:" + s.Query
	case s.Cookie != "":
		return "cookie:" + s.Cookie
	case s.JSON != "":
		return "json:" + s.JSON
	}
	return "all(" + sourceList(s.All) + ")"
}

func sourceList(sources []Source) string {
	names := make([]string, len(sources))
	for i := range sources {
		names[i] = sources[i].String()
	}
	return strings.Join(names, ", ")
}

// appendKey writes a lane's name as Lanekeeper-Key shows it: bytes outside
// 0x21–0x7E, and %, as %XX.
func appendKey(b, key []byte) []byte {
	const hexDigits = "0123456789ABCDEF"
	for _, c := range key {
		if c > 0x20 && c < 0x7f && c != '%' {
			b = append(b, c)
			continue
		}
		b = append(b, '%', hexDigits[c>>4], hexDigits[c&15])
	}
	return b
}
