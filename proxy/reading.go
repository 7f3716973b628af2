package proxy

import (
	"bytes"
	"iter"
)

// reading is another way in which a server may understand a path.
type reading struct {
	path []byte
	why  string
	// slashInValue: the only difference is an encoded slash, which by contract
	// belongs to the value it stands in, so it may not change the route but
	// does not change the key.
	slashInValue bool
}

// readings are the ways to understand path other than as sent. A plain path
// has none.
//
// The list is made of what servers are known to do: resolve dot segments and
// merge slashes (nginx, most frameworks), ignore a trailing slash (Express,
// Rails), decode an encoded slash or take a backslash for one (IIS, Tomcat in
// some settings), and cut path parameters (Tomcat, Jetty).
func readings(path []byte) iter.Seq[*reading] {
	return func(yield func(*reading) bool) {
		if i := bytes.IndexByte(path, ';'); i >= 0 {
			if !yield(&reading{path: cutParameters(path), why: "without path parameters"}) {
				return
			}
		}
		if cleaned := clean(path); !bytes.Equal(cleaned, path) {
			if !yield(&reading{path: cleaned, why: "with dot segments resolved and empty ones and the last slash removed"}) {
				return
			}
		}
		decoded := decodeSlashes(path)
		if bytes.Equal(decoded, path) {
			return
		}
		cleaned := clean(decoded)
		// An encoded slash that hides no dot segment and no empty one.
		harmless := bytes.Equal(bytes.TrimSuffix(decoded, []byte("/")), bytes.TrimSuffix(cleaned, []byte("/")))
		if yield(&reading{path: decoded, why: "with encoded slashes and backslashes as slashes", slashInValue: harmless}) && !harmless {
			yield(&reading{path: cleaned, why: "with encoded slashes and backslashes as slashes, and dot segments resolved"})
		}
	}
}

// plain reports whether every server understands path alike.
func plain(path []byte) bool {
	if len(path) > 1 && path[len(path)-1] == '/' {
		return false
	}
	for i, c := range path {
		switch c {
		case '%', ';', '\\':
			return false
		case '.', '/':
			if i > 0 && path[i-1] == '/' {
				return false
			}
		}
	}
	return true
}

func cutParameters(path []byte) []byte {
	var out []byte
	for i, part := range bytes.Split(path, []byte("/")) {
		if i > 0 {
			out = append(out, '/')
		}
		part, _, _ = bytes.Cut(part, []byte(";"))
		out = append(out, part...)
	}
	return out
}

// clean resolves dot segments, written plainly or encoded, and removes empty
// segments and the last slash. All else stays as it is.
func clean(path []byte) []byte {
	var kept [][]byte
	for _, part := range bytes.Split(path, []byte("/")) {
		decoded, err := unescape(nil, part)
		switch {
		case err != nil:
			kept = append(kept, part)
		case len(decoded) == 0, string(decoded) == ".":
		case string(decoded) == "..":
			kept = kept[:max(len(kept)-1, 0)]
		default:
			kept = append(kept, part)
		}
	}
	return append([]byte("/"), bytes.Join(kept, []byte("/"))...)
}

func decodeSlashes(path []byte) []byte {
	var out []byte
	for i := 0; i < len(path); i++ {
		c := path[i]
		if c == '%' && i+2 < len(path) {
			high, ok1 := unhex(path[i+1])
			low, ok2 := unhex(path[i+2])
			if b := high<<4 | low; ok1 && ok2 && (b == '/' || b == '\\') {
				out = append(out, '/')
				i += 2
				continue
			}
		}
		if c == '\\' {
			c = '/'
		}
		out = append(out, c)
	}
	return out
}
