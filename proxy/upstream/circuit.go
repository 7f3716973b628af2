package upstream

import "time"

// circuit is what the failures of requests have done to a target.
type circuit struct {
	failures int       // in a row
	until    time.Time // open until then, and half open after; zero: closed
	probing  bool      // half open, and a request is on its way
}

func (c *circuit) open(now time.Time) bool { return now.Before(c.until) }

// admits reports whether a request may be let through.
func (c *circuit) admits() bool {
	return c.until.IsZero() || !c.probing && !c.open(time.Now())
}

// enter lets a request through, and reports whether it is one that tries.
func (c *circuit) enter() (probes bool) {
	c.probing = !c.until.IsZero()
	return c.probing
}

// judge takes what became of a request, and reports whether that opened or closed the circuit.
// While it is open or half open only a request that tries has a say: others are from before.
func (c *circuit) judge(policy *Circuit, failed, probes bool, now time.Time) (turned bool) {
	switch {
	case policy.Failures == 0, !c.until.IsZero() && !probes:
		return false
	case !failed:
		*c = circuit{}
		return true
	}
	if c.failures++; !probes && c.failures < policy.Failures {
		return false
	}
	c.until, c.probing = now.Add(policy.OpenFor), false
	return true
}

// answered ends a row of failures.
func (c *circuit) answered() {
	if c.until.IsZero() {
		c.failures = 0
	}
}
