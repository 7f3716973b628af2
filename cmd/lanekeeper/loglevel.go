package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"lanekeeper/admin"
)

func logLevelCommand() *cobra.Command {
	var o adminOptions
	var lasts time.Duration
	command := &cobra.Command{
		Use:       "loglevel [debug|info|warn|error]",
		Short:     "Set how much a node logs, for a time or until the next change",
		ValidArgs: []string{"debug", "info", "warn", "error"},
		Long: `Loglevel sets how much a node logs from now on, without a restart and whatever its
file says: for a time with --for, else until the next reload, change or restart.
Without a level it is log.level again.` + adminHelp,
		Example: `  lanekeeper loglevel debug --for 10m --node lk-1
  lanekeeper loglevel`,
		Args: cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs),
		RunE: func(cmd *cobra.Command, args []string) error {
			query := url.Values{}
			if len(args) == 1 {
				query.Set("level", args[0])
			}
			if lasts < 0 || lasts > 0 && len(args) == 0 {
				return errors.New("--for is a duration such as 10m, and goes with a level")
			}
			if lasts > 0 {
				query.Set("for", lasts.String())
			}
			client, err := o.client()
			if err != nil {
				return err
			}
			var set admin.LogLevel
			answer, err := client.ask(cmd.Context(), http.MethodPost, "loglevel", query, &set)
			if err != nil {
				return err
			}
			text := fmt.Sprintf("%s logs %s", set.Node, set.Level)
			if set.Until != nil {
				text += fmt.Sprintf(" until %s, then %s", set.Until.UTC().Format(time.RFC3339), set.Configured)
			}
			fmt.Fprintln(cmd.ErrOrStderr(), printable(text))
			return writeStatus(cmd, &o, answer)
		},
	}
	command.Flags().DurationVar(&lasts, "for", 0, "then log.level is back; 0 = until the next change")
	o.bindNode(command, ofNode)
	return command
}
