package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

func manCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "man DIR",
		Short: "Write manual pages into a directory",
		Long: `Man writes a manual page (section 1) for each command into a directory, which is made
if it is not there. Packages have them already.

The date on the pages is that of SOURCE_DATE_EPOCH, if it is set, so that they can be
made again byte for byte.`,
		Example: `  lanekeeper man /usr/local/share/man/man1
  man -l man1/lanekeeper-why.1`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return failure(err)
			}
			version, _ := buildVersion()
			header := &doc.GenManHeader{Title: "LANEKEEPER", Section: "1", Source: "lanekeeper " + version, Manual: "lanekeeper"}
			if epoch := os.Getenv("SOURCE_DATE_EPOCH"); epoch == "" {
				now := time.Now()
				header.Date = &now
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true
			if err := doc.GenManTree(root, header, args[0]); err != nil {
				return failure(err)
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "wrote the manual pages into %s\n", printable(args[0]))
			return nil
		},
	}
}
