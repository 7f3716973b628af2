package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"lanekeeper/admin"
)

func eventsCommand() *cobra.Command {
	var o adminOptions
	var follow bool
	var since time.Duration
	command := &cobra.Command{
		Use:   "events",
		Short: "Show what has happened",
		Long: `Events shows what has become of the nodes, and of what each knows of the others:
the lines of their logs that are events, whatever log.level says, by time. A node
keeps the newest thousand or so, in memory: one that is started anew has none of
before.

With -f it goes on with each event that comes to any node, until it is interrupted.
A member that does not answer is named, and so is one that does so again; what has
happened there meanwhile is shown then. When the node that is asked is started anew,
or the connection breaks, it says so and tries again. If a node has let go of some
events, it says how many. With -o json it then writes one event per line.

Keys are as the log has them: hashed, or as log.keys says.

` + eventKinds() + `

Exit code 130: interrupted.` + adminHelp,
		Example: `  lanekeeper events --since 10m
  lanekeeper events -f
  lanekeeper events -f -o json | jq -r 'select(.event == "lease-ended").attributes.lease'`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if follow && o.output == "yaml" {
				return errors.New("--output yaml does not go with --follow: want table or json")
			}
			if since < 0 {
				return errors.New("--since is how long ago, such as 10m")
			}
			client, err := o.client()
			if err != nil {
				return err
			}
			var from time.Time
			if since > 0 {
				from = time.Now().Add(-since)
			}
			if !follow {
				return showEvents(cmd, &o, client, from)
			}
			if o.node != "" { // else a name that nobody has would be waited for
				if _, err := client.ask(cmd.Context(), http.MethodGet, "events", url.Values{"limit": {"1"}}, new(admin.Events)); err != nil {
					return err
				}
			}
			ctx, restore := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer restore()
			p := &eventPrinter{out: cmd.OutOrStdout(), json: o.output == "json", headers: !o.noHeaders, from: from}
			f := &follower{client: client.patient(), only: o.node, notes: cmd.ErrOrStderr(), event: p.event, pause: followPause, silence: 3 * admin.Heartbeat}
			return f.run(ctx)
		},
	}
	flags := command.Flags()
	flags.BoolVarP(&follow, "follow", "f", false, "go on with each event that comes")
	flags.DurationVar(&since, "since", 0, "only events of the last `duration`, such as 10m, by this machine's clock")
	o.bindNode(command, oneNode)
	return command
}

// eventKinds lists the kinds of events for people.
func eventKinds() string {
	t := &table{}
	for _, kind := range admin.EventKinds {
		t.add(unmarked, "  "+kind.Name, kind.Meaning)
	}
	var text bytes.Buffer
	t.write(&text, false, false)
	return "The events:\n" + strings.TrimSuffix(text.String(), "\n")
}

func showEvents(cmd *cobra.Command, o *adminOptions, client *adminClient, from time.Time) error {
	var events admin.Events
	answer, err := client.ask(cmd.Context(), http.MethodGet, "events", nil, &events)
	if err != nil {
		return err
	}
	if !from.IsZero() {
		events.Events = slices.DeleteFunc(events.Events, func(e admin.Event) bool { return e.Time.Before(from) })
		if answer, err = json.Marshal(events); err != nil {
			return failure(err)
		}
	}
	tellSilent(cmd, events.Silent)
	t := &table{header: eventHeader}
	for i := range events.Events {
		addEvent(t, &events.Events[i])
	}
	return o.write(cmd, answer, t)
}

var eventHeader = []string{"TIME", "NODE", "LEVEL", "EVENT", "DETAIL"}

const eventTime = "2006-01-02T15:04:05.000Z"

func addEvent(t *table, e *admin.Event) {
	colour := unmarked
	switch e.Level {
	case "WARN":
		colour = caution
	case "ERROR":
		colour = failing
	}
	t.add(colour, e.Time.UTC().Format(eventTime), e.Node, e.Level, e.Event, detailOf(e))
}

// detailOf is the message, and the attributes as the log writes them as text.
func detailOf(e *admin.Event) string {
	text := e.Message
	decoder := json.NewDecoder(bytes.NewReader(e.Attributes))
	if _, err := decoder.Token(); err != nil { // the bracket
		return text
	}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			break
		}
		var raw json.RawMessage
		if decoder.Decode(&raw) != nil {
			break
		}
		value := string(raw)
		var s string
		if json.Unmarshal(raw, &s) == nil && bareWord(s) {
			value = s
		}
		text += fmt.Sprintf(" %v=%s", name, value)
	}
	return text
}

// bareWord reports whether a value needs no quotes.
func bareWord(s string) bool { return s != "" && !strings.ContainsAny(s, " \"=") }

// eventPrinter writes events as they come.
type eventPrinter struct {
	out     io.Writer
	json    bool
	headers bool // are yet to be written
	from    time.Time
	widths  [4]int // of the columns so far
}

// event writes one event. data is what the node sent.
func (p *eventPrinter) event(e *admin.Event, data []byte) error {
	if e.Time.Before(p.from) {
		return nil
	}
	var text bytes.Buffer
	if p.json {
		if err := json.Compact(&text, printableJSON(data)); err != nil {
			return failure(err)
		}
		text.WriteByte('\n')
	} else {
		p.write(&text, e)
	}
	_, err := p.out.Write(text.Bytes())
	return failure(err)
}

// write aligns with what has been written: nobody knows what comes.
func (p *eventPrinter) write(w io.Writer, e *admin.Event) {
	t := &table{header: slices.Clone(eventHeader)}
	addEvent(t, e)
	if p.widths[0] == 0 {
		p.widths = [4]int{len(eventTime), 0, len("ERROR"), 0}
		for _, kind := range admin.EventKinds {
			p.widths[3] = max(p.widths[3], len(kind.Name))
		}
	}
	for i := range p.widths {
		p.widths[i] = max(p.widths[i], len([]rune(t.rows[0].cells[i])), len(t.header[i]))
		t.rows[0].cells[i] = fmt.Sprintf("%-*s", p.widths[i], t.rows[0].cells[i])
	}
	t.write(w, p.headers, colours(p.out))
	p.headers = false
}

const (
	followPause = 2 * time.Second
	followMax   = 1 << 20 // bytes of a line of a stream
)

// patient is the client for answers that do not end.
func (c *adminClient) patient() *adminClient {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableKeepAlives, transport.ResponseHeaderTimeout = true, adminTimeout
	patient := *c
	patient.node = "" // a stream is of the whole cluster
	patient.http = &http.Client{Transport: transport, CheckRedirect: c.http.CheckRedirect}
	return &patient
}

// follower reads a cluster's events from a node's stream, and comes back when it breaks. Each
// time it asks first for all that there are, since a stream begins with the newest alone. Events
// are known by their nodes and numbers, so each is told once, and none is lost unseen.
type follower struct {
	client  *adminClient
	only    string // a node whose events are wanted; empty: all
	notes   io.Writer
	event   func(e *admin.Event, data []byte) error
	pause   time.Duration // before it comes back
	silence time.Duration // after which a stream is taken for broken

	reached bool              // the node has answered at least once
	lost    bool              // it has been said that the stream is
	seen    map[string]uint64 // of each node, the event seen last
	mute    []string          // members that do not answer, as has been said
}

// errStreamEnded is no failure: the node ends, or there is no way to it for now.
var errStreamEnded = errors.New("the stream has ended")

// run ends with ctx, and with what trying again would not change.
func (f *follower) run(ctx context.Context) error {
	for {
		err := f.once(ctx)
		switch {
		case ctx.Err() != nil:
			return &exitError{code: exitInterrupt}
		case !f.reached || !passes(err):
			return err
		case !f.lost:
			f.lost = true
			fmt.Fprintf(f.notes, "! %s: %s; trying again\n", f.client.base, printable(err.Error()))
		}
		select {
		case <-ctx.Done():
		case <-time.After(f.pause):
		}
	}
}

// errBusy is an answer that is another one later.
var errBusy = errors.New("the node has no stream to spare")

// passes reports whether an error may be over when it is tried again.
func passes(err error) bool {
	return errors.Is(err, errStreamEnded) || errors.Is(err, errBusy) || errors.Is(err, errUnreachable)
}

// once reads one stream to its end. It never returns nil.
func (f *follower) once(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := f.past(ctx); err != nil {
		return err
	}
	request, err := f.client.request(ctx, http.MethodGet, "events", url.Values{"stream": {"events"}})
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "text/event-stream")
	response, err := f.client.send(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return f.refused(response)
	}
	if kind := response.Header.Get("Content-Type"); kind != "text/event-stream" {
		return f.client.stranger(response.Status)
	}
	if f.reached = true; f.lost {
		f.lost = false
		fmt.Fprintf(f.notes, "! %s answers again\n", f.client.base)
	}
	quiet := time.AfterFunc(f.silence, func() { cancel(fmt.Errorf("nothing came for %s", f.silence)) })
	defer quiet.Stop()
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, followMax)
	err = f.read(lines, func() { quiet.Reset(f.silence) })
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = fmt.Errorf("%w: %w", errStreamEnded, cause)
	}
	return err
}

func (f *follower) refused(response *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(response.Body, adminAnswerMax))
	if err != nil {
		return f.client.unreachable(err)
	}
	err = f.client.refused(response, body)
	if response.StatusCode == http.StatusServiceUnavailable {
		return &exitError{code: exitFailure, err: fmt.Errorf("%w: %w", errBusy, err)}
	}
	return err
}

// read reads messages; heard is called with each line.
func (f *follower) read(lines *bufio.Scanner, heard func()) error {
	var kind string
	var data []byte
	for lines.Scan() {
		heard()
		name, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case lines.Text() == "":
			if err := f.message(kind, data); err != nil {
				return err
			}
			kind, data = "", nil
		case name == "event":
			kind = value
		case name == "data":
			data = append(data, value...)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%w: %w", errStreamEnded, err)
	}
	return errStreamEnded
}

func (f *follower) message(kind string, data []byte) error {
	switch kind {
	case admin.BoardEvent:
		return f.tell(data)
	case admin.BoardSilent:
		var silent []admin.Silent
		if json.Unmarshal(data, &silent) != nil {
			return f.client.stranger("what is no event")
		}
		f.tellSilent(silent)
	}
	return nil // what the stream begins with, heartbeats, and what is missing, which tell sees itself
}

// past asks for all events that the nodes have kept.
func (f *follower) past(ctx context.Context) error {
	var all struct {
		Events []json.RawMessage `json:"events"`
		Silent []admin.Silent    `json:"silent"`
	}
	if _, err := f.client.ask(ctx, http.MethodGet, "events", nil, &all); err != nil {
		return err
	}
	f.tellSilent(all.Silent)
	for _, data := range all.Events {
		if err := f.tell(data); err != nil {
			return err
		}
	}
	return nil
}

// tell tells an event, unless it has been.
func (f *follower) tell(data []byte) error {
	var e admin.Event
	if json.Unmarshal(data, &e) != nil {
		return f.client.stranger("what is no event")
	}
	last, known := f.seen[e.Node]
	if known && e.ID <= last {
		return nil
	}
	if f.seen == nil {
		f.seen = make(map[string]uint64)
	}
	f.seen[e.Node] = e.ID
	if f.only != "" && f.only != e.Node {
		return nil
	}
	if gap := e.ID - last - 1; known && gap > 0 && gap < admin.EventsKept {
		fmt.Fprintf(f.notes, "! %d events of %s are missing here: it did not keep them long enough\n", gap, printable(e.Node))
	}
	return f.event(&e, data)
}

// tellSilent notes who has become silent, and who is so no more.
func (f *follower) tellSilent(silent []admin.Silent) {
	var mute []string
	for _, s := range silent {
		if mute = append(mute, s.Node); !slices.Contains(f.mute, s.Node) {
			fmt.Fprintf(f.notes, "! %s does not answer, and its events are missing: %s\n", printable(s.Node), printable(s.Why))
		}
	}
	for _, node := range f.mute {
		if !slices.Contains(mute, node) {
			fmt.Fprintf(f.notes, "! %s answers again, or is a member no more\n", printable(node))
		}
	}
	f.mute = mute
}
