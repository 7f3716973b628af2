package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
)

func validateCommand() *cobra.Command {
	var format string
	var online bool
	command := &cobra.Command{
		Use:   "validate FILE...",
		Short: "Check configuration files",
		Long: `Check configuration files: syntax, names, types, and that settings agree with
each other. It opens no port and contacts nobody. The environment counts as it
would for serve: LANEKEEPER_* variables and ${VAR} within the file.

With --online, and only then, it reads the certificates of a file without errors, of
its listeners and for its upstreams: are they there, in PEM, in date, and does the key
go with them? It asks the stores of records that routes use whether they let this user
in; it creates no table. No target is asked: it may be away for good reasons. And it
reads the password and certificate files of the coordinator, and asks each of its addresses for up to
coordinator.acquire_timeout: is it such a store, of a version and with settings
that locks can rest on, and does it let this user in? For that it begins a lease
under coordinator.key_prefix, as a node would, and ends it; it takes nothing that
a node holds. ZooKeeper keeps the nodes of that path, if they were not there.

Exits with 3 if there are errors; warnings alone are fine. With --online a
coordinator that cannot be used or reached is an error, and one of its servers
that is away, while enough others answer, a warning.`,
		Example: `  lanekeeper validate lanekeeper.yaml
  prod.yaml:41:7: error: routes[2].lane.tiemout: unknown field (did you mean "queue_timeout"?)
  1 error, 0 warnings

  lanekeeper validate --online prod.yaml      # from where the nodes run
  prod.yaml:9:22: error: coordinator.redis.addresses[0]: redis:6379: it is a slave: locks need the master: give the master's address
  1 error, 0 warnings

  lanekeeper validate --format github configs/*.yaml   # annotates a pull request
  lanekeeper validate --format json prod.yaml | jq -r '.problems[].message'`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			report := &Report{}
			for _, file := range files {
				for _, p := range validateFile(cmd.Context(), file, online).Problems {
					if !slices.Contains(report.Problems, p) { // the environment's are the same for each file
						report.Problems = append(report.Problems, p)
					}
				}
			}
			out := cmd.OutOrStdout()
			switch format {
			case "text":
				report.writeText(out)
				fmt.Fprintln(out, report.summary())
			case "github":
				report.writeGitHub(out)
			case "json":
				if err := report.writeJSON(out); err != nil {
					return failure(err)
				}
			default:
				return fmt.Errorf("--format %s: want text, json or github", format)
			}
			if report.Errors() > 0 {
				return &exitError{code: exitConfig}
			}
			return nil
		},
	}
	command.Flags().BoolVar(&online, "online", false, "also read the certificates, and ask the coordinator and the stores of records whether they can be used")
	command.Flags().StringVar(&format, "format", "text", "`format`: text, json, or github for workflow annotations")
	return command
}

// validateFile says what is wrong with a file, and, online, with the coordinator
// and the stores that it names.
func validateFile(ctx context.Context, file string, online bool) *Report {
	cfg, report := Load(LoadOptions{File: file})
	if online && report.Errors() == 0 {
		cfg.online(ctx, report)
		report.sort()
	}
	return report
}
