package proxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
	"unsafe"

	"github.com/tidwall/gjson"
)

var (
	errNotJSON   = errors.New("the body is not valid JSON")
	errAmbiguous = errors.New("ambiguous")
)

// jsonStep is one name of a dotted path.
type jsonStep struct {
	name  string
	core  string // see core
	index int    // of an array; -1 if the name is none
}

// parseJSONPath splits a path at its dots; "\." is a dot inside a name.
func parseJSONPath(path string) []jsonStep {
	var steps []jsonStep
	var name strings.Builder
	for i := 0; i <= len(path); i++ {
		switch {
		case i == len(path) || path[i] == '.':
			step := jsonStep{name: name.String(), core: core(name.String()), index: -1}
			if n, err := strconv.Atoi(step.name); err == nil && n >= 0 && strconv.Itoa(n) == step.name {
				step.index = n
			}
			steps = append(steps, step)
			name.Reset()
		case path[i] == '\\' && i+1 < len(path):
			i++
			name.WriteByte(path[i])
		default:
			name.WriteByte(path[i])
		}
	}
	return steps
}

// jsonMember appends to b the value at a path of a JSON body, and reports
// whether there is one.
//
// A string gives its decoded bytes and an integer its digits, so 7 and "7" are
// one key; anything else is an error. Of two equal members some decoders take
// the first and some the last, and Go's own does not even look at case, so a
// member that another could be taken for is refused. No error shows what the
// body holds.
func jsonMember(b, body []byte, path []jsonStep) (_ []byte, present bool, _ error) {
	// Checked by the standard library, which bounds the depth of nesting.
	if !json.Valid(body) {
		return b, false, errNotJSON
	}
	// gjson reads strings; the body outlives the results.
	at := gjson.Parse(unsafe.String(&body[0], len(body)))
	for i := range path {
		next, found, err := path[i].in(at)
		if err != nil || !found {
			return b, false, err
		}
		at = next
	}
	switch at.Type {
	case gjson.String:
		text := at.String()
		if !utf8.ValidString(text) || strings.ContainsRune(text, utf8.RuneError) {
			return b, false, errors.New("the string holds bytes or escapes that are no Unicode text, which decoders replace in different ways")
		}
		return append(b, text...), true, nil
	case gjson.Number:
		if !isInteger(at.Raw) {
			return b, false, errors.New("the number is no integer literal")
		}
		return append(b, at.Raw...), true, nil
	}
	return b, false, fmt.Errorf("%s is neither a string nor an integer", strings.ToLower(at.Type.String()))
}

// in is an object's member of this name, or an array's element if the name is
// an index.
func (s *jsonStep) in(of gjson.Result) (value gjson.Result, found bool, err error) {
	switch {
	case of.IsArray():
		at := 0
		of.ForEach(func(_, v gjson.Result) bool {
			if found = at == s.index; found {
				value = v
			}
			at++
			return !found
		})
	case of.IsObject():
		of.ForEach(func(key, v gjson.Result) bool {
			switch have := key.Str; {
			case have == s.name && found:
				err = fmt.Errorf("%w: an object has more than one member %q", errAmbiguous, s.name)
			case have == s.name:
				value, found = v, true
			case strings.EqualFold(core(have), s.core):
				err = fmt.Errorf("%w: an object has a member that some decoders take for %q", errAmbiguous, s.name)
			}
			return err == nil
		})
	}
	return value, found, err
}

// core is what decoders agree on in a member's name. Go's and .NET's ignore
// case, those of protocol buffers take orderId and order_id for one, and others
// end a name at a zero byte or drop control characters and unpaired surrogates.
func core(name string) string {
	name, _, _ = strings.Cut(name, "\x00")
	first := true
	return strings.Map(func(r rune) rune {
		switch {
		case r == utf8.RuneError, r < ' ', r == 0x7f:
			return -1
		case (r == '_' || r == '-') && !first:
			return -1
		}
		first = false
		return r
	}, name)
}

// isInteger reports whether a JSON number is an integer literal other than -0.
func isInteger(raw string) bool {
	digits := strings.TrimPrefix(raw, "-")
	for _, c := range []byte(digits) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return raw != "-0"
}
