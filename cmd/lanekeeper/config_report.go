package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Severity is how bad a problem is.
type Severity string

// Only errors keep a configuration from being used.
const (
	SeverityError   Severity = "error"
	SeverityWarning Severity = "warning"
)

// Place is where a value came from or a problem is: a position in a file, or,
// without a line, the name of a file, of an environment variable or of a flag.
type Place struct {
	Source string `json:"source"`
	Line   int    `json:"line,omitzero"`
	Column int    `json:"column,omitzero"`
}

func (p Place) String() string {
	if p.Line == 0 {
		return p.Source
	}
	return fmt.Sprintf("%s:%d:%d", p.Source, p.Line, p.Column)
}

// Problem is one sentence about a configuration.
type Problem struct {
	Place
	Severity Severity `json:"severity"`
	Path     string   `json:"path,omitzero"` // routes[2].lane.mode; empty for the file as a whole
	Message  string   `json:"message"`
}

func (p Problem) String() string {
	return fmt.Sprintf("%s: %s: %s", p.Place, p.Severity, p.sentence())
}

// sentence is the message with the setting in front, unless it begins so.
func (p Problem) sentence() string {
	if p.Path == "" || strings.HasPrefix(p.Message, p.Path) {
		return p.Message
	}
	return p.Path + ": " + p.Message
}

// Report is what loading found out: every problem, and where each value came
// from. It is complete once Load returns, and then only read.
type Report struct {
	Problems []Problem

	places map[string]Place // by path, for what a file, the environment or a flag gave
	blamed map[string]bool  // paths with an error at them or inside
}

func newReport(source string) *Report {
	return &Report{places: map[string]Place{"": {Source: source}}, blamed: make(map[string]bool)}
}

// Errors counts the problems that keep the configuration from being used.
func (r *Report) Errors() int { return r.count(SeverityError) }

// Warnings counts the others.
func (r *Report) Warnings() int { return r.count(SeverityWarning) }

func (r *Report) count(severity Severity) int {
	n := 0
	for _, p := range r.Problems {
		if p.Severity == severity {
			n++
		}
	}
	return n
}

// Origin says where the effective value at path came from: a position in the
// file, an environment variable, a flag, or "default". A route's value may come
// from defaults:, wherever that came from.
func (r *Report) Origin(path string) string {
	for _, p := range []string{path, inheritedPath(path)} {
		if place, ok := r.places[p]; ok && p != "" {
			return place.String()
		}
	}
	return "default"
}

// inheritedPath is the path under defaults that a route's setting starts from, or "".
func inheritedPath(path string) string {
	if !strings.HasPrefix(path, "routes[") {
		return ""
	}
	_, setting, _ := strings.Cut(path, "].")
	return joinPath("defaults", setting)
}

// locate is the nearest place to path: its own, or that of what contains it.
func (r *Report) locate(path string) Place {
	for {
		if place, ok := r.places[path]; ok || path == "" {
			return place
		}
		path = parentPath(path)
	}
}

// parentPath is the path of what contains path.
func parentPath(path string) string { return path[:max(0, strings.LastIndexAny(path, ".["))] }

// blames says whether there is already an error at path or inside it, so that
// nobody complains about the consequences as well.
func (r *Report) blames(path string) bool { return r.blamed[path] }

func (r *Report) add(place Place, severity Severity, path, format string, args ...any) {
	r.Problems = append(r.Problems, Problem{place, severity, path, fmt.Sprintf(format, args...)})
	for severity == SeverityError && path != "" && !r.blamed[path] {
		r.blamed[path] = true
		path = parentPath(path)
	}
}

// sort orders the problems as a reader meets them: by position in the file,
// then those of the environment and of flags.
func (r *Report) sort() {
	slices.SortStableFunc(r.Problems, func(a, b Problem) int {
		return cmp.Or(
			cmp.Compare(min(b.Line, 1), min(a.Line, 1)),
			cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.Source, b.Source),
			cmp.Compare(a.Path, b.Path),
		)
	})
}

// writeText writes a line for each problem, without a summary.
func (r *Report) writeText(w io.Writer) {
	for _, p := range r.Problems {
		fmt.Fprintln(w, p)
	}
}

// summary counts in words: 3 errors, 1 warning.
func (r *Report) summary() string {
	return plural(r.Errors(), "error") + ", " + plural(r.Warnings(), "warning")
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// writeJSON writes the report as one object.
func (r *Report) writeJSON(w io.Writer) error {
	problems := r.Problems
	if problems == nil {
		problems = []Problem{}
	}
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	out.SetIndent("", "  ")
	return out.Encode(map[string]any{"problems": problems, "errors": r.Errors(), "warnings": r.Warnings()})
}

// Text of a workflow command may hold neither line breaks nor its escape
// sign, and a property of it no separators either.
var (
	githubText     = strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	githubProperty = strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
)

// writeGitHub writes the problems as workflow commands, which GitHub shows
// beside the lines of a pull request.
func (r *Report) writeGitHub(w io.Writer) {
	for _, p := range r.Problems {
		if p.Line == 0 {
			fmt.Fprintf(w, "::%s::%s\n", p.Severity, githubText.Replace(p.Source+": "+p.sentence()))
			continue
		}
		fmt.Fprintf(w, "::%s file=%s,line=%d,col=%d::%s\n", p.Severity, githubProperty.Replace(p.Source), p.Line, p.Column, githubText.Replace(p.sentence()))
	}
}
