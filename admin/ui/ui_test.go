package ui

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// absent ends a test that lacks something this machine could have.
func absent(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

func get(t *testing.T, method, path, encoding string) *http.Response {
	t.Helper()
	r := httptest.NewRequest(method, path, nil)
	if encoding != "" {
		r.Header.Set("Accept-Encoding", encoding)
	}
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, r)
	return w.Result()
}

// The files in vendor are those that LOCK names, and the licence of each package lies beside them.
//
// Mutants killed: a byte of preact.js is changed; a file is added; LICENSE.htm is removed.
func TestVendorIsAsLocked(t *testing.T) {
	lock, err := files.ReadFile("vendor/LOCK")
	if err != nil {
		t.Fatal(err)
	}
	locked := make(map[string]string)
	licences := 0
	for line := range strings.Lines(string(lock)) {
		switch f := strings.Fields(line); {
		case strings.HasPrefix(line, "#"):
		case len(f) == 2:
			locked[f[0]] = f[1]
		case len(f) == 4:
			licences++
			name := "vendor/LICENSE." + strings.ReplaceAll(strings.TrimPrefix(f[0], "@"), "/", "-")
			if text, err := files.ReadFile(name); err != nil || !regexp.MustCompile("MIT|Apache License").Match(text) {
				t.Errorf("%s is %s's and %v", name, f[2], err)
			}
		default:
			t.Errorf("LOCK has the line %q", line)
		}
	}
	if licences != 5 {
		t.Errorf("%d packages are locked, want 5", licences)
	}
	entries, err := fs.ReadDir(files, "vendor")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		text, err := files.ReadFile("vendor/" + e.Name())
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%x", sha256.Sum256(text)); e.Name() != "LOCK" && got != locked[e.Name()] {
			t.Errorf("%s: got sha256 %s, locked is %q", e.Name(), got, locked[e.Name()])
		}
		delete(locked, e.Name())
	}
	for name := range locked {
		t.Errorf("%s is locked and not there", name)
	}
}

// go generate makes vendor again as it is: nobody edited it by hand, and what is locked can still
// be had. With CI=true alone, since it asks npm.
func TestVendorCanBeMadeAgain(t *testing.T) {
	if os.Getenv("CI") != "true" {
		t.Skip("asks npm: with CI=true only")
	}
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "go", "run", "generate.go", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	made, err := os.ReadFile(filepath.Join(dir, "LOCK"))
	if err != nil {
		t.Fatal(err)
	}
	if kept, err := os.ReadFile("vendor/LOCK"); err != nil || !bytes.Equal(kept, made) {
		t.Errorf("%v, and made again LOCK is\n%s", err, made)
	}
}

// Every answer carries the policy, refusals too, and nothing sniffs at types.
//
// Mutants killed: nosniff for GET alone; no policy beside the redirect; HEAD is answered with a body.
func TestEveryAnswerHasThePolicy(t *testing.T) {
	for _, c := range []struct {
		method, path string
		status       int
		kind         string
	}{
		{"GET", "/", 308, ""}, {"GET", "/ui", 308, ""}, {"HEAD", "/ui", 308, ""},
		{"GET", "/ui/", 200, "text/html; charset=utf-8"}, {"HEAD", "/ui/", 200, "text/html; charset=utf-8"},
		{"GET", "/ui/page/app.js", 200, "text/javascript; charset=utf-8"},
		{"GET", "/ui/page/style.css", 200, "text/css; charset=utf-8"},
		{"GET", "/ui/vendor/LOCK", 200, "text/plain; charset=utf-8"},
		{"GET", "/ui/page", 404, "text/plain; charset=utf-8"}, {"GET", "/ui/page/", 404, "text/plain; charset=utf-8"},
		{"GET", "/ui/ui.go", 404, "text/plain; charset=utf-8"}, {"GET", "/ui/../etc/passwd", 404, "text/plain; charset=utf-8"},
		{"POST", "/ui/", 405, "text/plain; charset=utf-8"},
	} {
		response := get(t, c.method, c.path, "")
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		h := response.Header
		if response.StatusCode != c.status || h.Get("Content-Type") != c.kind {
			t.Errorf("%s %s: got %d %q", c.method, c.path, response.StatusCode, h.Get("Content-Type"))
		}
		if h.Get("Content-Security-Policy") != Policy || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Cache-Control") != "no-cache" {
			t.Errorf("%s %s: headers are %v", c.method, c.path, h)
		}
		if c.status == 308 && h.Get("Location") != "/ui/" {
			t.Errorf("%s leads to %q", c.path, h.Get("Location"))
		}
		if c.status == 200 && (len(body) == 0) != (c.method == "HEAD") {
			t.Errorf("%s %s: %d bytes", c.method, c.path, len(body))
		}
	}
}

// Mutants killed: the coding is not named; all files have one tag.
func TestFilesAreCompressedAndTagged(t *testing.T) {
	plain, err := io.ReadAll(get(t, "GET", "/ui/page/app.js", "br, gzip;q=0").Body)
	if err != nil || !bytes.Contains(plain, []byte("render(")) {
		t.Fatalf("%v: %.80s", err, plain)
	}
	response := get(t, "GET", "/ui/page/app.js", "br, gzip")
	reader, err := gzip.NewReader(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if unpacked, err := io.ReadAll(reader); err != nil || !bytes.Equal(unpacked, plain) || response.Header.Get("Content-Encoding") != "gzip" {
		t.Errorf("%v: %.80s", err, unpacked)
	}
	r := httptest.NewRequest("GET", "/ui/page/app.js", nil)
	r.Header.Set("If-None-Match", response.Header.Get("ETag"))
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, r)
	if w.Code != http.StatusNotModified || w.Body.Len() != 0 {
		t.Errorf("got %d", w.Code)
	}
	r.URL.Path = "/ui/page/live.js"
	w = httptest.NewRecorder()
	Handler().ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.Errorf("another file with that tag: got %d", w.Code)
	}
}

// All that a visit loads is less than 60 kB.
func TestThePageIsSmall(t *testing.T) {
	size := 0
	for name, f := range kept() {
		if ext := path.Ext(name); ext == ".html" || ext == ".js" || ext == ".css" {
			size += len(f.zipped)
		}
	}
	t.Logf("%d bytes, compressed", size)
	if size == 0 || size > 60_000 {
		t.Errorf("%d bytes are loaded, want at most 60 000", size)
	}
}

var (
	imported = regexp.MustCompile(`(?m)^import\b[^"\n]*"([^"]+)"`)
	unsafe   = regexp.MustCompile(`innerHTML|outerHTML|insertAdjacent|dangerouslySet|document\.write|\beval\(|new Function|\bstyle="|javascript:`)
	inline   = regexp.MustCompile(`(?i)<script(?:>|[^>]*[^>]>\s*[^<\s])|<style|\son[a-z]+=|\sstyle=`)
)

// What the page writes it writes as text, it loads nothing but files of its own, and it has no code
// or style in line, which the policy would refuse. The browser's test sees the same from outside;
// this finds the line.
//
// Mutants killed: innerHTML in parts.js; an onload in index.html; an import of a file that is not there.
func TestThePageKeepsToThePolicy(t *testing.T) {
	names, err := fs.Glob(files, "page/*")
	if err != nil || len(names) < 10 {
		t.Fatalf("%v: %v", names, err)
	}
	loaded := 0
	for _, name := range names {
		text, err := files.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if found := unsafe.Find(text); found != nil {
			t.Errorf("%s has %s", name, found)
		}
		if found := inline.Find(text); found != nil && path.Ext(name) == ".html" {
			t.Errorf("%s has %s", name, found)
		}
		for _, match := range imported.FindAllStringSubmatch(string(text), -1) {
			loaded++
			if _, err := files.ReadFile(path.Join("page", match[1])); err != nil || !strings.HasPrefix(match[1], ".") {
				t.Errorf("%s imports %s: %v", name, match[1], err)
			}
		}
	}
	if loaded < 30 {
		t.Errorf("only %d imports were looked at", loaded)
	}
}

// What needs no page of the modules is tested by Node's own runner.
//
// Mutants killed: equal rows change places; a CR at the end of a piece ends its line; a key's escapes are
// escaped again; a partition without an owner is nobody's.
func TestModules(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		absent(t, "no node here: apt-get install nodejs")
	}
	tests, err := filepath.Glob("testdata/modules/*.test.mjs")
	if err != nil || len(tests) == 0 {
		t.Fatalf("%v: %v", tests, err)
	}
	out, err := exec.CommandContext(t.Context(), node, append([]string{"--test", "--test-reporter=tap"}, tests...)...).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("\n# fail 0\n")) || bytes.Contains(out, []byte("\n# pass 0\n")) {
		t.Errorf("%v\n%s", err, out)
	}
}
