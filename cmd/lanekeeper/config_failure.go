package main

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"time"

	"lanekeeper/proxy"
)

// statusText is a code, or a class of codes.
var statusText = regexp.MustCompile(`^[1-5]([0-9]{2}|xx)$`)

// failureProblems judges after_failure wherever it stands.
func (l LaneConfig) failureProblems() (problems []laneProblem) {
	a := &l.AfterFailure
	for i, status := range a.Statuses {
		setting := fmt.Sprintf("after_failure.statuses[%d]", i)
		switch {
		case !statusText.MatchString(status):
			problems = append(problems, laneProblem{setting, fmt.Sprintf("%q is no status: write a code like 503, or a class like 5xx", status)})
		case status[0] == '1':
			problems = append(problems, laneProblem{setting, status + " is of an interim response, which is never a request's last"})
		case slices.Contains(a.Statuses[:i], status):
			problems = append(problems, laneProblem{setting, status + " is given twice"})
		}
	}
	if a.Backoff > a.MaxBackoff {
		problems = append(problems, laneProblem{"after_failure.backoff", fmt.Sprintf("%s is more than max_backoff (%s)", a.Backoff, a.MaxBackoff)})
	}
	if a.Action == "halt" && l.Hot.Action == "spill" {
		problems = append(problems, laneProblem{"after_failure.action", "halt, but hot.action is spill: of a turn that is lent only its borrower knows what failed, and the lane would go on"})
	}
	return problems
}

// policy is the edge's, of a configuration that Load found no error in.
func (a AfterFailureConfig) policy() proxy.AfterFailure {
	if a.Action == "continue" { // nothing else is looked at
		return proxy.AfterFailure{}
	}
	p := proxy.AfterFailure{
		Action:   afterFailureWords[a.Action],
		Attempts: a.Attempts, Backoff: time.Duration(a.Backoff), MaxBackoff: time.Duration(a.MaxBackoff),
		UpstreamIdempotent: a.UpstreamIdempotent,
		RefuseHalted:       a.Action == "halt" && a.Halted == "refuse",
	}
	for _, status := range a.Statuses {
		first, last := status, status
		if status[1:] == "xx" {
			first, last = status[:1]+"00", status[:1]+"99"
		}
		from, _ := strconv.Atoi(first) // as was checked
		to, _ := strconv.Atoi(last)
		p.Statuses = append(p.Statuses, proxy.StatusRange{First: from, Last: to})
	}
	return p
}
