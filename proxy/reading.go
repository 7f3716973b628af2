package proxy

import "bytes"

// reading is a way in which a server may understand a path.
type reading struct {
	path []byte
	why  string // what the server does with the path as sent; empty = nothing
	// slashInValue: the only difference is an encoded slash, which by contract
	// belongs to the value it stands in, so it may not change the route but
	// does not change the key.
	slashInValue bool
}

// steps are what servers are known to do with a path before they route. Each
// does some of it, and what one has done the next one starts from: WHATWG's URL,
// as in Node, takes backslashes for slashes and two leading ones for a host;
// Tomcat and Jetty cut parameters, and resolve dot segments afterwards, so that
// "/..;/" climbs; IIS and Tomcat in some settings decode a slash; nginx and most
// frameworks merge slashes; nearly all resolve dot segments, some of them with
// empty segments counted.
//
// What concerns one segment alone, like the case of letters, is in
// template.match. A step returns its argument if it changes nothing, and a
// shorter path or one with fewer backslashes otherwise.
var steps = []struct {
	name  string
	apply func(path []byte) []byte
}{
	{"path parameters cut", cutParameters},
	{"backslashes as slashes", turnBackslashes},
	{"encoded slashes decoded", decodeSlashes},
	{"leading slashes as the start of a host", skipToHost},
	{"a leading // as the start of a host", cutHost},
	{"empty segments removed", mergeSlashes},
	{"dot segments resolved", resolveDots},
}

// readingsMax bounds the work for a path that is made to have many readings;
// one that is not has a handful.
const readingsMax = 32

// readings are the ways to understand path other than as sent: what any number
// of the steps makes of it, in any order. An order in which "servers do it" is
// not enough: of "//a/..//h/orders/7" a chain of proxies cuts the first host,
// resolves the dots, and finds another host. It reports false if there are too
// many.
func readings(path []byte) ([]reading, bool) {
	all := []reading{{path: path}}
	decoded := decodeSlashes(path)
	for i := 0; i < len(all); i++ { // all grows meanwhile
		for _, step := range steps {
			next := reading{path: step.apply(all[i].path), why: step.name}
			if isAmong(all, next.path) {
				continue
			}
			if all[i].why != "" {
				next.why = all[i].why + ", " + step.name
			}
			next.slashInValue = bytes.Equal(next.path, decoded)
			if all = append(all, next); len(all) > readingsMax {
				return nil, false
			}
		}
	}
	return all[1:], true
}

func isAmong(all []reading, path []byte) bool {
	for i := range all {
		if bytes.Equal(all[i].path, path) {
			return true
		}
	}
	return false
}

// plain reports whether no step changes path.
func plain(path []byte) bool {
	for i, c := range path {
		switch c {
		case ';', '\\':
			return false
		case '%': // of %2E, %2F and %5C, in the bytes that no other escape has
			if i+2 < len(path) && bytes.IndexByte([]byte("eEfFcC"), path[i+2]) >= 0 {
				return false
			}
		case '.', '/':
			if i > 0 && path[i-1] == '/' {
				return false
			}
		}
	}
	return true
}

// cutParameters removes what begins with a semicolon from each segment.
func cutParameters(path []byte) []byte {
	if bytes.IndexByte(path, ';') < 0 {
		return path
	}
	var out []byte
	parameter := false
	for _, c := range path {
		switch {
		case c == '/':
			parameter = false
		case c == ';':
			parameter = true
		}
		if !parameter {
			out = append(out, c)
		}
	}
	return out
}

func turnBackslashes(path []byte) []byte {
	if bytes.IndexByte(path, '\\') < 0 {
		return path
	}
	return bytes.ReplaceAll(path, []byte(`\`), []byte("/"))
}

// decodeSlashes decodes %2F and %5C, the latter as the slash for which it is
// then taken.
func decodeSlashes(path []byte) []byte {
	var out []byte // nil until something is decoded
	for i := 0; i < len(path); i++ {
		c := path[i]
		if c == '%' && i+2 < len(path) {
			high, ok1 := unhex(path[i+1])
			low, ok2 := unhex(path[i+2])
			if b := high<<4 | low; ok1 && ok2 && (b == '/' || b == '\\') {
				if out == nil {
					out = append(make([]byte, 0, len(path)), path[:i]...)
				}
				c = '/'
				i += 2
			}
		}
		if out != nil {
			out = append(out, c)
		}
	}
	if out == nil {
		return path
	}
	return out
}

// skipToHost takes ////host/path for the same as //host/path, as WHATWG's URL does.
func skipToHost(path []byte) []byte {
	if !bytes.HasPrefix(path, []byte("///")) {
		return path
	}
	return cutHost(append([]byte("//"), bytes.TrimLeft(path, "/")...))
}

// cutHost takes //host/path for a reference without a scheme.
func cutHost(path []byte) []byte {
	if !bytes.HasPrefix(path, []byte("//")) {
		return path
	}
	if end := bytes.IndexByte(path[2:], '/'); end >= 0 {
		return path[2+end:]
	}
	return []byte("/")
}

func mergeSlashes(path []byte) []byte {
	if !bytes.Contains(path, []byte("//")) {
		return path
	}
	var out []byte
	for i, c := range path {
		if c != '/' || i == 0 || path[i-1] != '/' {
			out = append(out, c)
		}
	}
	return out
}

// resolveDots resolves dot segments, plain or encoded, as RFC 3986, section
// 5.2.4, does: an empty segment counts.
func resolveDots(path []byte) []byte {
	var out []byte // nil until a dot segment is found
	for i := 0; i < len(path); {
		end := len(path)
		if n := bytes.IndexByte(path[i+1:], '/'); n >= 0 {
			end = i + 1 + n
		}
		n := dots(path[i+1 : end])
		if n > 0 && out == nil {
			out = append(make([]byte, 0, len(path)), path[:i]...)
		}
		switch {
		case n == 2:
			out = out[:max(bytes.LastIndexByte(out, '/'), 0)]
		case n == 0 && out != nil:
			out = append(out, path[i:end]...)
		}
		if n > 0 && end == len(path) {
			out = append(out, '/')
		}
		i = end
	}
	if out == nil {
		return path
	}
	return out
}

// dots is 1 for a segment that is ".", 2 for "..", and 0 for any other.
func dots(segment []byte) int {
	n := 0
	for ; len(segment) > 0; n++ {
		switch {
		case n == 2:
			return 0
		case segment[0] == '.':
			segment = segment[1:]
		case len(segment) >= 3 && segment[0] == '%' && segment[1] == '2' && segment[2]|0x20 == 'e':
			segment = segment[3:]
		default:
			return 0
		}
	}
	return n
}
