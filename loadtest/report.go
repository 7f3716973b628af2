package loadtest

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Report is the outcome of a Check.
type Report struct {
	Executions  int   `json:"executions"`
	Keys        int   `json:"keys"`
	Unkeyed     int   `json:"unkeyed"` // executions without a key, not judged
	Refused     int64 `json:"refused"`
	Sent        int   `json:"sent"`
	Answered    int   `json:"answered"`
	Connections int   `json:"connections"`

	Findings []Finding `json:"findings"` // one per Kind, verdicts first, also those with Count 0

	noise *Noise
}

// Finding is what was found of one kind.
type Finding struct {
	Kind     Kind     `json:"kind"`
	Verdict  bool     `json:"verdict"`
	Count    int      `json:"count"`
	Judged   int      `json:"judged"` // how many could have been found: 0 means the evidence is silent
	Subject  string   `json:"subject"`
	Excused  int      `json:"excused,omitempty"` // by Rules.Excuse, and not in Count
	Examples []string `json:"examples,omitempty"`
}

func (r *Report) find(kind Kind) *Finding {
	for i := range r.Findings {
		if r.Findings[i].Kind == kind {
			return &r.Findings[i]
		}
	}
	panic("loadtest: no finding of kind " + string(kind))
}

// Count returns how often kind was found.
func (r *Report) Count(kind Kind) int { return r.find(kind).Count }

// Excused returns how often kind was found and excused.
func (r *Report) Excused(kind Kind) int { return r.find(kind).Excused }

// Judged returns how many executions or requests kind could have been found in.
func (r *Report) Judged(kind Kind) int { return r.find(kind).Judged }

// Broken returns how many findings of all verdict kinds there are.
func (r *Report) Broken() int {
	n := 0
	for _, f := range r.Findings {
		if f.Verdict {
			n += f.Count
		}
	}
	return n
}

// Vacuous reports that no two executions shared a key, so that no order could
// have been broken.
func (r *Report) Vacuous() bool { return r.Judged(Overlap) == 0 }

// OK reports that the history is whole and shows none of the verdict kinds. A
// vacuous history is OK: ask Vacuous too.
func (r *Report) OK() bool { return r.Refused == 0 && r.Broken() == 0 }

// Verdict is the report in a line.
func (r *Report) Verdict() string {
	switch {
	case r.Broken() > 0:
		var parts []string
		for _, f := range r.Findings {
			if f.Verdict && f.Count > 0 {
				parts = append(parts, fmt.Sprintf("%s %d", f.Kind, f.Count))
			}
		}
		return "BROKEN: " + strings.Join(parts, ", ")
	case r.Refused > 0:
		return fmt.Sprintf("NOT JUDGED: the history was full and refused %d requests", r.Refused)
	case r.Vacuous():
		return "NOTHING TO JUDGE: no two executions share a key"
	default:
		return "PASS"
	}
}

// WriteTo writes the report for a person to read, the verdict last.
func (r *Report) WriteTo(w io.Writer) (int64, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "executed  %d requests of %d keys", r.Executions-r.Unkeyed, r.Keys)
	if r.Unkeyed > 0 {
		fmt.Fprintf(&b, ", and %d without a key", r.Unkeyed)
	}
	b.WriteByte('\n')
	if r.Sent > 0 {
		fmt.Fprintf(&b, "sent      %d requests, %d answered\n", r.Sent, r.Answered)
	}
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, f := range r.Findings {
		r.writeFinding(tw, f)
	}
	tw.Flush()
	for _, f := range r.Findings {
		for i, example := range f.Examples {
			if i == 0 {
				fmt.Fprintf(&b, "\n%s\n", f.Kind)
			}
			fmt.Fprintf(&b, "  %s\n", example)
		}
		if more := f.Count - len(f.Examples); more > 0 {
			fmt.Fprintf(&b, "  … and %d more\n", more)
		}
	}
	fmt.Fprintf(&b, "\n%s\n", r.Verdict())
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}

func (r *Report) writeFinding(w io.Writer, f Finding) {
	switch {
	case f.Judged == 0:
		fmt.Fprintf(w, "%s\t–\tnot seen: %s\n", f.Kind, f.Subject)
	case f.Verdict && f.Excused > 0:
		fmt.Fprintf(w, "%s\t%d\tof %d %s, and %d that are excused\n", f.Kind, f.Count, f.Judged, f.Subject, f.Excused)
	case f.Verdict:
		fmt.Fprintf(w, "%s\t%d\tof %d %s\n", f.Kind, f.Count, f.Judged, f.Subject)
	case f.Kind == SendSwap && r.noise != nil:
		fmt.Fprintf(w, "%s\t%d\tof %d %s, %.2f %%; noise floor %.2f %% (no verdict)\n", f.Kind, f.Count, f.Judged, f.Subject,
			100*float64(f.Count)/float64(f.Judged), 100*r.noise.Share())
	default:
		fmt.Fprintf(w, "%s\t%d\tof %d %s (no verdict)\n", f.Kind, f.Count, f.Judged, f.Subject)
	}
}

// String is the report as WriteTo writes it.
func (r *Report) String() string {
	var b strings.Builder
	r.WriteTo(&b)
	return b.String()
}
