package admin

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

func (a *api) statusHere(*http.Request, url.Values) (Status, *problem) { return a.ownStatus(), nil }

func (a *api) ownStatus() Status {
	status := a.cluster.Status()
	status.NotReady = list(status.NotReady)
	status.LaneWait.Buckets, status.Upstream.Buckets = list(status.LaneWait.Buckets), list(status.Upstream.Buckets)
	return status
}

func mergeStatus(_ *http.Request, _ url.Values, all []Status, silent []Silent) Status {
	status := all[0]
	status.Nodes = slices.Clone(all)
	slices.SortFunc(status.Nodes, func(a, b Status) int { return cmp.Compare(a.Node, b.Node) })
	numbers := numbersOf(all, silent)
	status.Numbers, status.Silent = &numbers, silent
	return status
}

// numbersOf adds up what nodes say of themselves.
func numbersOf(all []Status, silent []Silent) Numbers {
	n := Numbers{Time: time.Now(), Members: all[0].Members, Answered: len(all), Silent: silent, Warnings: []string{}}
	var wait, upstream []Latencies
	for i := range all {
		s := &all[i]
		if s.Ready {
			n.Ready++
		}
		if s.DrainingSince != nil {
			n.Draining++
		}
		n.Rate += s.Rate
		n.Lanes += s.Lanes
		n.Waiting += s.Waiting
		n.Running += s.Running
		n.Held += s.Held
		n.Stopped += s.Stopped
		n.Halted += s.Halted
		n.Hot += s.Hot
		n.OldestWait = max(n.OldestWait, s.OldestWait)
		n.Violations += s.Violations
		n.Unknown += s.Unknown
		wait, upstream = append(wait, s.LaneWait), append(upstream, s.Upstream)
	}
	n.LaneWait, n.Upstream = joinLatencies(wait), joinLatencies(upstream)
	n.warn(all)
	return n
}

// warn says what is amiss. Who runs another configuration is for Members to say: it knows that of
// silent ones, too.
func (n *Numbers) warn(all []Status) {
	add := func(format string, args ...any) { n.Warnings = append(n.Warnings, fmt.Sprintf(format, args...)) }
	for _, s := range n.Silent {
		add("%s did not answer: %s", s.Node, s.Why)
	}
	all = slices.SortedFunc(slices.Values(all), func(a, b Status) int { return cmp.Compare(a.Node, b.Node) })
	n.warnOfDead(all)
	if n.Violations > 0 {
		add("the order was seen broken %d times", n.Violations)
	}
	for i := range all {
		s := &all[i]
		if r := s.LastReload; r != nil && !r.Successful {
			add("%s did not reload its configuration: %s", s.Node, r.Failure)
		}
		away := s.Lease != nil && s.Lease.Away != ""
		if away {
			add("%s has no lease from the coordinator, and refuses strict requests: %s", s.Node, s.Lease.Away)
		}
		if s.DrainingSince == nil {
			for _, why := range s.NotReady {
				if away && strings.HasSuffix(why, s.Lease.Away) {
					continue // that is said
				}
				add("%s is not ready: %s", s.Node, why)
			}
		}
	}
}

// warnOfDead says who is taken for dead, and by whom: after a split each side says so of the other.
func (n *Numbers) warnOfDead(all []Status) {
	by := make(map[string][]string)
	for i := range all {
		for _, name := range all[i].Dead {
			by[name] = append(by[name], all[i].Node) // in order
		}
	}
	for _, name := range slices.Sorted(maps.Keys(by)) {
		verb := "takes"
		if len(by[name]) > 1 {
			verb = "take"
		}
		n.Warnings = append(n.Warnings, fmt.Sprintf("%s %s %s for dead", strings.Join(by[name], ", "), verb, name))
	}
}

// joinLatencies adds the buckets of nodes, which may differ in their bounds.
func joinLatencies(all []Latencies) (whole Latencies) {
	at := make(map[Bucket]uint64)
	for i := range all {
		for _, b := range all[i].Buckets {
			at[Bucket{LE: b.LE, Above: b.Above}] += b.Count
		}
	}
	var buckets []Bucket
	for b, count := range at {
		b.Count = count
		buckets = append(buckets, b)
	}
	return NewLatencies(buckets)
}

// NewLatencies estimates quantiles: within a bucket all are taken to be spread evenly.
func NewLatencies(buckets []Bucket) Latencies {
	buckets = slices.DeleteFunc(buckets, func(b Bucket) bool { return b.Count == 0 })
	slices.SortFunc(buckets, func(a, b Bucket) int { return cmp.Or(cmp.Compare(a.LE, b.LE), cmp.Compare(a.Above, b.Above)) })
	l := Latencies{Buckets: list(buckets)}
	for _, b := range buckets {
		l.Count += b.Count
	}
	l.P50, l.P99 = l.quantile(0.50), l.quantile(0.99)
	return l
}

func (l *Latencies) quantile(q float64) float64 {
	rank, before := q*float64(l.Count), 0.0
	for _, b := range l.Buckets {
		if count := float64(b.Count); before+count >= rank {
			return b.Above + (b.LE-b.Above)*(rank-before)/count
		} else {
			before += count
		}
	}
	return 0
}
