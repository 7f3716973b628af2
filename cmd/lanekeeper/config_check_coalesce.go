package main

import (
	"fmt"
	"reflect"
	"slices"

	"lanekeeper/proxy"
)

var scopeWords = map[string]proxy.Scope{"path": proxy.ScopePath, "key": proxy.ScopeKey}

// defaultCoalesce is what each rule starts from. Its answer says what became of the
// request: that of a status which claims success is for clients that are known.
func defaultCoalesce() CoalesceConfig { return CoalesceConfig{Scope: "path", Status: 409} }

func (r CoalesceConfig) proxyCoalesce() proxy.Coalesce {
	return proxy.Coalesce{By: r.By, Over: r.Over, Scope: scopeWords[r.Scope], Status: r.Status}
}

// checkCoalesce judges the rules of route i. Those that are the defaults' were judged
// there; what of them does not fit the route does nothing in it.
func (c *checker) checkCoalesce(i int) {
	r := c.cfg.Routes[i]
	path := fmt.Sprintf("routes[%d].coalesce", i)
	if len(r.Coalesce) == 0 || reflect.DeepEqual(r.Coalesce, c.cfg.Defaults.Coalesce) {
		return
	}
	if r.Lane.Mode == "observe" {
		c.warnf(path, "does nothing: lane.mode is observe, so no request waits")
	}
	c.checkRules(path, r.Coalesce, r.Lane, func(method string) bool { return c.isExclusiveIn(r.Key.Space, method) })
	for j, rule := range r.Coalesce {
		if m := r.Match.Methods; len(m) > 0 && rule.By != "" && !slices.Contains(m, rule.By) {
			c.warnf(fmt.Sprintf("%s[%d].by", path, j), "%s is not among the route's methods, and the rules of a route are for its own requests: this one does nothing", rule.By)
		}
	}
}

// isExclusiveIn says whether some route of a space has requests of a method wait alone.
func (c *checker) isExclusiveIn(space, method string) bool {
	return slices.ContainsFunc(c.cfg.Routes, func(r RouteConfig) bool {
		return r.Key.Space == space && r.Lane.class(method) == "exclusive"
	})
}

// checkRules judges rules for a lane; waits says of a method whether there are requests
// of it to be superseded.
func (c *checker) checkRules(path string, rules []CoalesceConfig, lane LaneConfig, waits func(method string) bool) {
	for i, rule := range rules {
		at := fmt.Sprintf("%s[%d]", path, i)
		switch message := methodProblem(rule.By); {
		case rule.By == "":
			c.errorf(at+".by", "required: the method of the request that makes others needless, like DELETE")
		case message != "":
			c.errorf(at+".by", "%s", message)
		case lane.class(rule.By) != "exclusive":
			c.errorf(at+".by", "%s is %s here: only exclusive requests supersede others", rule.By, lane.class(rule.By))
		}
		if len(rule.Over) == 0 {
			c.errorf(at+".over", "required: the methods of those that it makes needless, like [PUT, PATCH]")
		}
		for j, method := range rule.Over {
			at := fmt.Sprintf("%s.over[%d]", at, j)
			if message := methodProblem(method); message != "" {
				c.errorf(at, "%s", message)
			} else if slices.Contains(rule.Over[:j], method) {
				c.errorf(at, "%s is given twice", method)
			} else if !waits(method) {
				c.errorf(at, "%s is %s here: only exclusive requests are superseded", method, lane.class(method))
			} else if k := slices.IndexFunc(rules[:i], func(earlier CoalesceConfig) bool { return earlier.covers(rule, method) }); k >= 0 {
				c.errorf(at, "%s over %s is in %s[%d] already, which comes first", rule.By, method, path, k)
			}
		}
	}
}

// covers says whether nothing of method is left to a later rule.
func (r CoalesceConfig) covers(later CoalesceConfig, method string) bool {
	return r.By == later.By && slices.Contains(r.Over, method) && (r.Scope == "key" || r.Scope == later.Scope)
}
