package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"lanekeeper/configs"
	"lanekeeper/proxy/idempotency/postgres"
)

// loadConfig loads a configuration and writes its problems to w, warnings
// included. The error, if any, ends the program without another word.
func loadConfig(w io.Writer, opts LoadOptions) (*Config, *Report, error) {
	cfg, report := Load(opts)
	report.writeText(w)
	if report.Errors() > 0 {
		fmt.Fprintln(w, report.summary())
		return nil, report, &exitError{code: exitConfig}
	}
	return cfg, report, nil
}

func configCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "config",
		Short: "Write, show, compare and document configurations",
		Long: `Write, show, compare and document configurations.

A value is taken from the first of: a flag, the environment variable
LANEKEEPER_<PATH> (server.listen is LANEKEEPER_SERVER_LISTEN), the file, the
default. Within the file a value may say ${VAR}, ${VAR:-default} or
${file:/path}; $$ is a dollar sign.`,
		Args: noArguments,
	}
	command.AddCommand(configInitCommand(), configShowCommand(), configDiffCommand(), configSchemaCommand(), configDocsCommand(), configMigrationCommand())
	return command
}

func configInitCommand() *cobra.Command {
	var output string
	var force bool
	command := &cobra.Command{
		Use:   "init",
		Short: "Write a file with every setting, explained",
		Long: `Write a file with every setting, its default and what it means, for a node
beside one service. Change the lines marked ◆; delete what you do not change.
An existing file is kept, unless --force is given.`,
		Example: `  lanekeeper config init                        # writes lanekeeper.yaml
  lanekeeper config init --output - | less
  lanekeeper config schema > lanekeeper.schema.json   # so that an editor completes and checks it`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output == "-" {
				_, err := cmd.OutOrStdout().Write(configs.Sidecar)
				return failure(err)
			}
			if err := writeNew(output, configs.Sidecar, force); errors.Is(err, os.ErrExist) {
				return failure(fmt.Errorf("%s exists: choose another --output, or overwrite it with --force", output))
			} else if err != nil {
				return failure(err)
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "wrote %s; next: change the lines marked ◆, then run lanekeeper validate %s\n", output, output)
			return nil
		},
	}
	command.Flags().StringVarP(&output, "output", "o", "lanekeeper.yaml", "`file` to write; - is standard output")
	command.Flags().BoolVar(&force, "force", false, "overwrite an existing file")
	return command
}

func configMigrationCommand() *cobra.Command {
	var table string
	command := &cobra.Command{
		Use:   "migration",
		Short: "Print what creates the tables of stores.postgres",
		Long: `Print the statements that create the tables in which stores.postgres keeps what
became of requests, and which numbers of their producers are done, for databases
in which lanekeeper itself may create none (stores.postgres.create_table: false).
They may be run again.`,
		Example: `  lanekeeper config migration | psql "$DSN"
  lanekeeper config migration --table payments.lanekeeper_records`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !tableName.MatchString(table) {
				return &exitError{code: exitUsage, err: fmt.Errorf("%q is not the name of a table: at most 54 letters, digits and _, with or without a schema and a dot", table)}
			}
			_, err := io.WriteString(cmd.OutOrStdout(), postgres.Migration(table))
			return failure(err)
		},
	}
	command.Flags().StringVar(&table, "table", postgres.Table, "`name` of the table, as in stores.postgres.table")
	return command
}

// writeNew creates name, or, with force, replaces what is in it.
func writeNew(name string, content []byte, force bool) error {
	mode := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if force {
		mode = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	file, err := os.OpenFile(name, mode, 0o644)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	return errors.Join(err, file.Close())
}

// failure is an error that is nobody's wrong usage.
func failure(err error) error {
	if err == nil {
		return nil
	}
	return &exitError{code: exitFailure, err: err}
}

func configShowCommand() *cobra.Command {
	var file, format string
	var origin bool
	command := &cobra.Command{
		Use:   "show",
		Short: "Show the configuration that takes effect",
		Long: `Show the configuration that takes effect: the file, what the environment of
this command overrides, and the defaults. Without a file it is the defaults and
the environment; with one, the output is itself a valid file.`,
		Example: `  lanekeeper config show --config lanekeeper.yaml
  lanekeeper config show --config lanekeeper.yaml --origin   # and where each value comes from
  lanekeeper config show -o json | jq .server`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "yaml" && format != "json" {
				return fmt.Errorf("--output %s: want yaml or json", format)
			}
			cfg, report, err := loadConfig(cmd.ErrOrStderr(), LoadOptions{File: file, Partial: file == ""})
			if err != nil {
				return err
			}
			return failure(showConfig(cmd.OutOrStdout(), cfg, report, format, origin))
		},
	}
	command.Flags().StringVar(&file, "config", "", "configuration `file`")
	command.Flags().BoolVar(&origin, "origin", false, "say of each value where it comes from")
	command.Flags().StringVarP(&format, "output", "o", "yaml", "`format`: yaml or json; json with --origin is a list of {path, value, origin}")
	return command
}

func showConfig(w io.Writer, cfg *Config, report *Report, format string, origin bool) error {
	if format == "yaml" && origin {
		return cfg.writeYAML(w, report.Origin)
	} else if format == "yaml" {
		return cfg.writeYAML(w, nil)
	}
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	out.SetIndent("", "  ")
	if !origin {
		return out.Encode(cfg)
	}
	list := cfg.leaves(false)
	for i := range list {
		list[i].Origin = report.Origin(list[i].Path)
	}
	return out.Encode(list)
}

func configDiffCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "diff A B",
		Short: "Say what two files do differently",
		Long: `Say what two files do differently once defaults are filled in; comments, order
of settings and spelling do not count. Routes and upstreams are compared by
name; of one that only one file has, what it inherits from defaults is left
out. Exits with 0 if there is no difference, with 5 if there is one.`,
		Example: `  lanekeeper config diff prod.yaml staging.yaml
  ~ server.max_body: 1MiB -> 4MiB
  - routes[legacy].upstream: old`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, _, errA := loadConfig(cmd.ErrOrStderr(), LoadOptions{File: args[0]})
			b, _, errB := loadConfig(cmd.ErrOrStderr(), LoadOptions{File: args[1]})
			if errA != nil || errB != nil {
				return &exitError{code: exitConfig}
			}
			lines := differences(a, b)
			for _, line := range lines {
				fmt.Fprintln(cmd.OutOrStdout(), line)
			}
			if len(lines) > 0 {
				return &exitError{code: exitNegative}
			}
			return nil
		},
	}
}

func configSchemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Write the JSON Schema of the file, for editors",
		Long: `Write the JSON Schema (draft-07) of the file, for editors. The first lines of
a file that config init wrote tell editors to look for it beside that file.`,
		Example: `  lanekeeper config schema > lanekeeper.schema.json`,
		Args:    noArguments,
		RunE:    func(cmd *cobra.Command, _ []string) error { return failure(writeSchema(cmd.OutOrStdout())) },
	}
}

func configDocsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "docs",
		Short:   "Write a Markdown table of every setting",
		Example: `  lanekeeper config docs > CONFIG.md`,
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			writeDocs(cmd.OutOrStdout())
			return nil
		},
	}
}
