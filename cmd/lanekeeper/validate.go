package main

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"
)

func validateCommand() *cobra.Command {
	var format string
	command := &cobra.Command{
		Use:   "validate FILE...",
		Short: "Check configuration files",
		Long: `Check configuration files: syntax, names, types, and that settings agree with
each other. It opens no port and contacts nobody. The environment counts as it
would for serve: LANEKEEPER_* variables and ${VAR} within the file.

Exits with 3 if there are errors; warnings alone are fine.`,
		Example: `  lanekeeper validate lanekeeper.yaml
  prod.yaml:41:7: error: routes[2].lane.tiemout: unknown field (did you mean "queue_timeout"?)
  1 error, 0 warnings

  lanekeeper validate --format github configs/*.yaml   # annotates a pull request
  lanekeeper validate --format json prod.yaml | jq -r '.problems[].message'`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			report := &Report{}
			for _, file := range files {
				_, found := Load(LoadOptions{File: file})
				for _, p := range found.Problems {
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
	command.Flags().StringVar(&format, "format", "text", "`format`: text, json, or github for workflow annotations")
	return command
}
