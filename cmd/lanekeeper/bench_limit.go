package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// threshold is what a run of bench must not cross.
type threshold struct {
	text  string
	name  string  // of a quantile, or errors
	of    string  // latency, wait, upstream
	limit float64 // milliseconds, or a share
}

// parseThreshold reads "p99=250ms", "wait-p99=1s" or "errors=0.1%".
func parseThreshold(text string) (threshold, error) {
	name, value, _ := strings.Cut(text, "=")
	t := threshold{text: text, name: name, of: "latency"}
	if name == "errors" {
		share, percent := strings.CutSuffix(value, "%")
		number, err := strconv.ParseFloat(share, 64)
		if err != nil || number < 0 {
			return t, fmt.Errorf("--max %s: want errors=0.1%% or errors=0.001", text)
		}
		if percent {
			number /= 100
		}
		t.limit = number
		return t, nil
	}
	for _, of := range []string{"wait", "upstream"} {
		if rest, found := strings.CutPrefix(name, of+"-"); found {
			t.of, t.name = of, rest
		}
	}
	known := false
	for _, q := range quantiles {
		known = known || q.name == t.name
	}
	limit, err := time.ParseDuration(value)
	if !known || err != nil || limit < 0 {
		return t, fmt.Errorf("--max %s: want p50, p90, p99, p99.9, max, wait-… or upstream-… and a duration, such as p99=250ms, or errors=0.1%%", text)
	}
	t.limit = ms(limit)
	return t, nil
}

// crossed says how, or nothing.
func (t threshold) crossed(a *benchAccount) string {
	if t.name == "errors" && t.of == "latency" {
		if a.ErrorShare > t.limit {
			return fmt.Sprintf("--max %s: errors were %.3g%%", t.text, 100*a.ErrorShare)
		}
		return ""
	}
	values := map[string]map[string]float64{"latency": a.Latency, "wait": a.Wait, "upstream": a.Upstream}[t.of]
	if values == nil {
		return fmt.Sprintf("--max %s: no answer said how long that was; it needs server.server_timing", t.text)
	}
	if values[t.name] > t.limit {
		return fmt.Sprintf("--max %s: it was %.4gms", t.text, values[t.name])
	}
	return ""
}
