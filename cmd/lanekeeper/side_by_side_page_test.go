package main

import (
	"bufio"
	"bytes"
	"fmt"
	"image/color"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// This file writes what BenchmarkSideBySide found, as a page and a plot.

// write writes the page, and its plot beside it.
func (t *comparison) write(b *testing.B, file string) {
	b.Helper()
	picture := strings.TrimSuffix(file, ".md") + ".svg"
	var page bytes.Buffer
	fmt.Fprintf(&page, "# Side by side\n\n")
	fmt.Fprintf(&page, "Written by this command, which also makes the plot. It compares lanekeeper with other things that can stand between clients and a service, and with services that take a lock for each request.\n\n")
	fmt.Fprintf(&page, "```text\ngo test ./cmd/lanekeeper -run '^$' -bench SideBySide -benchtime 1x -side.rounds %d -side.round %v -timeout 2h -side.write \"$PWD/configs/guide/%s\"\n```\n\n", *sideRounds, *sideRound, filepath.Base(file))
	fmt.Fprintf(&page, "%s: %s. %s. Clients, service, stores and what is compared share these cores, on loopback, so a figure says little by itself: compare it with others of its table. Medians of %d rounds of %v, which alternate, after one that is not counted; each round begins with new connections. %s\n\n",
		time.Now().Format("2 January 2006"), machine(), strings.Join(versions(), ", "), *sideRounds, *sideRound, columns)
	fmt.Fprintf(&page, "![Requests per second, by workload](%s)\n\nGrey: executions of one key overlapped; bars that reach the edge are cut off there.\n\n", filepath.Base(picture))
	t.writeSummary(&page)
	t.writeAims(&page)
	for _, w := range workloads {
		t.writeWorkload(&page, w)
	}
	if err := os.WriteFile(file, page.Bytes(), 0o644); err != nil {
		b.Fatal(err)
	}
	if err := t.draw(picture); err != nil {
		b.Fatal(err)
	}
}

const columns = "CPU is that of all processes between a client and the service, a lock's store included, per 1000 requests; memory is theirs. *Overlaps* are executions that began while another of their key ran; *late* ran after a request of their key that came after them, where it is known which came first, by tickets; *swapped* ran out of the order in which clients sent them, on whatever connections, which the network and the scheduler do too. These are sums over all rounds, of so many thousand requests. *Failed* had no answer, or another than 200, and is shown if there were any."

// writeSummary writes a line for each contender: the one table for who reads no other.
func (t *comparison) writeSummary(page *bytes.Buffer) {
	fmt.Fprintf(page, "## In short\n\n| | 1 ms: requests/s | p99 ms | CPU ms per 1000 | Zipf 1.1: requests/s | one hot key: requests/s | longest wait ms | overlaps, of all workloads | late |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, name := range t.contenders {
		usual, zipf, hot := t.rounds["1 ms"][name], t.rounds["Zipf 1.1"][name], t.rounds["hot key"][name]
		if len(usual) == 0 || len(zipf) == 0 || len(hot) == 0 {
			continue
		}
		overlaps, late := 0, 0
		for _, w := range workloads {
			for _, r := range t.rounds[w.name][name] {
				overlaps, late = overlaps+r.overlaps, late+r.broken
			}
		}
		fmt.Fprintf(page, "| %s | %.0f | %s | %s | %.0f | %.0f | %s | %d | %s |\n", emphasized(name), medianOf(usual, rateOf), figure(medianOf(usual, p99Of)/1e6), cpuShown(usual),
			medianOf(zipf, rateOf), medianOf(hot, rateOf), figure(medianOf(hot, longestOf)/1e6), overlaps, lateShown(usual, late))
	}
	page.WriteByte('\n')
}

// emphasized is ours in bold.
func emphasized(name string) string {
	if strings.HasPrefix(name, alone) {
		return "**" + name + "**"
	}
	return name
}

// lateShown is a count of late ones, if the order of arrival was known.
func lateShown(rounds []round, late int) string {
	if !rounds[0].ordered {
		return "–"
	}
	return strconv.Itoa(late)
}

// cpuShown is in milliseconds per 1000 requests, if there is anything in between.
func cpuShown(rounds []round) string {
	if v := medianOf(rounds, cpuPer); v > 0 {
		return figure(v * 1e6)
	}
	return ""
}

func (t *comparison) writeAims(page *bytes.Buffer) {
	fmt.Fprintf(page, "## lanekeeper against the others\n\nRatios of rounds that lie beside each other: the median, and its 95 %% interval in brackets, or, of fewer than six rounds, their range. Where several are named, the best of them in that round counts. A bound inside the interval is a *tie*.\n\n")
	fmt.Fprintf(page, "| workload | one node, if nothing else is said | aim | ratio | |\n|---|---|---|---|---|\n")
	for _, line := range t.verdicts() {
		fmt.Fprintf(page, "| %s |\n", line)
	}
	page.WriteByte('\n')
}

func (t *comparison) writeWorkload(page *bytes.Buffer, w workload) {
	if len(t.rounds[w.name]) == 0 {
		return
	}
	fmt.Fprintf(page, "## %s\n\n%s.\n\n", strings.ToUpper(w.name[:1])+w.name[1:], strings.ToUpper(w.what[:1])+w.what[1:])
	fmt.Fprintf(page, "| | requests/s | p50 ms | p99 ms | longest ms | CPU ms | memory MB | overlaps | late | swapped | of thousands |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, name := range t.contenders {
		rounds := t.rounds[w.name][name]
		if len(rounds) == 0 {
			continue
		}
		requests, failed, overlaps, late, out := 0, 0, 0, 0, 0
		for _, r := range rounds {
			requests, failed, overlaps, late, out = requests+r.requests, failed+r.failed, overlaps+r.overlaps, late+r.broken, out+r.out
		}
		shown := emphasized(name)
		if failed > 0 {
			shown += fmt.Sprintf(" (%d failed)", failed)
		}
		memory := ""
		if v := medianOf(rounds, func(r round) float64 { return float64(r.memory) }); v > 0 {
			memory = fmt.Sprintf("%.0f", v/1e6)
		}
		fmt.Fprintf(page, "| %s | %.0f | %s | %s | %s | %s | %s | %d | %s | %d | %.0f |\n", shown, medianOf(rounds, rateOf),
			figure(medianOf(rounds, p50Of)/1e6), figure(medianOf(rounds, p99Of)/1e6), figure(medianOf(rounds, longestOf)/1e6), cpuShown(rounds), memory, overlaps, lateShown(rounds, late), out, float64(requests)/1000)
	}
	page.WriteByte('\n')
}

// figure has three digits that count.
func figure(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func medianOf(rounds []round, figure measure) float64 {
	var values []float64
	for _, r := range rounds {
		values = append(values, figure(r))
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// draw draws the requests per second, a picture for each workload. Each has its own
// scale, from 0. What let executions of a key overlap is grey, so that nobody takes it for
// a winner, and cut off where it would make the others small.
func (t *comparison) draw(file string) error {
	var shown []workload
	for _, w := range workloads {
		if len(t.rounds[w.name]) > 0 {
			shown = append(shown, w)
		}
	}
	const across, width, height = 2, 17 * vg.Centimeter, 8 * vg.Centimeter
	down := (len(shown) + across - 1) / across
	canvas := vgsvg.New(across*width, vg.Length(down)*height)
	tiles := draw.Tiles{Cols: across, Rows: down, PadX: vg.Centimeter, PadY: vg.Centimeter, PadTop: 5 * vg.Millimeter, PadBottom: 5 * vg.Millimeter, PadLeft: 5 * vg.Millimeter, PadRight: vg.Centimeter}
	for i, w := range shown {
		p, err := t.bars(w)
		if err != nil {
			return err
		}
		p.Draw(tiles.At(draw.New(canvas), i%across, i/across))
	}
	var text bytes.Buffer
	if _, err := canvas.WriteTo(&text); err != nil {
		return err
	}
	// A browser without that font takes a wider one, which needs the room of a larger size.
	svg := strings.NewReplacer("font-family:Liberation Sans", "font-family:Liberation Sans,Arial,Helvetica,sans-serif", "font-size:9px", "font-size:8px").Replace(text.String())
	return os.WriteFile(file, []byte(svg), 0o644)
}

var (
	oursColor   = color.RGBA{R: 0x1f, G: 0x77, B: 0xb4, A: 0xff}
	othersColor = color.RGBA{R: 0xff, G: 0x9f, B: 0x40, A: 0xff}
	brokenColor = color.RGBA{R: 0xc8, G: 0xc8, B: 0xc8, A: 0xff}
)

func (t *comparison) bars(w workload) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text = w.name + ": requests per second"
	for _, style := range []*font.Font{&p.Title.TextStyle.Font, &p.X.Tick.Label.Font, &p.Y.Tick.Label.Font} {
		style.Variant, style.Size = "Sans", 9
	}
	most := 0.0 // of those that kept order
	for _, rounds := range t.rounds[w.name] {
		if !sideBySide(rounds) {
			most = max(most, medianOf(rounds, rateOf))
		}
	}
	var names []string
	for _, name := range slices.Backward(t.contenders) { // the first is on top
		rounds := t.rounds[w.name][name]
		if len(rounds) == 0 {
			continue
		}
		bar, err := plotter.NewBarChart(plotter.Values{min(medianOf(rounds, rateOf), 1.5*most)}, 4*vg.Millimeter)
		if err != nil {
			return nil, err
		}
		bar.Horizontal, bar.XMin, bar.LineStyle.Width = true, float64(len(names)), 0
		switch {
		case sideBySide(rounds):
			bar.Color = brokenColor
		case strings.HasPrefix(name, alone):
			bar.Color = oursColor
		default:
			bar.Color = othersColor
		}
		p.Add(bar)
		names = append(names, name)
	}
	p.NominalY(names...)
	p.X.Tick.Marker = plot.TickerFunc(func(low, high float64) (ticks []plot.Tick) {
		for _, t := range (plot.DefaultTicks{}).Ticks(low, high) {
			if t.Label != "" {
				t.Label = fmt.Sprintf("%.0f", t.Value)
			}
			ticks = append(ticks, t)
		}
		return ticks
	})
	p.X.Min, p.X.Max = 0, 1.5*most
	return p, nil
}

// sideBySide tells whether executions of one key overlapped.
func sideBySide(rounds []round) bool {
	return slices.ContainsFunc(rounds, func(r round) bool { return r.overlaps > 0 })
}

// machine is what this runs on.
func machine() string {
	model := runtime.GOARCH
	if file, err := os.Open("/proc/cpuinfo"); err == nil {
		defer file.Close()
		for lines := bufio.NewScanner(file); lines.Scan(); {
			if name, value, found := strings.Cut(lines.Text(), ":"); found && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	kernel := ""
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		kernel = ", Linux " + strings.TrimSpace(string(text))
	}
	return fmt.Sprintf("%d cores of %s%s", runtime.NumCPU(), model, kernel)
}

// versions are those of all that takes part.
func versions() []string {
	all := []string{strings.Replace(runtime.Version(), "go", "Go ", 1)}
	for _, of := range []struct {
		name    string
		command []string
	}{
		{"nginx", []string{"/usr/sbin/nginx", "-v"}},
		{"HAProxy", []string{"/usr/sbin/haproxy", "-v"}},
		{"Redis", []string{"redis-server", "--version"}},
		{"etcd", []string{"etcd", "--version"}},
		{"ZooKeeper", []string{"dpkg-query", "-W", "zookeeper"}},
	} {
		output, _ := exec.Command(of.command[0], of.command[1:]...).CombinedOutput() // one that cannot say it has none
		if number := versionNumber.FindString(string(output)); number != "" {
			all = append(all, of.name+" "+number)
		}
	}
	return all
}

var versionNumber = regexp.MustCompile(`[0-9]+\.[0-9]+\.[0-9]+`)
