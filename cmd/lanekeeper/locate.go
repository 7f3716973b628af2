package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"lanekeeper/admin"
	"lanekeeper/proxy"
)

func locateCommand() *cobra.Command {
	var o adminOptions
	var without []string
	var r sampleRequest
	command := &cobra.Command{
		Use:   "locate SPACE/KEY",
		Short: "Show where a key, or a request, belongs",
		Long: `Locate shows who owns a key, and how its lane is. The key is written as it is,
order/A-1042, or as Lanekeeper-Key and the log write it, order:A%201042. With
--without it shows who would own the key if those members left.

With --request and --config it finds the key of a request first, by the same
code that serves requests, and says which route takes it and why. That needs no
node; if one answers, it is asked where the key belongs.

Exit code 0: it belongs somewhere. 5: the request would be refused, or nobody is
known to own the key. 3: the configuration has errors.` + adminHelp,
		Example: `  lanekeeper locate order/A-1042
  lanekeeper locate order/A-1042 --without lk-1
  lanekeeper locate --request 'POST /orders' -H 'X-Order-Id: A-1042' --config lanekeeper.yaml
  lanekeeper locate --request 'POST /orders' -d '{"data":{"order":{"id":"A-1042"}}}' --config lanekeeper.yaml`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := o.client()
			switch {
			case err != nil:
				return err
			case (len(args) == 1) == (r.line != ""):
				return errors.New("want either SPACE/KEY or --request")
			case r.line == "" && (r.config != "" || r.body != "" || len(r.header) > 0 || r.from != defaultSender):
				return errors.New("--config, --header, --data and --from belong to --request")
			case r.line != "" && r.config == "":
				return errors.New("--request wants --config: the file that says what a request's key is")
			}
			l := locator{command: cmd, options: &o, client: client, without: without, asked: cmd.Flags().Changed("admin")}
			if r.line != "" {
				return l.locateRequest(&r)
			}
			space, key, err := parseKey(args[0])
			if err != nil {
				return err
			}
			return l.locateKey(space, key)
		},
	}
	flags := command.Flags()
	flags.StringArrayVar(&without, "without", nil, "as if this `member` had left; may be repeated")
	flags.StringVar(&r.line, "request", "", "find the key of a request: `'METHOD /path?query'`")
	flags.StringVar(&r.config, "config", "", "with --request: configuration `file`")
	flags.StringArrayVarP(&r.header, "header", "H", nil, "with --request: a `'Name: value'`; may be repeated")
	flags.StringVarP(&r.body, "data", "d", "", "with --request: its `body`")
	flags.StringVar(&r.from, "from", defaultSender, "with --request: the `address` it comes from")
	o.bind(command)
	return command
}

const defaultSender = "127.0.0.1"

var keyText = regexp.MustCompile(`^([a-z0-9_-]{1,32})([/:])(.+)$`)

// parseKey reads order/A-1042, and order:A%201042 as Lanekeeper-Key writes it.
func parseKey(text string) (space, key string, err error) {
	parts := keyText.FindStringSubmatch(strings.ReplaceAll(text, "\n", "\x00"))
	if parts == nil {
		return "", "", fmt.Errorf("%q is not a key: write SPACE/KEY, such as order/A-1042", text)
	}
	space, key = parts[1], text[len(parts[1])+1:]
	if parts[2] == ":" {
		if key, err = url.PathUnescape(key); err != nil {
			return "", "", fmt.Errorf("%q is not a key as Lanekeeper-Key writes it: %w; one that is written as it is has a slash behind its space", text, err)
		}
	}
	return space, key, nil
}

// locator answers one locate command.
type locator struct {
	command *cobra.Command
	options *adminOptions
	client  *adminClient
	without []string
	asked   bool // for the node that --admin names
}

// ask asks the node where a key belongs.
func (l *locator) ask(ctx context.Context, space, key string) (*admin.Location, []byte, error) {
	var location admin.Location
	query := url.Values{"space": {space}, "key": {key}, "without": l.without}
	answer, err := l.client.ask(ctx, http.MethodGet, "locate", query, &location)
	return &location, answer, err
}

func (l *locator) locateKey(space, key string) error {
	location, answer, err := l.ask(l.command.Context(), space, key)
	if err != nil {
		return err
	}
	t := &table{}
	t.add(unmarked, "key", printable(location.Space+"/"+location.Key))
	addLocation(t, location)
	if err := l.options.write(l.command, answer, t); err != nil {
		return err
	}
	return belongs(location)
}

// belongs is the exit code of a key that belongs nowhere.
func belongs(location *admin.Location) error {
	if len(location.Without) == 0 && location.Owner == "" || location.Target == "" {
		return &exitError{code: exitNegative}
	}
	return nil
}

// addLocation adds what a node says of a key.
func addLocation(t *table, l *admin.Location) {
	t.add(unmarked, "partition", fmt.Sprintf("%d of %d", l.Partition, l.Of))
	next := ""
	if len(l.Next) > 0 {
		next = "  (next: " + strings.Join(l.Next, ", ") + ")"
	}
	moves := l.Owner != l.Target
	if l.Owner == "" {
		t.add(failing, "owner", "nobody, as far as "+l.Node+" knows")
	} else if moves {
		t.add(unmarked, "owner", l.Owner, l.OwnerAddress)
	} else {
		t.add(unmarked, "owner", l.Owner, l.OwnerAddress+next)
	}
	if len(l.Without) > 0 {
		t.add(unmarked, "would be", orDash(l.Target), "without "+strings.Join(l.Without, ", ")+next)
	} else if moves {
		t.add(caution, "moves to", orDash(l.Target), strings.TrimSpace(next))
	}
	switch {
	case l.Lane != nil:
		t.add(unmarked, "lane", laneText(l.Lane))
	case l.Owner == l.Node:
		t.add(unmarked, "lane", "empty")
	case l.Owner != "":
		t.add(unmarked, "lane", "at "+l.Owner+", which alone knows it")
	}
}

func laneText(l *admin.Lane) string {
	text := fmt.Sprintf("depth %d", l.Depth)
	if l.Blocked {
		text += ", waits for a former owner to finish"
	}
	if l.Ticket != "" {
		text += fmt.Sprintf(", head %s %s (ticket %s)", l.TicketState, seconds(l.Seconds), l.Ticket)
	}
	return text + ", est. wait " + seconds(l.WaitSeconds)
}

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
	p, err := idleProxy(config)
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
		Space: e.Space, Key: e.Escaped(), Source: e.Source, Absent: append([]string{}, e.Absent...),
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
