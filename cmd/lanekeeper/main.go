// Lanekeeper makes requests that carry the same key run one at a time, in
// order, in front of an ordinary HTTP service.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

// Exit codes, one meaning each; scripts rely on them.
const (
	exitOK        = 0
	exitFailure   = 1
	exitUsage     = 2
	exitConfig    = 3  // invalid configuration, or a reload that was refused
	exitAdmin     = 4  // the admin API did not answer, or does not know the token
	exitNegative  = 5  // the honest answer is no: not ready, key unknown
	exitAbandoned = 6  // a drain ended with tickets still waiting or running
	exitOrder     = 98 // an order was seen broken
	exitInterrupt = 130
)

// exitError ends the program with a code of its own. A nil err prints nothing:
// the command has already said what there is to say.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func main() { os.Exit(run(os.Args[1:])) }

// run executes one command line and returns the program's exit code.
func run(args []string) int {
	root := rootCommand()
	root.SetArgs(args)
	err := root.Execute()
	if err == nil {
		return exitOK
	}
	code := exitUsage // cobra's own errors: unknown command, unknown flag, wrong arguments
	if exit := (*exitError)(nil); errors.As(err, &exit) {
		code, err = exit.code, exit.err
	}
	if err != nil {
		fmt.Fprintf(root.ErrOrStderr(), "lanekeeper: %v\n", err)
	}
	return code
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "lanekeeper",
		Short:         "Requests with the same key run one at a time, in order",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(
		demoCommand(),
		serveCommand(),
		validateCommand(),
		configCommand(),
		healthCommand(),
		statusCommand(),
		whyCommand(),
		membersCommand(),
		ringCommand(),
		locateCommand(),
		keysCommand(),
		lanesCommand(),
		eventsCommand(),
		unknownCommand(),
		topCommand(),
		drainCommand(),
		undrainCommand(),
		reloadCommand(),
		logLevelCommand(),
		manCommand(),
		witnessCommand(),
		versionCommand(),
	)
	return root
}
