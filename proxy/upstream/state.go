package upstream

import "time"

// State is an upstream at a moment.
type State struct {
	Targets  []TargetState
	Limit    int // on requests in flight; 0: there is none
	InFlight int
	Waiting  int    // requests that wait for a place
	Lookups  uint64 // that failed
}

// TargetState is a target at a moment.
type TargetState struct {
	Name      string
	Available bool
	Condition string // available, down, open or half open
	Pending   int
}

// State returns what u is like.
func (u *Upstream) State() State {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	s := State{Limit: u.limit.now(), InFlight: u.limit.used, Waiting: u.waiting.Len()}
	for _, t := range u.targets {
		condition := t.condition(now)
		s.Targets = append(s.Targets, TargetState{t.Name, condition == "available", condition, t.pending})
	}
	for _, source := range u.sources {
		s.Lookups += source.failures
	}
	return s
}
