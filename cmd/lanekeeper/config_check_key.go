package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"lanekeeper/proxy"
)

// checkKey judges where a route's key is; wildcards are those of its path.
func (c *checker) checkKey(path string, r RouteConfig, wildcards []string) {
	given := r.Key.Missing != "" // what a key lacks it has from the defaults
	switch {
	case !given && r.Lane.queues():
		c.errorf(path, `required, since its requests queue; a route that orders nothing says lane: {exclusive: [], shared: [], bypass: ["*"]}`)
		return
	case !given:
		return
	case !r.Lane.queues() && !c.choosesByKey(r):
		c.warnf(path, "never used: the lane lets every method pass")
	}
	if r.Key.Space == "" {
		c.errorf(path+".space", "required; routes that share keys must name the same space")
	}
	if len(r.Key.From) == 0 {
		c.errorf(path+".from", "required: at least one source, like [{header: X-Order-Id}]")
	}
	for i, source := range r.Key.From {
		at := fmt.Sprintf("%s.from[%d]", path, i)
		if len(source.All) == 0 {
			c.checkPlace(at, source.PlaceConfig, "path, header, query, cookie, json, all", r.Match.Path, wildcards)
			continue
		}
		if source.PlaceConfig != (PlaceConfig{}) {
			c.errorf(at, "want exactly one of path, header, query, cookie, json, all")
		}
		for j, part := range source.All {
			c.checkPlace(fmt.Sprintf("%s.all[%d]", at, j), part, "path, header, query, cookie, json", r.Match.Path, wildcards)
		}
	}
	c.checkIssuing(path, r)
}

// checkPlace judges one place of a key. choices are the fields of which it
// must have exactly one.
func (c *checker) checkPlace(path string, p PlaceConfig, choices, template string, wildcards []string) {
	given := 0
	for _, value := range []string{p.Path, p.Header, p.Query, p.Cookie, p.JSON} {
		if value != "" {
			given++
		}
	}
	switch {
	case given != 1:
		c.errorf(path, "want exactly one of %s", choices)
	case p.Issue && p.Cookie == "":
		c.errorf(path+".issue", "only a cookie can be issued: write it beside cookie")
	case p.Path != "" && template == "":
		c.errorf(path+".path", "the route has no match.path to take %s from", p.Path)
	case p.Path != "" && !slices.Contains(wildcards, p.Path) && !c.report.blames(routeOf(path)+".match.path"):
		c.errorf(path+".path", "%s has no wildcard %q%s", template, p.Path, didYouMean(p.Path, wildcards))
	case p.Header != "" && !tokenText.MatchString(p.Header):
		c.errorf(path+".header", "%q is not the name of a header", p.Header)
	case strings.HasPrefix(strings.ToLower(p.Header), "lanekeeper-"):
		c.errorf(path+".header", "%s is never there: Lanekeeper-* headers of clients are removed", p.Header)
	case p.Header != "" && !proxy.CheckHeader(p.Header):
		c.errorf(path+".header", "%s does not reach the service as it was sent, so it cannot hold a key", p.Header)
	case p.Cookie != "" && !tokenText.MatchString(p.Cookie):
		c.errorf(path+".cookie", "%q is not the name of a cookie", p.Cookie)
	case p.JSON != "":
		if err := checkJSONPath(p.JSON); err != nil {
			c.errorf(path+".json", "%v", err)
		}
	}
}

// routeOf is routes[i] of a path below it.
func routeOf(path string) string {
	route, _, _ := strings.Cut(path, ".")
	return route
}

// checkJSONPath accepts members joined by dots; \. is a dot within a name, and
// a decimal number may be an index. The library behind it knows queries,
// wildcards and modifiers as well: with those one body has several answers, and
// a key must have one.
func checkJSONPath(path string) error {
	member := 0 // bytes of the current one
	for i := 0; i < len(path); i++ {
		switch b := path[i]; {
		case b == '\\' && i+1 < len(path) && path[i+1] == '.':
			i++
			member++
		case b == '\\':
			return fmt.Errorf(`%s: \ may only stand before a dot`, path)
		case b == '.' && member == 0:
			return errEmptyMember
		case b == '.':
			member = 0
		case strings.IndexByte(`*?#|@[]{}()!`, b) >= 0:
			return fmt.Errorf("%s: %c is not allowed: write members joined by dots, like data.order.id or items.0.id", path, b)
		default:
			member++
		}
	}
	if member == 0 {
		return errEmptyMember
	}
	return nil
}

var errEmptyMember = errors.New(`an empty member: write members joined by single dots, and \. for a dot within a name`)
