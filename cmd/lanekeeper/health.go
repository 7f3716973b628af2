package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"
)

func healthCommand() *cobra.Command {
	var address string
	var live, verbose bool
	var timeout time.Duration
	command := &cobra.Command{
		Use:   "health",
		Short: "Ask a node whether it is ready",
		Long: `Health asks a node's observe port whether requests should be sent to it, or
with --live, whether the process makes progress. It is for container images
without a shell, where a health check can only run a binary.

Exit code 0: yes. 5: no, and why on standard output. 1: the node does not answer.`,
		Example: `  lanekeeper health
  lanekeeper health --live --address http://10.1.4.8:7941`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			path := "/readyz"
			if live {
				path = "/livez"
			}
			if verbose {
				path += "?verbose"
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			return askHealth(ctx, cmd.OutOrStdout(), address+path)
		},
	}
	flags := command.Flags()
	flags.StringVar(&address, "address", "http://127.0.0.1:7941", "the node's observe address")
	flags.BoolVar(&live, "live", false, "ask /livez instead of /readyz")
	flags.BoolVarP(&verbose, "verbose", "v", false, "every check's state")
	flags.DurationVar(&timeout, "timeout", 2*time.Second, "how long to wait for the answer")
	return command
}

func askHealth(ctx context.Context, out io.Writer, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("--address: %w", err)
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return &exitError{code: exitFailure, err: err}
	}
	defer response.Body.Close()
	if _, err := io.Copy(out, io.LimitReader(response.Body, 1<<16)); err != nil {
		return &exitError{code: exitFailure, err: err}
	}
	switch response.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusServiceUnavailable:
		return &exitError{code: exitNegative}
	}
	return &exitError{code: exitFailure, err: errors.New(url + " is no lanekeeper's observe port: " + response.Status)}
}
