package main

import (
	_ "embed" // for benchPage
	"html/template"
	"io"
	"strings"

	"lanekeeper/loadtest"
)

//go:embed bench_page.html
var benchPage string

// page writes the account as one HTML page that needs nothing beside itself.
func (a *benchAccount) page(w io.Writer, latencies *loadtest.Plot) error {
	var plotted strings.Builder
	if latencies != nil {
		if _, err := latencies.WriteTo(&plotted); err != nil {
			return err
		}
	}
	page, err := template.New("bench").Funcs(template.FuncMap{"spread": spreadText}).Parse(benchPage)
	if err != nil {
		return err
	}
	return page.Execute(w, struct {
		*benchAccount
		Plot  string
		Steps []benchStep
	}{a, plotted.String(), a.steps})
}

// benchStep is a point of the distribution: so many of a hundred answers were at least
// as fast. Width is its latency in hundredths of the slowest.
type benchStep struct {
	Quantile, Latency, Width float64
}

func benchSteps(result *loadtest.Result) []benchStep {
	var steps []benchStep
	slowest := max(float64(result.Latency.Max()), 1)
	for _, b := range result.Latency.CumulativeDistribution() {
		step := benchStep{b.Quantile, float64(b.ValueAt) / 1000, 100 * float64(b.ValueAt) / slowest}
		if n := len(steps); n > 0 && steps[n-1].Latency == step.Latency {
			steps = steps[:n-1]
		}
		steps = append(steps, step)
	}
	return steps
}
