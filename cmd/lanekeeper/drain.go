package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"lanekeeper/admin"
)

func drainCommand() *cobra.Command {
	var o adminOptions
	d := drain{every: 250 * time.Millisecond}
	command := &cobra.Command{
		Use:   "drain",
		Short: "Let a node give everything away",
		Long: `Drain lets a node turn unready, leave the ring and hand its partitions over,
each key as soon as its requests here are done. Requests that still arrive are
forwarded. The process goes on: end it when the drain is done, or undo it with
undrain.

With --wait it returns when nothing is left, and says how far it is. That is for
a hook before a container stops: the signal to stop then finds nothing to wait
for.

Exit code 0: it drains, or with --wait, is drained. 6: --timeout passed, and
something is left; the node goes on draining. 5: the node refuses.` + adminHelp,
		Example: `  lanekeeper drain --wait --timeout 25s
  draining lk-1: readiness off … ring left (v89) … 57 tickets in 9 lanes … 4 … 0   done in 6.4s`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := o.client()
			if err != nil {
				return err
			}
			ctx, restore := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer restore()
			d.client, d.out = client, cmd.ErrOrStderr()
			ends := d.begin(ctx)
			if ends == nil && d.waits {
				ends = d.wait(ctx)
			}
			if d.answer != nil {
				if err := writeStatus(cmd, &o, d.answer); err != nil {
					return err
				}
			}
			return ends
		},
	}
	command.Flags().BoolVar(&d.waits, "wait", false, "until nothing is left")
	command.Flags().DurationVar(&d.timeout, "timeout", 30*time.Second, "with --wait: for so long; 0 = for ever")
	o.bindNode(command, ofNode)
	return command
}

func undrainCommand() *cobra.Command {
	var o adminOptions
	command := &cobra.Command{
		Use:   "undrain",
		Short: "Make a draining node an ordinary one again",
		Long: `Undrain lets a node that drains, or has drained, take partitions again.

Exit code 5: the node refuses, such as one whose process is ending.` + adminHelp,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := o.client()
			if err != nil {
				return err
			}
			var status admin.Status
			answer, err := client.ask(cmd.Context(), http.MethodPost, "undrain", nil, &status)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "%s takes partitions again\n", printable(status.Node))
			return writeStatus(cmd, &o, answer)
		},
	}
	o.bindNode(command, ofNode)
	return command
}

// writeStatus writes a status that a program is to read; people have been told.
func writeStatus(cmd *cobra.Command, o *adminOptions, answer []byte) error {
	if o.output == "table" || o.output == "wide" {
		return nil
	}
	return o.write(cmd, answer, nil)
}

// drain drains a node and tells how far it is.
type drain struct {
	client  *adminClient
	out     io.Writer
	every   time.Duration // between two looks
	waits   bool          // for the end
	timeout time.Duration // of that; 0 = none

	began  time.Time
	status admin.Status // the last one
	answer []byte       // that held it; nil = none

	// What has been told.
	told     bool // anything
	unready  bool
	left     bool
	tickets  int // -1 = not yet
	reported time.Time
}

// reportEvery keeps a long drain to one line of a reasonable length.
const reportEvery = time.Second

func (d *drain) begin(ctx context.Context) (err error) {
	d.began, d.tickets = time.Now(), -1
	if d.answer, err = d.client.ask(ctx, http.MethodPost, "drain", nil, &d.status); err != nil {
		return err
	}
	d.client.node = d.status.Node // how the others are is not asked again and again
	end := "\n"
	if d.waits {
		end = ": "
	}
	fmt.Fprint(d.out, "draining "+printable(d.status.Node)+end)
	return nil
}

// wait looks at the node until it is drained.
func (d *drain) wait(ctx context.Context) error {
	if d.timeout > 0 {
		limited, cancel := context.WithTimeout(ctx, d.timeout)
		defer cancel()
		ctx = limited
	}
	ticker := time.NewTicker(d.every)
	defer ticker.Stop()
	for {
		d.report()
		if d.status.Drained() {
			fmt.Fprintf(d.out, "   done in %s\n", seconds(time.Since(d.began).Seconds()))
			return nil
		}
		select {
		case <-ctx.Done():
			return d.giveUp(ctx)
		case <-ticker.C:
		}
		if err := d.look(ctx); ctx.Err() != nil {
			return d.giveUp(ctx)
		} else if err != nil {
			fmt.Fprintln(d.out)
			return err
		}
	}
}

// look asks how far the node is. Another process, or one that was told to stop
// draining, would never be done.
func (d *drain) look(ctx context.Context) error {
	var now admin.Status
	answer, err := d.client.ask(ctx, http.MethodGet, "status", nil, &now)
	switch name := printable(d.status.Node); {
	case err != nil:
		return err
	case now.Node != d.status.Node || now.Incarnation != d.status.Incarnation:
		return &exitError{code: exitAdmin, err: fmt.Errorf("%s has ended, and another process answers", name)}
	case now.DrainingSince == nil:
		return &exitError{code: exitNegative, err: fmt.Errorf("%s no longer drains: somebody said undrain", name)}
	}
	d.status, d.answer = now, answer
	return nil
}

// report tells what is new.
func (d *drain) report() {
	s := &d.status
	if !s.Ready && !d.unready {
		d.unready = true
		d.tell("readiness off")
	}
	if !s.InRing && !d.left {
		d.left = true
		d.tell("ring left (v%d)", s.RingVersion)
	}
	switch tickets := s.Tickets(); {
	case s.InRing && s.Members > 1: // new ones come as ever
		return
	case d.tickets < 0:
		d.tell("%s in %s", plural(tickets, "ticket"), plural(s.Lanes, "lane"))
	case tickets == d.tickets || tickets > 0 && time.Since(d.reported) < reportEvery:
		return
	default:
		d.tell("%d", tickets)
	}
	d.tickets, d.reported = s.Tickets(), time.Now()
}

func (d *drain) tell(format string, args ...any) {
	if d.told {
		fmt.Fprint(d.out, " … ")
	}
	d.told = true
	fmt.Fprintf(d.out, format, args...)
}

// giveUp tells what is left.
func (d *drain) giveUp(ctx context.Context) error {
	s := &d.status
	fmt.Fprintf(d.out, "   not done after %s: %s, %s left\n", seconds(time.Since(d.began).Seconds()), plural(s.Tickets(), "ticket"), plural(s.Owned, "partition"))
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &exitError{code: exitAbandoned}
	}
	return &exitError{code: exitInterrupt}
}
