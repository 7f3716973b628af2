package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"lanekeeper/proxy"
)

func (c *checker) checkDefaults() {
	c.inherited = make(map[laneProblem]bool)
	for _, p := range c.cfg.Defaults.Lane.problems() {
		c.inherited[p] = true
		c.errorf("defaults.lane."+p.setting, "%s", p.message)
	}
	lane := c.cfg.Defaults.Lane
	c.checkRules("defaults.coalesce", c.cfg.Defaults.Coalesce, lane, func(method string) bool { return lane.class(method) == "exclusive" })
}

func (c *checker) checkRoutes() {
	first := make(map[string]string)
	for i, r := range c.cfg.Routes {
		path := fmt.Sprintf("routes[%d]", i)
		c.checkName(first, path, r.Name)
		c.checkUpstreamName(path+".upstream", r.Upstream)
		wildcards := c.checkMatch(path+".match", r.Match)
		c.checkLane(path+".lane", r.Lane)
		c.checkKey(path+".key", r, wildcards)
		c.checkIdempotency(path+".idempotency", r)
		c.checkSequence(path+".sequence", r)
		c.checkCoalesce(i)
		c.checkAgreement(i)
		c.checkReachable(i)
	}
}

func (c *checker) checkUpstreamName(path, name string) {
	var known []string
	for _, u := range c.cfg.Upstreams {
		known = append(known, u.Name)
	}
	switch {
	case name == "":
		c.errorf(path, "required: the name of an upstream")
	case !slices.Contains(known, name) && !c.report.blames("upstreams"):
		c.errorf(path, "there is no upstream %q%s", name, didYouMean(name, known))
	}
}

var (
	methodText = regexp.MustCompile(`^[A-Z][A-Z0-9-]*$`)
	tokenText  = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$") // RFC 9110 §5.6.2
)

// checkMatch returns the wildcards of the path, or nil if it is no template.
func (c *checker) checkMatch(path string, m MatchConfig) []string {
	if m.Host != "" && !isHost(strings.Trim(m.Host, "[]")) {
		c.errorf(path+".host", "%q is not a host name: write it without port and wildcards", m.Host)
	}
	for i, method := range m.Methods {
		at := fmt.Sprintf("%s.methods[%d]", path, i)
		if method == "*" {
			c.errorf(at, "* stands for nothing here: leave methods out to match them all")
		} else if message := methodProblem(method); message != "" {
			c.errorf(at, "%s", message)
		} else if slices.Contains(m.Methods[:i], method) {
			c.errorf(at, "%s is given twice", method)
		}
	}
	for i, h := range m.Headers {
		if !tokenText.MatchString(h.Name) {
			c.errorf(fmt.Sprintf("%s.headers[%d].name", path, i), "%q is not the name of a header", h.Name)
		}
	}
	if m.Path == "" {
		return nil
	}
	wildcards, err := proxy.CheckPath(m.Path)
	if err != nil {
		c.errorf(path+".path", "%v", err)
		return nil
	}
	return wildcards
}

// methodProblem says what is wrong with a method, or "".
func methodProblem(method string) string {
	switch {
	case method == "CONNECT" || method == "TRACE":
		return method + " is never forwarded"
	case !methodText.MatchString(method):
		return fmt.Sprintf("%q is not a method: they are in upper case, like POST", method)
	}
	return ""
}

// A laneProblem is what is wrong with one setting of a lane.
type laneProblem struct{ setting, message string }

// problems judges a lane wherever it stands.
func (l LaneConfig) problems() []laneProblem {
	var problems []laneProblem
	lists := make(map[string]string) // by method, the list that has it
	for _, list := range []struct {
		name    string
		methods []string
	}{{"exclusive", l.Exclusive}, {"shared", l.Shared}, {"bypass", l.Bypass}} {
		for _, method := range list.methods {
			message := ""
			if other, taken := lists[method]; taken && other == list.name {
				message = method + " is given twice"
			} else if taken {
				message = fmt.Sprintf("%s is in %s too: a method belongs to one list", method, other)
			} else if method != "*" {
				message = methodProblem(method)
			}
			if message != "" {
				problems = append(problems, laneProblem{list.name, message})
			}
			lists[method] = list.name
		}
	}
	return append(append(problems, l.hotProblems()...), l.failureProblems()...)
}

func (l LaneConfig) hotProblems() []laneProblem {
	switch hot := l.Hot; {
	case hot.Action == "spill" && hot.Depth == 0 && hot.Bytes == 0:
		return []laneProblem{{"hot.action", "spill, but hot.depth and hot.bytes are 0: no key is ever hot"}}
	case hot.Action != "shed":
	case hot.Depth == 0:
		return []laneProblem{{"hot.depth", "0, but hot.action is shed: that refuses the requests of a hot key at this depth"}}
	case hot.Depth > l.MaxDepth:
		return []laneProblem{{"hot.depth", fmt.Sprintf("%d is more than max_depth (%d), where every key is refused: shed would do nothing", hot.Depth, l.MaxDepth)}}
	}
	return nil
}

// checkLane reports what a route's lane does not have from the defaults, where
// it was reported already.
func (c *checker) checkLane(path string, l LaneConfig) {
	for _, p := range l.problems() {
		if !c.inherited[p] {
			c.errorf(path+"."+p.setting, "%s", p.message)
		}
	}
	if body := c.cfg.Server.MaxBody; l.MaxBytes < body && l.queues() {
		c.warnf(path+".max_bytes", "%s is less than server.max_body (%s): such a body is always refused", l.MaxBytes, body)
	}
}

// class is how a method runs: in the list that names it, else in that with *,
// else exclusive.
func (l LaneConfig) class(method string) string {
	for _, name := range []string{method, "*"} {
		switch {
		case slices.Contains(l.Exclusive, name):
			return "exclusive"
		case slices.Contains(l.Shared, name):
			return "shared"
		case slices.Contains(l.Bypass, name):
			return "bypass"
		}
	}
	return "exclusive"
}

// queues says whether any method does not bypass the lane.
func (l LaneConfig) queues() bool {
	return len(l.Exclusive)+len(l.Shared) > 0 || l.class("*") != "bypass"
}

// isExclusive says whether any request of the route runs alone in its lane.
func (r RouteConfig) isExclusive() bool {
	if len(r.Match.Methods) == 0 {
		return len(r.Lane.Exclusive) > 0 || r.Lane.class("*") == "exclusive"
	}
	return slices.ContainsFunc(r.Match.Methods, func(m string) bool { return r.Lane.class(m) == "exclusive" })
}

// checkAgreement compares route i with the first that shares its lanes: half a
// lane cannot wait while the other half only watches, nor be strict while the
// other half is not, nor be hot.
func (c *checker) checkAgreement(i int) {
	r := c.cfg.Routes[i]
	if r.Key.Space == "" || !r.isExclusive() {
		return
	}
	for j, other := range c.cfg.Routes[:i] {
		if other.Key.Space != r.Key.Space || !other.isExclusive() {
			continue
		}
		if other.Lane.Mode != r.Lane.Mode {
			c.errorf(fmt.Sprintf("routes[%d].lane.mode", i), "%s, but routes[%d] (%s) of the same space %s says %s: routes with exclusive methods that share lanes must agree",
				r.Lane.Mode, j, other.Name, r.Key.Space, other.Lane.Mode)
		} else if r.Lane.Mode == "enforce" && other.Lane.Guarantee != r.Lane.Guarantee {
			c.errorf(fmt.Sprintf("routes[%d].lane.guarantee", i), "%s, but routes[%d] (%s) of the same space %s says %s: routes with exclusive methods that share lanes must agree, or a request of one may run beside the other's when the network splits",
				r.Lane.Guarantee, j, other.Name, r.Key.Space, other.Lane.Guarantee)
		} else if r.Lane.Mode == "enforce" && other.Lane.Hot != r.Lane.Hot {
			c.errorf(fmt.Sprintf("routes[%d].lane.hot", i), "not that of routes[%d] (%s) of the same space %s: routes with exclusive methods that share lanes must agree on when a key is hot",
				j, other.Name, r.Key.Space)
		} else if r.Lane.Mode == "enforce" && other.Lane.AfterFailure.Action != r.Lane.AfterFailure.Action {
			c.errorf(fmt.Sprintf("routes[%d].lane.after_failure.action", i), "%s, but routes[%d] (%s) of the same space %s says %s: routes with exclusive methods that share lanes must agree on what a failure does to the requests behind it",
				r.Lane.AfterFailure.Action, j, other.Name, r.Key.Space, other.Lane.AfterFailure.Action)
		}
		return
	}
}

// checkReachable warns if an earlier route takes every request of route i.
func (c *checker) checkReachable(i int) {
	r := c.cfg.Routes[i]
	for j, earlier := range c.cfg.Routes[:i] {
		if earlier.Match.covers(r.Match) {
			path := fmt.Sprintf("routes[%d]", i)
			c.warnf(path, "%s (%s) can never match: routes[%d] (%s) comes first", path, r.Name, j, earlier.Name)
			return
		}
	}
}

// covers says that every request that other selects is selected by m. It errs
// on the side of silence: several routes together may cover a later one.
func (m MatchConfig) covers(other MatchConfig) bool {
	if m.Host != "" && !strings.EqualFold(m.Host, other.Host) {
		return false
	}
	if len(m.Methods) > 0 && (len(other.Methods) == 0 || slices.ContainsFunc(other.Methods, func(method string) bool { return !slices.Contains(m.Methods, method) })) {
		return false
	}
	for _, want := range m.Headers {
		if !slices.ContainsFunc(other.Headers, func(h HeaderConfig) bool {
			return strings.EqualFold(h.Name, want.Name) && (want.Value == "" || h.Value == want.Value)
		}) {
			return false
		}
	}
	return m.Path == "" || coversPath(m.Path, other.Path)
}

// coversPath compares two templates segment by segment.
func coversPath(template, other string) bool {
	if other == "" {
		other = "/{rest...}"
	}
	segments, others := strings.Split(template, "/")[1:], strings.Split(other, "/")[1:]
	for i, segment := range segments {
		switch {
		case i == len(segments)-1 && takesRest(segment):
			return true // /a/{rest...} takes /a as well
		case i == len(others), i == len(others)-1 && takesRest(others[i]):
			return false
		case segment == others[i]:
		case !strings.HasPrefix(segment, "{") || segment == "{$}" || others[i] == "{$}":
			return false
		}
	}
	return len(segments) == len(others)
}

// takesRest says whether a last segment stands for everything below.
func takesRest(segment string) bool { return segment == "" || strings.HasSuffix(segment, "...}") }
