package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"lanekeeper/admin"
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
	flags.StringVar(&r.line, "request", "", "the request `'METHOD /path?query'` whose key to find")
	flags.StringVar(&r.config, "config", "", "with --request: configuration `file`")
	flags.StringArrayVarP(&r.header, "header", "H", nil, "with --request: a header `'Name: value'`; may be repeated")
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
	if r := l.Record; r != nil {
		switch {
		case r.Titled:
			held := ""
			if r.Held != nil {
				held = ", held " + seconds(*r.Held)
			}
			t.add(unmarked, "on record", fmt.Sprintf("tenure %d, stamp %d, lease %s%s", r.Tenure, r.Stamp, r.Holder, held))
		case r.WaitsFor != "":
			t.add(caution, "waits for", "the end of lease "+r.WaitsFor, fmt.Sprintf("(tenure %d, as %s last read)", r.Tenure, l.Node))
		case l.Owner == l.Node:
			t.add(caution, "on record", "not as "+l.Node+"'s: strict requests are refused")
		}
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
	if h := l.Halt; h != nil {
		text += fmt.Sprintf(", halted for %s by ticket %s: %s", seconds(h.Seconds), h.Ticket, printable(h.Cause))
	}
	if l.Blocked {
		text += ", waits for a former owner to finish"
	}
	if l.Ticket != "" {
		text += fmt.Sprintf(", head %s %s (ticket %s)", l.TicketState, seconds(l.Seconds), l.Ticket)
	}
	if l.Depth > 0 && l.WaitSeconds == 0 { // no turn of it has ended yet
		return text + ", est. wait unknown"
	}
	return text + ", est. wait " + seconds(l.WaitSeconds)
}
