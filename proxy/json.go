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

// jsonMember appends to b the value at a dotted path of a JSON body, and
// reports whether there is one.
//
// A string gives its decoded bytes and an integer its digits, so 7 and "7" are
// one key; anything else is an error. Of two equal members some decoders take
// the first and some the last, and Go's own does not even look at case, so a
// member that another could be taken for is refused.
func jsonMember(b, body []byte, path string) (_ []byte, present bool, _ error) {
	// Checked by the standard library, which bounds the depth of nesting.
	if !json.Valid(body) {
		return b, false, errNotJSON
	}
	// gjson reads strings; the body outlives the results.
	at := gjson.Parse(unsafe.String(&body[0], len(body)))
	for _, name := range splitJSON(path) {
		next, found, err := member(at, name)
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
			return b, false, fmt.Errorf("the number %s is no integer literal", at.Raw)
		}
		return append(b, at.Raw...), true, nil
	}
	return b, false, fmt.Errorf("%s is neither a string nor an integer", strings.ToLower(at.Type.String()))
}

// member is an object's member, or an array's element if name is an index.
func member(of gjson.Result, name string) (value gjson.Result, found bool, err error) {
	if of.IsArray() {
		index, err := strconv.Atoi(name)
		if err != nil || index < 0 {
			return value, false, nil
		}
		elements := of.Array()
		if index >= len(elements) {
			return value, false, nil
		}
		return elements[index], true, nil
	}
	if !of.IsObject() {
		return value, false, nil
	}
	of.ForEach(func(key, v gjson.Result) bool {
		switch have := key.String(); {
		case !strings.EqualFold(have, name):
		case found:
			err = fmt.Errorf("%w: the object has more than one member %q", errAmbiguous, name)
		case have != name:
			err = fmt.Errorf("%w: the object has a member %q, which some decoders take for %q", errAmbiguous, have, name)
		default:
			value, found = v, true
		}
		return err == nil
	})
	return value, found, err
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

// splitJSON splits a path at its dots; "\." is a dot inside a name.
func splitJSON(path string) []string {
	if !strings.Contains(path, `\`) {
		return strings.Split(path, ".")
	}
	var names []string
	var name strings.Builder
	for i := 0; i < len(path); i++ {
		switch {
		case path[i] == '\\' && i+1 < len(path):
			i++
			name.WriteByte(path[i])
		case path[i] == '.':
			names = append(names, name.String())
			name.Reset()
		default:
			name.WriteByte(path[i])
		}
	}
	return append(names, name.String())
}
