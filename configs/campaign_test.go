package configs

import (
	"bufio"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

var writeCampaign = flag.Bool("campaign.write", false, "TestCampaignPage: write the table of guide/campaign.md")

// episode is one line of guide/campaign.ndjson, which the campaign writes.
type episode struct {
	Guarantee, Store                               string
	Nodes, Requests, Executions                    int
	Seconds                                        float64
	Findings, Excused, Unanswered, Events, Reached map[string]int
}

// TestCampaignPage holds the figures of the page on the campaign against the record of its
// episodes. Mutant: a figure of the page is changed.
func TestCampaignPage(t *testing.T) {
	const page, begin, end = "guide/campaign.md", "<!-- of campaign.ndjson -->\n", "<!-- end -->\n"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(text), begin)
	shown, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has no place for the table", page)
	}
	table := campaignTable(readCampaign(t))
	if *writeCampaign {
		if err := os.WriteFile(page, []byte(before+begin+table+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if shown != table {
		t.Errorf("%s does not say what campaign.ndjson does: go test ./configs -run CampaignPage -campaign.write\n%s", page, table)
	}
}

// TestReadmeRepeatsWhatWasMeasured holds README's table, and its figures of the campaign,
// against the pages that they are from. Mutants: a figure of the table is changed; one of
// the campaign.
func TestReadmeRepeatsWhatWasMeasured(t *testing.T) {
	readme, page := readPage(t, "README.md"), readPage(t, "configs/guide/side-by-side.md")
	_, rest, _ := strings.Cut(page, "## In short\n\n")
	table, _, found := strings.Cut(rest, "\n\n")
	if !found || !strings.Contains(readme, table) {
		t.Errorf("README has another table than side-by-side.md:\n%s", table)
	}
	requests, executions := 0, 0
	for _, e := range readCampaign(t) {
		requests, executions = requests+e.Requests, executions+e.Executions
	}
	if figures := fmt.Sprintf("%d requests, %d executions", requests, executions); !strings.Contains(readme, figures) {
		t.Errorf("README does not say of the campaign: %s", figures)
	}
}

func readCampaign(t *testing.T) (all []episode) {
	file, err := os.Open("guide/campaign.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var e episode
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

func campaignTable(all []episode) string {
	var b strings.Builder
	b.WriteString("| | episodes | minutes | requests | executions | things that happened | found | excused | unanswered |\n|---|--:|--:|--:|--:|--:|---|---|---|\n")
	groups := make(map[string][]episode)
	for _, e := range all {
		name := "best effort"
		if e.Store != "" {
			name = "strict, " + e.Store
		}
		groups[name] = append(groups[name], e)
	}
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		campaignRow(&b, name, groups[name])
	}
	campaignRow(&b, "**all**", all)
	events, reached := make(map[string]int), make(map[string]int)
	for _, e := range all {
		sumInto(events, e.Events)
		sumInto(reached, e.Reached)
	}
	fmt.Fprintf(&b, "\nWhat happened: %s.\n\nWhat was reached by it: %s.\n", listed(events), listed(reached))
	return b.String()
}

func campaignRow(b *strings.Builder, name string, of []episode) {
	var sum episode
	found, excused, unanswered, happened := make(map[string]int), make(map[string]int), make(map[string]int), 0
	for _, e := range of {
		sum.Seconds, sum.Requests, sum.Executions = sum.Seconds+e.Seconds, sum.Requests+e.Requests, sum.Executions+e.Executions
		sumInto(found, e.Findings)
		sumInto(excused, e.Excused)
		sumInto(unanswered, e.Unanswered)
		for _, n := range e.Events {
			happened += n
		}
	}
	fmt.Fprintf(b, "| %s | %d | %.0f | %d | %d | %d | %s | %s | %s |\n", name, len(of), sum.Seconds/60, sum.Requests, sum.Executions, happened, listed(found), listed(excused), listed(unanswered))
}

func sumInto(into, from map[string]int) {
	for name, n := range from {
		into[name] += n
	}
}

// listed is what there is most of first.
func listed(counts map[string]int) string {
	var parts []string
	for _, name := range slices.SortedFunc(maps.Keys(counts), func(a, b string) int { return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b)) }) {
		if counts[name] > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", name, counts[name]))
		}
	}
	if parts == nil {
		return "nothing"
	}
	return strings.Join(parts, ", ")
}
