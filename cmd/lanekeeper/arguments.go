package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// noArguments refuses what follows a command that takes nothing, and says what was meant, as
// far as that can be guessed: cobra would call "lk-2" of "drain lk-2" an unknown command.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	meant := "see " + cmd.CommandPath() + " --help"
	switch {
	case cmd.Flags().Lookup("node") != nil:
		meant = "a member is meant by --node " + args[0]
	case cmd.Flags().Lookup("config") != nil:
		meant = "a file is meant by --config " + args[0]
	}
	return fmt.Errorf("%s takes no argument, and was given %q: %s", cmd.CommandPath(), args[0], meant)
}

// oneKey is for commands that are about one key.
func oneKey(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return fmt.Errorf("%s of which key? Write SPACE/KEY, such as order/A-1042; lanekeeper lanes list shows which there are", cmd.CommandPath())
	case len(args) > 1:
		return fmt.Errorf("%s takes one key, and was given %d: %q", cmd.CommandPath(), len(args), args)
	}
	return nil
}
