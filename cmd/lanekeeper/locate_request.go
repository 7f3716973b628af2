package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"lanekeeper/proxy"
)

// sampleRequest is a request that somebody asks about.
type sampleRequest struct {
	line   string // METHOD /path?query
	config string
	header []string
	body   string
	from   string
}

// text is the request as a client would send it.
func (r *sampleRequest) text() ([]byte, error) {
	method, target, _ := strings.Cut(r.line, " ")
	switch {
	case strings.HasPrefix(method, "/") && target == "":
		method, target = http.MethodGet, method
		if r.body != "" {
			method = http.MethodPost
		}
	case target == "" || method == "" || strings.ContainsAny(target, " \r\n\t"):
		return nil, fmt.Errorf("--request %q: want a method and a target, like 'POST /orders'; a space in a path is %%20", r.line)
	}
	host := "localhost"
	if u, err := url.Parse(target); err == nil && u.Host != "" && u.IsAbs() {
		host = u.Host
	}
	var lines strings.Builder
	for _, h := range r.header {
		name, value, found := strings.Cut(h, ":")
		switch {
		case !found || !tokenText.MatchString(name) || strings.ContainsAny(value, "\r\n\x00"):
			return nil, fmt.Errorf("--header %q: want 'Name: value'", h)
		case strings.EqualFold(name, "Content-Length") || strings.EqualFold(name, "Transfer-Encoding"):
			return nil, fmt.Errorf("--header %q: the body's length is that of --data", h)
		case strings.EqualFold(name, "Host"):
			host = strings.TrimSpace(value)
		default:
			fmt.Fprintf(&lines, "%s:%s\r\n", name, value)
		}
	}
	if r.body != "" {
		fmt.Fprintf(&lines, "Content-Length: %d\r\n", len(r.body))
	}
	return []byte(fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\n%s\r\n%s", method, target, host, lines.String(), r.body)), nil
}

// requestLocation is where a request belongs, as JSON.
type requestLocation struct {
	Route   string          `json:"route"`   // empty: none takes it
	Passed  []passedRoute   `json:"passed"`  // routes before it, and what of their match the request does not have
	Mode    string          `json:"mode"`    // exclusive, shared, bypass; empty: refused before that is known
	Observe bool            `json:"observe"` // nothing waits, the route only watches
	Space   string          `json:"space"`
	Key     string          `json:"key"`    // as Lanekeeper-Key writes it; empty = no lane
	Issued  bool            `json:"issued"` // the key is a new session's, which would be issued: it is not known before
	Source  string          `json:"source"` // header:X-Order-Id, …, or client_ip
	Absent  []string        `json:"absent"` // sources before it
	Refusal *requestRefusal `json:"refusal"`

	Location json.RawMessage `json:"location"` // the node's answer; null: none was asked, or none answered
}

type passedRoute struct {
	Route string `json:"route"`
	For   string `json:"for"` // path, method, host, headers
}

type requestRefusal struct {
	Status int    `json:"status"`
	Slug   string `json:"slug"`
	Detail string `json:"detail"`
}

func (l *locator) locateRequest(r *sampleRequest) error {
	text, err := r.text()
	if err != nil {
		return err
	}
	from, err := netip.ParseAddr(r.from)
	if err != nil {
		return fmt.Errorf("--from %s: want an IP address", r.from)
	}
	config, _, err := loadConfig(l.command.ErrOrStderr(), LoadOptions{File: r.config})
	if err != nil {
		return err
	}
	edge := config.proxyConfig()
	if edge.Sessions != nil {
		if edge.Sessions.Secrets, err = readSecrets(config.Session.SecretFile); err != nil {
			fmt.Fprintf(l.command.ErrOrStderr(), "! session.secret_file: %v: no cookie can be verified here, so every session counts as a new one\n", err)
		}
	}
	p, err := idleProxy(edge)
	if err != nil {
		return failure(err)
	}
	e, err := p.Explain(text, from)
	if err != nil {
		return &exitError{code: exitNegative, err: err}
	}

	result := explained(e)
	t := &table{}
	addExplanation(t, e, config)
	var ends error
	switch {
	case e.Refusal != nil:
		ends = &exitError{code: exitNegative}
	case e.Key != nil:
		location, answer, err := l.ask(l.command.Context(), e.Space, string(e.Key))
		if exit := (*exitError)(nil); errors.As(err, &exit) && exit.code == exitAdmin && !l.asked && l.client.token == "" {
			fmt.Fprintf(l.command.ErrOrStderr(), "where the key belongs only a node knows: %v\n", exit.err)
		} else if err != nil {
			return err
		} else {
			result.Location = answer
			addLocation(t, location)
			ends = belongs(location)
		}
	}
	encoded, err := json.Marshal(result)
	if err != nil {
		return failure(err)
	}
	if err := l.options.write(l.command, encoded, t); err != nil {
		return err
	}
	return ends
}

func explained(e *proxy.Explanation) *requestLocation {
	r := &requestLocation{
		Route: e.Route, Passed: []passedRoute{}, Mode: e.Mode, Observe: e.Watch,
		Space: e.Space, Key: e.Escaped(), Issued: e.Issued, Source: e.Source, Absent: append([]string{}, e.Absent...),
	}
	for _, p := range e.Passed {
		r.Passed = append(r.Passed, passedRoute(p))
	}
	if e.Refusal != nil {
		r.Refusal = &requestRefusal{Status: e.Refusal.Status, Slug: e.Refusal.Slug, Detail: e.Refusal.Detail}
	}
	return r
}

// addExplanation adds which route takes a request, and what its key is.
func addExplanation(t *table, e *proxy.Explanation, config *Config) {
	var passed []string
	for _, p := range e.Passed {
		passed = append(passed, p.Route+" did not match: "+p.For)
	}
	switch {
	case e.Route == "" && len(passed) > 0:
		t.add(failing, "route", "none", "("+strings.Join(passed, "; ")+")")
	case e.Route != "":
		t.add(unmarked, "route", e.Route, fmt.Sprintf("(%s)", strings.Join(append([]string{ordinal(len(passed)+1, len(config.Routes))}, passed...), "; ")))
	}
	absent := ""
	if len(e.Absent) > 0 {
		absent = "(" + strings.Join(e.Absent, ", ") + " absent)"
	}
	switch {
	case e.Key != nil:
		t.add(unmarked, "key", e.Space+"/"+e.Escaped(), strings.TrimSpace("from "+e.Source+"  "+absent))
	case e.Issued:
		t.add(unmarked, "key", e.Space+"/…", strings.TrimSpace("would be issued: the request has no valid "+e.Source+"  "+absent))
	case e.Absent != nil:
		t.add(unmarked, "key", "none", absent)
	}
	if e.Mode != "" && e.Refusal == nil {
		note := map[string]string{"exclusive": "one at a time", "shared": "together with other shared ones", "bypass": "outside any lane"}[e.Mode]
		if e.Watch {
			note = "not enforced: the route only watches"
		}
		t.add(unmarked, "mode", e.Mode, note)
	}
	if e.Refusal != nil {
		t.add(failing, "refused", fmt.Sprintf("%d %s", e.Refusal.Status, e.Refusal.Slug), e.Refusal.Detail)
	}
}

// ordinal is the place of a route: 2nd of 4.
func ordinal(n, of int) string {
	suffix := "th"
	if n%100 < 11 || n%100 > 13 {
		switch n % 10 {
		case 1:
			suffix = "st"
		case 2:
			suffix = "nd"
		case 3:
			suffix = "rd"
		}
	}
	return fmt.Sprintf("%d%s of %d", n, suffix, of)
}
