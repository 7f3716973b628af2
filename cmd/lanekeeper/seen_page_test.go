//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// The page of the guide that TestSeen holds against what real nodes print, and its text.

const seenPage = "../../configs/guide/at-three.md"

// aligned writes tables anew, whose cells have other widths by now.
func aligned(block string) string {
	var out strings.Builder
	var open *table
	flush := func() {
		if open != nil {
			open.write(&out, true, false)
			open = nil
		}
	}
	for line := range strings.Lines(block) {
		line = strings.TrimRight(line, "\n")
		cells := regexp.MustCompile(` {2,}`).Split(line, -1)
		switch {
		case tableHead.MatchString(line):
			flush()
			open = &table{header: cells}
		case open != nil && len(cells) == len(open.header):
			open.add(unmarked, cells...)
		default:
			flush()
			fmt.Fprintln(&out, line)
		}
	}
	flush()
	return out.String()
}

var tableHead = regexp.MustCompile(`^([A-Z/#]+( WAIT)?)(  +[A-Z/. ]+)+$`)

// folded breaks what is longer than a page is wide.
func folded(block string) string {
	const wide = 118
	var out strings.Builder
	for line := range strings.Lines(block) {
		line = strings.TrimRight(line, "\n")
		for len(line) > wide {
			at := max(strings.LastIndex(line[:wide], " "), strings.LastIndex(line[:wide], `,"`)+1)
			if strings.TrimSpace(line[:at]) == "" {
				break
			}
			fmt.Fprintln(&out, strings.TrimRight(line[:at], " "))
			line = "    " + strings.TrimLeft(line[at:], " ")
		}
		fmt.Fprintln(&out, line)
	}
	return out.String()
}

// shape is a page without what differs each time: figures, and who comes first of those that die at once.
func shape(text string) string {
	text = strings.ReplaceAll(text, "\n    ", " ")
	for _, r := range []struct{ from, to string }{
		{`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`, "TICKET"},
		{`\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?Z`, "TIME"},
		{`\b[A-Z2-7]{20,}-\d+\b`, "LEASE"},
		{`\b[0-9a-f]{12}\b`, "HASH"},
		{`n(\d)/[0-9a-f]{16}`, "n$1/LIFE"},
		{`epoch \d+`, "epoch N"},
		{`\b\d+(\.\d+)?/s`, "RATE"},
		{`\b(\d+(\.\d+)?(ns|µs|ms|s|m|h))+\b`, "–"},
		{`:[3-6]\d{4}\b`, ":PORT"},
	} {
		text = regexp.MustCompile(r.from).ReplaceAllString(text, r.to)
	}
	text = fenced.ReplaceAllStringFunc(text, func(block string) string {
		lines := strings.Split(block, "\n")
		slices.Sort(lines)
		return strings.Join(lines, "\n")
	})
	return strings.Join(strings.Fields(text), "") // lines are folded, and tables as wide, as figures are long
}

var fenced = regexp.MustCompile("(?s)```text\n.*?```")

// sights are the sections of the page, in order.
type sights struct {
	mu   sync.Mutex // guards text
	text map[string]string
}

// hold holds the page against what is seen now. What is the same keeps its figures.
func (all *sights) hold(s *sight) {
	s.t.Helper()
	now := s.text.String()
	page, err := os.ReadFile(seenPage)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Fatal(err)
	}
	was := sectionOf(string(page), s.title)
	if shape(was) == shape(now) {
		now = was
	} else if !*seenWrite {
		s.t.Errorf("the guide's page shows something else: look at it, and have it written anew: go test ./cmd/lanekeeper -run TestSeen -seen.write\n%s\nIt has\n%s", differ(was, now), now)
	}
	all.mu.Lock()
	defer all.mu.Unlock()
	all.text[s.title] = strings.TrimRight(now, "\n") + "\n"
}

func sectionOf(page, title string) string {
	_, section, found := strings.Cut(page, "\n## "+title+"\n")
	if !found {
		return ""
	}
	section, _, _ = strings.Cut(section, "\n## ")
	return "## " + title + "\n" + section
}

// differ is where two texts part.
func differ(was, now string) string {
	a, b := shape(was), shape(now)
	at := 0
	for at < min(len(a), len(b)) && a[at] == b[at] {
		at++
	}
	part := func(text string) string { return text[max(at-80, 0):min(at+120, len(text))] }
	return fmt.Sprintf("there: …%s…\n now: …%s…", part(a), part(b))
}

const seenHead = `# What you see at three in the morning

Something is stuck, held, split, wrong, lost or on its way, and this is what the commands print. A test brings three real nodes into each situation, runs the commands, and holds this page against them: figures, tickets, times and addresses are of one run, the rest is so. Where a cluster is whole, any node can be asked. [What is wrong, by what you see](troubleshooting.md) starts from symptoms.
`
