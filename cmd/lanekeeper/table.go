package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf16"
)

// table is what a command shows to people.
type table struct {
	header []string // none: the first cell of each row says what it is
	rows   []row
}

// row is a line of a table. A mark is a colour, on terminals that want any.
type row struct {
	mark  mark
	cells []string
}

type mark string

// The marks.
const (
	unmarked mark = ""
	caution  mark = "33" // yellow
	failing  mark = "31" // red
)

func (t *table) add(m mark, cells ...string) { t.rows = append(t.rows, row{m, cells}) }

// on is text in the mark's colour.
func (m mark) on(text string) string {
	if m == unmarked {
		return text
	}
	return "\x1b[" + string(m) + "m" + text + "\x1b[0m"
}

// write writes the lines.
func (t *table) write(w io.Writer, headers, coloured bool) {
	lines, marks := t.lines(headers)
	for i, line := range lines {
		if coloured {
			line = marks[i].on(line)
		}
		fmt.Fprintln(w, line)
	}
}

// lines aligns the columns. Whatever a cell holds, it stays in its place.
func (t *table) lines(headers bool) (lines []string, marks []mark) {
	var aligned bytes.Buffer
	columns := tabwriter.NewWriter(&aligned, 0, 0, 2, ' ', 0)
	if headers && t.header != nil {
		fmt.Fprintln(columns, strings.Join(t.header, "\t"))
		marks = append(marks, unmarked)
	}
	for _, r := range t.rows {
		cells := make([]string, len(r.cells))
		for i, cell := range r.cells {
			cells[i] = printable(cell)
		}
		fmt.Fprintln(columns, strings.Join(cells, "\t"))
		marks = append(marks, r.mark)
	}
	columns.Flush() //nolint:errcheck // a Buffer takes everything
	for line := range strings.Lines(aligned.String()) {
		lines = append(lines, strings.TrimRight(line, " \n"))
	}
	return lines, marks
}

// printable replaces what would move the cursor or end the line.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}

// printableJSON escapes what a terminal may take for more than text, and JSON lets pass:
// such as C1 control characters, and those that turn the direction of writing.
func printableJSON(document []byte) []byte {
	var out bytes.Buffer
	for _, r := range string(document) {
		if r < unicode.MaxASCII && r != 0x7f || unicode.IsPrint(r) {
			out.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&out, "\\u%04x", unit)
		}
	}
	return out.Bytes()
}

// colours says whether w wants them; see https://no-color.org.
func colours(w io.Writer) bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && isTerminal(w)
}

// roughly is a duration in its largest unit: 41s, 5m, 3h, 12d.
func roughly(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(d, 0)/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// seconds is a number of seconds with as many digits as matter.
func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	return Duration(d.Round(time.Second)).String()
}

// orDash is text, or a dash for what is not known.
func orDash(text string) string {
	if text == "" {
		return "–"
	}
	return text
}
