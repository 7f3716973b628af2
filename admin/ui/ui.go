// Package ui is the dashboard: a page that shows what the admin API knows of a cluster, and
// carries out what an operator confirms there.
//
// It is files for a browser, embedded, so that go build needs nothing else: plain ES modules in
// page, and in vendor the libraries that they use, each as one file. Whatever holds a key comes to
// the page by the API alone, with the API's own guard; the files hold nothing secret, so the page
// can be had without a token, for which it then asks. The package starts no goroutine.
//
// The page reads one stream, which the cluster's state is in, once a second. Keys are strings of
// attackers: the page writes them as text, and its content security policy would let nothing else
// run. It works by keyboard, in light and dark, and from 360 pixels on.
package ui

//go:generate go run generate.go

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"net/http"
	"path"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

//go:embed page/*.html page/*.css page/*.js vendor
var files embed.FS

// Policy lets the page's own files run, and nothing that anybody could put into it.
const Policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"frame-ancestors 'none'; base-uri 'none'; form-action 'none'"

const index = "page/index.html"

// Serves reports whether a path is the dashboard's. Its files are for everybody who may reach the
// port, with or without a token.
func Serves(path string) bool {
	return path == "/" || path == "/ui" || strings.HasPrefix(path, "/ui/")
}

// Handler returns the handler of all paths that Serves names.
func Handler() http.Handler { return http.HandlerFunc(serve) }

// kept is all files by their name, made ready when the first one is asked for: many nodes never
// show anybody their dashboard.
var kept = sync.OnceValue(func() map[string]*file {
	all := make(map[string]*file)
	err := fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := files.ReadFile(name)
		if strings.HasPrefix(name, "page/") {
			text = lean.ReplaceAll(text, nil)
		}
		all[name] = newFile(name, text)
		return err
	})
	if err != nil {
		panic("ui: its own files cannot be read: " + err.Error())
	}
	return all
})

// lean is what a browser need not have of our own files: indentation, and lines of comments. Lines
// keep their numbers.
var lean = regexp.MustCompile(`(?m)^[ \t]+(?://.*)?|^//.*|^/\*.*\*/$`)

func serve(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", Policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Cache-Control", "no-cache") // it is asked for again, and answered 304 unless the program is another one
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		header.Set("Allow", "GET, HEAD")
		http.Error(w, "the dashboard is only to be read", http.StatusMethodNotAllowed)
		return
	}
	name := index
	switch rest, below := strings.CutPrefix(r.URL.Path, "/ui/"); {
	case !below:
		header.Set("Location", "/ui/")
		w.WriteHeader(http.StatusPermanentRedirect)
		return
	case rest != "":
		name = rest
	}
	f := kept()[name]
	if f == nil {
		http.Error(w, "there is no such file", http.StatusNotFound)
		return
	}
	f.serve(w, r)
}

// file is what is sent for one of the files.
type file struct {
	kind, tag    string
	text, zipped []byte // zipped is nil where it saves nothing
}

var kinds = map[string]string{
	".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
}

func newFile(name string, text []byte) *file {
	sum := sha256.Sum256(text)
	f := &file{kind: kinds[path.Ext(name)], tag: `"` + hex.EncodeToString(sum[:12]) + `"`, text: text}
	if f.kind == "" {
		f.kind = "text/plain; charset=utf-8"
	}
	var zipped bytes.Buffer
	out, _ := gzip.NewWriterLevel(&zipped, gzip.BestCompression) // a level that exists
	out.Write(text)                                              //nolint:errcheck // a Buffer takes everything
	out.Close()                                                  //nolint:errcheck // as above
	if zipped.Len() < len(text) {
		f.zipped = zipped.Bytes()
	}
	return f
}

func (f *file) serve(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("ETag", f.tag)
	header.Set("Vary", "Accept-Encoding")
	header.Set("Content-Type", f.kind)
	if r.Header.Get("If-None-Match") == f.tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	body := f.text
	if f.zipped != nil && takesGzip(r) {
		body = f.zipped
		header.Set("Content-Encoding", "gzip")
	}
	header.Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method != http.MethodHead {
		w.Write(body) //nolint:errcheck // nobody is left to hear of it
	}
}

// takesGzip reports whether gzip is named. Who accepts anything, or wants gzip less than other
// codings, gets it plain.
func takesGzip(r *http.Request) bool {
	for coding := range strings.SplitSeq(strings.Join(r.Header["Accept-Encoding"], ","), ",") {
		if strings.EqualFold(strings.TrimSpace(coding), "gzip") {
			return true
		}
	}
	return false
}
