package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"net/textproto"
	"strings"
)

// source is a Source made ready.
type source struct {
	*Source
	wildcard int        // of Path, among those of the template
	forwards bool       // Header speaks of the proxies before
	json     []jsonStep // of JSON
	parts    []source   // of All
	issues   bool       // it, or a part, gives the request a session
}

func newSources(from []Source, path *template) ([]source, error) {
	sources := make([]source, len(from))
	for i := range from {
		s := source{Source: &from[i], wildcard: path.wildcard(from[i].Path), forwards: forwards([]byte(from[i].Header))}
		var err error
		switch {
		case s.Path != "" && s.wildcard < 0:
			return nil, fmt.Errorf("key source %s: the path template has no such wildcard", s)
		case s.Header != "" && !CheckHeader(s.Header):
			return nil, fmt.Errorf("key source %s: the service does not get this header as it was sent", s)
		case s.Issue && s.Cookie == "":
			return nil, fmt.Errorf("key source %s: only a cookie can be issued", s)
		case s.Path+s.Header+s.Query+s.Cookie+s.JSON == "" && len(s.All) == 0:
			return nil, errors.New("a key source names no place")
		}
		if s.JSON != "" {
			s.json = parseJSONPath(s.JSON)
		}
		if len(s.All) > 0 {
			if s.parts, err = newSources(s.All, path); err != nil {
				return nil, err
			}
		}
		s.issues = s.Issue || issuing(s.parts) != nil
		sources[i] = s
	}
	return sources, nil
}

// CheckHeader reports whether the service gets a header as it was sent, so that
// it may hold a key. Cookies have a source of their own.
func CheckHeader(header string) bool {
	name := []byte(textproto.CanonicalMIMEHeaderKey(header))
	switch string(name) {
	case "Cookie", "Expect", "Forwarded", "X-Forwarded-For":
		return false
	}
	return !hopByHop(name) && !ours(name)
}

// findKey puts the lane's name, space:key, into c.key.
//
// The first source that is present decides; one that is present twice, or in a
// form that the service may read differently, is refused rather than guessed.
// The key is taken byte for byte: two requests share a lane exactly if their
// keys are the same bytes after the route's normalisation.
func (c *call) findKey() *problem {
	k := &c.route.Key
	if found, problem := c.findKeyIn(c.route.from); found || problem != nil {
		return problem
	}
	switch k.Missing {
	case MissingBypass:
		c.mode, c.key = bypass, c.key[:0]
		return nil
	case MissingClientIP:
		c.key = c.client().AppendTo(c.key)
		return nil
	}
	return missingKey.because("none of the key's sources is present: " + sourceList(k.From))
}

// findKeyIn is findKey among the first of the route's sources.
func (c *call) findKeyIn(from []source) (found bool, _ *problem) {
	k := &c.route.Key
	c.key = append(append(c.key[:0], k.Space...), ':')
	prefix := len(c.key)
	for i := range from {
		key, present, problem := c.value(c.key, &from[i])
		if problem != nil {
			return false, problem
		}
		if !present {
			continue
		}
		if n := len(key) - prefix; n > k.MaxLength {
			return false, invalidKey.because(fmt.Sprintf("%s has %d bytes; a key has at most %d", &from[i], n, k.MaxLength))
		}
		if from[i].readsBody() && !c.meansJSON() {
			if problem := c.contradicted(key[prefix:], &from[i], from[i+1:]); problem != nil {
				return false, problem
			}
		}
		c.key, c.session.keyed = key, from[i].issues
		return true, nil
	}
	return false, nil
}

// contradicted refuses a key from a body that not every service would look at,
// if the request without its body has another one.
func (c *call) contradicted(key []byte, s *source, later []source) *problem {
	for i := range later {
		other, present, problem := c.value(nil, &later[i])
		if problem != nil {
			return problem
		}
		if present && later[i].issues && c.session.fresh {
			return nil // no service knows a session that is new
		}
		if present && !bytes.Equal(key, other) {
			return ambiguousKey.because(fmt.Sprintf("%s and %s differ, and a service may not look for JSON in the body of such a request: one of GET, HEAD, DELETE or OPTIONS, or not sent as application/json", s, &later[i]))
		}
		if present {
			return nil
		}
	}
	return nil
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
		key[i] = lowered(c)
	}
	return key
}

// value appends the normalised value of a source to b, if it is present.
func (c *call) value(b []byte, s *source) (_ []byte, present bool, _ *problem) {
	if s.parts != nil {
		return c.compositeValue(b, s)
	}
	start := len(b)
	b, present, problem := c.sent(b, s)
	if problem != nil || !present {
		return b, false, problem
	}
	normalized := normalize(b[start:], c.route.Key.Normalize)
	if len(normalized) == 0 {
		return b, false, invalidKey.because(s.String() + " is there, but empty")
	}
	return append(b[:start], normalized...), true, nil
}

// sent appends the value of a source, as the service decodes it, to b.
func (c *call) sent(b []byte, s *source) (_ []byte, present bool, _ *problem) {
	switch {
	case s.Path != "":
		return c.pathValue(b, s)
	case s.Header != "":
		return c.headerValue(b, s)
	case s.Query != "":
		return c.queryValue(b, s)
	case s.Issue:
		return c.sessionValue(b, s)
	case s.Cookie != "":
		return c.cookieValue(b, s)
	}
	return c.jsonValue(b, s)
}

// compositeValue joins parts with "/". A "/" inside a part is escaped, and so
// is the escape, so that no two lists of parts give one key.
func (c *call) compositeValue(b []byte, s *source) ([]byte, bool, *problem) {
	for i := range s.parts {
		if i > 0 {
			b = append(b, '/')
		}
		start := len(b)
		with, present, problem := c.value(b, &s.parts[i])
		if problem != nil || !present {
			return b, false, problem
		}
		b = escapePart(with, start)
	}
	return b, true, nil
}

// escapePart escapes b from start on.
func escapePart(b []byte, start int) []byte {
	if bytes.IndexByte(b[start:], '%') < 0 && bytes.IndexByte(b[start:], '/') < 0 {
		return b
	}
	part := bytes.Clone(b[start:])
	b = b[:start]
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
	return b
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
