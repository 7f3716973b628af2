package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// A template is a path pattern in the grammar of net/http.ServeMux: literal
// segments, {name} for one whole segment, {name...} for the rest, {$} for the
// end after a slash, and a trailing slash for everything below.
//
// One thing differs: /a/{rest...} and /a/ also match /a, where ServeMux would
// answer with a redirect that a proxy has no business inventing.
type template struct {
	segments []segment
	tail     tail
	rest     string // name of the rest, if it has one
	names    []string
}

type segment struct {
	literal string // decoded
	name    string // of a wildcard
}

type tail uint8

const (
	exact      tail = iota // nothing follows
	everything             // anything may follow
	slash                  // one slash follows: {$}
)

// captures are the raw values of a template's wildcards, in order; they alias the path.
type captures [maxWildcards][]byte

const maxWildcards = 8

// CheckPath reports the wildcard names of a path template, or what is wrong with it.
func CheckPath(text string) (wildcards []string, err error) {
	t, err := parseTemplate(text)
	return t.names, err
}

func parseTemplate(text string) (t template, err error) {
	if text == "" {
		return template{tail: everything}, nil
	}
	if text[0] != '/' {
		return t, fmt.Errorf("path template %q must begin with /", text)
	}
	parts := strings.Split(text[1:], "/")
	for i, part := range parts {
		last := i == len(parts)-1
		if err := t.parseSegment(part, last); err != nil {
			return template{}, fmt.Errorf("path template %q: %w", text, err)
		}
	}
	if len(t.names) > maxWildcards {
		return template{}, fmt.Errorf("path template %q has %d wildcards, at most %d are supported", text, len(t.names), maxWildcards)
	}
	return t, nil
}

func (t *template) parseSegment(part string, last bool) error {
	name, isWildcard := strings.CutPrefix(part, "{")
	switch {
	case part == "" && last:
		t.tail = everything
		return nil
	case part == "":
		return errors.New("an empty segment (//) never matches")
	case part == "{$}":
		if !last {
			return errors.New("{$} must be the last segment")
		}
		t.tail = slash
		return nil
	case !isWildcard:
		if strings.ContainsAny(part, "{}") {
			return fmt.Errorf("segment %q: a wildcard must be the whole segment", part)
		}
		literal, err := url.PathUnescape(part)
		if err != nil {
			return err
		}
		if literal == "." || literal == ".." {
			return fmt.Errorf("segment %q: a dot segment never matches", part)
		}
		t.segments = append(t.segments, segment{literal: literal})
		return nil
	}
	name, closed := strings.CutSuffix(name, "}")
	if !closed {
		return fmt.Errorf("segment %q: a wildcard must be the whole segment, {name}", part)
	}
	name, rest := strings.CutSuffix(name, "...")
	if !isName(name) {
		return fmt.Errorf("segment %q: a wildcard's name is made of letters, digits and _, and begins with no digit", part)
	}
	if slices.Contains(t.names, name) {
		return fmt.Errorf("two wildcards are named %q", name)
	}
	t.names = append(t.names, name)
	if !rest {
		t.segments = append(t.segments, segment{name: name})
		return nil
	}
	if !last {
		return fmt.Errorf("{%s...} must be the last segment", name)
	}
	t.tail, t.rest = everything, name
	return nil
}

func isName(s string) bool {
	for i, r := range s {
		letter := r == '_' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
		if !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != ""
}

// wildcard is the index of name among the captures.
func (t *template) wildcard(name string) int { return slices.Index(t.names, name) }

// How a path is compared with a template.
const (
	strictly = false
	// loosely: without regard to the case of literals and to a last slash, and
	// a bad escape is any literal. Some servers route like that.
	loosely = true
)

// match reports whether a path matches, and captures the wildcards.
func (t *template) match(path []byte, captures *captures, loose bool) bool {
	rest, captured := path, 0
	for i := range t.segments {
		if len(rest) == 0 || rest[0] != '/' {
			return false
		}
		rest = rest[1:]
		value := rest
		if end := bytes.IndexByte(rest, '/'); end >= 0 {
			value = rest[:end]
		}
		rest = rest[len(value):]
		s := &t.segments[i]
		switch {
		case s.name == "":
			if !s.equals(value, loose) {
				return false
			}
		case len(value) == 0:
			return false
		default:
			captures[captured] = value
			captured++
		}
	}
	if loose && (t.tail == exact || t.tail == slash) {
		return len(rest) <= len("/")
	}
	switch t.tail {
	case slash:
		return len(rest) == 1
	case everything:
		// A target in another form is no path; only * may be forwarded.
		if len(rest) > 0 && rest[0] != '/' && string(path) != "*" {
			return false
		}
		if t.rest != "" {
			value := bytes.TrimPrefix(rest, []byte("/"))
			if loose {
				value = bytes.TrimSuffix(value, []byte("/"))
			}
			captures[captured] = value
		}
		return true
	default:
		return len(rest) == 0
	}
}

// equals compares a segment as sent with a literal.
func (s *segment) equals(raw []byte, loose bool) bool {
	if string(raw) == s.literal {
		return true
	}
	if bytes.IndexByte(raw, '%') < 0 {
		return loose && equalFold(raw, s.literal)
	}
	var buffer [64]byte
	decoded, err := unescape(buffer[:0], raw)
	if err != nil {
		return loose
	}
	return string(decoded) == s.literal || loose && equalFold(decoded, s.literal)
}

// equalFold compares ASCII text without regard to case.
func equalFold(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i, c := range b {
		if c != s[i] && lowered(c) != lowered(s[i]) {
			return false
		}
	}
	return true
}

func lowered(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

var errEscape = errors.New("a % that two hexadecimal digits do not follow")

// unescape appends raw to b with each %XX decoded, once.
func unescape(b, raw []byte) ([]byte, error) {
	for i := 0; i < len(raw); i++ {
		if raw[i] != '%' {
			b = append(b, raw[i])
			continue
		}
		if i+2 >= len(raw) {
			return nil, errEscape
		}
		high, ok1 := unhex(raw[i+1])
		low, ok2 := unhex(raw[i+2])
		if !ok1 || !ok2 {
			return nil, errEscape
		}
		b = append(b, high<<4|low)
		i += 2
	}
	return b, nil
}

func unhex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
