package main

import (
	"fmt"
	"slices"
	"strings"

	"lanekeeper/proxy"
)

// Quick is a configuration without a file: one service, and where its
// requests carry their key.
type Quick struct {
	Upstream string // http://host:port
	Key      string // see quickKeyHelp
}

// quickKeyHelp is the help text of the flag that gives Quick.Key.
const quickKeyHelp = `where requests carry their key:
  header:X-Order-Id    a header
  query:order_id       a query parameter
  cookie:cart_id       a cookie
  json:data.order.id   a member of a JSON body
  path:/orders/{id}    a wildcard of the path; with several, name
                       the one: path:/shops/{shop}/orders/{id}#id.
                       It takes /orders/7 alone; to order what is
                       below as well: path:/orders/{id}/{rest...}
POST, PUT, PATCH and DELETE of one key run one at a time, in order; GET and
HEAD of it run together, between them; OPTIONS passes. Without the key GET,
HEAD and OPTIONS pass, and other methods are refused (400 missing-key). With
path: every other path passes`

// read returns the settings that the flags stand for. Reads without a key are
// let through by a route of their own, as a page or a health check has no
// order to keep, while a write without one is a mistake that should be seen.
func (q *Quick) read(report *Report) map[string]any {
	const space, upstream = "default", "app"
	report.places["upstreams"] = Place{Source: "--upstream"}
	report.places["routes"] = Place{Source: "--key"}
	match, source, err := q.source()
	if err != nil {
		report.add(report.places["routes"], SeverityError, "", "%v", err)
		return nil
	}
	route := func(name, missing string, methods ...any) map[string]any {
		m := map[string]any{"path": match}
		if methods != nil {
			m["methods"] = methods
		}
		return map[string]any{
			"name": name, "match": m, "upstream": upstream,
			"key": map[string]any{"space": space, "from": []any{source}, "missing": missing},
		}
	}
	routes := []any{route("key-reads", "bypass", "GET", "HEAD", "OPTIONS"), route("key", "reject")}
	if match != everyPath {
		routes = append(routes, map[string]any{
			"name": "rest", "match": map[string]any{"path": everyPath}, "upstream": upstream,
			"lane": map[string]any{"exclusive": []any{}, "shared": []any{}, "bypass": []any{"*"}},
		})
	}
	return map[string]any{
		"upstreams": []any{map[string]any{"name": upstream, "targets": []any{q.Upstream}}},
		"routes":    routes,
	}
}

const everyPath = "/{rest...}"

// source reads Key into a path template and a source of the key.
func (q *Quick) source() (match string, source map[string]any, err error) {
	kind, name, _ := strings.Cut(q.Key, ":")
	switch {
	case name == "":
		return "", nil, fmt.Errorf("%q does not say where the key is: write one like header:X-Order-Id", q.Key)
	case kind == "header", kind == "query", kind == "cookie", kind == "json":
		return everyPath, map[string]any{kind: name}, nil
	case kind != "path":
		const kinds = "header, query, cookie, json, path"
		return "", nil, fmt.Errorf("%q is not one of %s%s", kind, kinds, didYouMean(kind, strings.Split(kinds, ", ")))
	}
	template, wildcard, named := strings.Cut(name, "#")
	wildcards, err := proxy.CheckPath(template)
	switch {
	case err != nil:
		return "", nil, err
	case len(wildcards) == 0:
		return "", nil, fmt.Errorf("%s has no wildcard: write one like /orders/{id}", template)
	case !named:
		wildcard = wildcards[0]
	case !slices.Contains(wildcards, wildcard):
		return "", nil, fmt.Errorf("%s has no wildcard %q%s", template, wildcard, didYouMean(wildcard, wildcards))
	}
	return template, map[string]any{"path": wildcard}, nil
}
