package main

import (
	"fmt"
	"slices"
	"time"

	"lanekeeper/proxy"
)

// failureProblems judges after_failure wherever it stands.
func (l LaneConfig) failureProblems() (problems []laneProblem) {
	a := &l.AfterFailure
	for i, status := range a.Statuses {
		setting := fmt.Sprintf("after_failure.statuses[%d]", i)
		switch _, err := proxy.ParseStatuses([]string{status}); {
		case err != nil:
			problems = append(problems, laneProblem{setting, err.Error()})
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
	p.Statuses, _ = proxy.ParseStatuses(a.Statuses) // as was checked
	return p
}
