package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/spf13/cobra"

	"lanekeeper/queue"
)

func serveCommand() *cobra.Command {
	var file, listen, observe string
	var watch bool
	var quick Quick
	command := &cobra.Command{
		Use:   "serve",
		Short: "Run a node",
		Long: `Serve runs a node until SIGTERM or SIGINT: it then turns unready, goes on
serving for shutdown.delay, takes no new requests for lanes, waits for those it
has for up to shutdown.drain_timeout, and ends. A second signal ends it at once.

It reads a file, or without one orders the requests for one service by one key.
SIGHUP, or lanekeeper reload, or with --watch a change of the file, has it read
the file again: see lanekeeper help reload.

Exit code 0: every request was answered. 6: some were abandoned. 3: the
configuration has errors. 1: a port could not be opened.`,
		Example: `  lanekeeper serve --config lanekeeper.yaml
  lanekeeper serve --upstream http://127.0.0.1:8080 --key header:X-Order-Id
  lanekeeper serve --upstream http://127.0.0.1:8080 --key 'path:/orders/{id}/{rest...}'`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" && (quick.Upstream == "" || quick.Key == "") {
				return errors.New("serve wants --config FILE, or without one both --upstream http://host:port and --key header:X-Order-Id, or where else requests carry their key")
			}
			opts := LoadOptions{File: file, Flags: map[string]string{}}
			if quick != (Quick{}) {
				opts.Quick = &quick
			}
			for path, value := range map[string]string{"server.listen": listen, "observe.listen": observe} {
				if value != "" {
					opts.Flags[path] = value
				}
			}
			var watched *watchedFile
			if watch {
				watched = newWatchedFile(file) // before it is read
			}
			config, report, err := loadConfig(cmd.ErrOrStderr(), opts)
			if err != nil {
				return err
			}
			source := configSource{config: config, report: report, level: new(slog.LevelVar)}
			if file != "" {
				source.load = func() (*Config, *Report) { return Load(opts) }
			}
			return serve(cmd.Context(), source, watched)
		},
	}
	flags := command.Flags()
	flags.StringVarP(&file, "config", "c", "", "configuration file; see: lanekeeper config init")
	flags.StringVar(&quick.Upstream, "upstream", "", "without a file: the service, http://host:port")
	flags.StringVar(&quick.Key, "key", "", "without a file: "+quickKeyHelp)
	flags.StringVar(&listen, "listen", "", "overrides server.listen")
	flags.StringVar(&observe, "observe", "", "overrides observe.listen")
	flags.BoolVar(&watch, "watch", false, "read the file again whenever it changes")
	command.MarkFlagsMutuallyExclusive("config", "upstream")
	command.MarkFlagsMutuallyExclusive("watch", "upstream")
	command.MarkFlagsMutuallyExclusive("config", "key")
	return command
}

// nodeConfig is the node that a configuration describes. It reads the secret
// files that it names.
func (c *Config) nodeConfig() (nodeConfig, error) {
	config := nodeConfig{
		lanes: queue.Config{
			MaxQueued:      c.Limits.MaxQueued,
			MaxQueuedBytes: int64(c.Limits.MaxQueuedBytes),
			MaxLanes:       c.Limits.MaxLanes,
			Tags:           len(c.Routes),
			TopWindow:      topWindow,
		},
		listen:  c.Server.Listen,
		observe: c.Observe.Listen,
		admin:   c.Admin.Listen,
		records: recordsConfig{max: c.Limits.MaxRecords, maxBytes: int64(c.Limits.MaxRecordsBytes)},
		keep:    c.Journal.Keep,
	}
	now, err := c.inForce()
	if err != nil {
		return nodeConfig{}, err
	}
	config.proxy, config.strict, config.delay, config.drain = now.proxy, now.strict, now.delay, now.drain
	if config.access, err = c.adminConfig(); err != nil {
		return nodeConfig{}, err
	}
	if config.tls, err = loadCertificates("server", "server.tls", c.Server.TLS); err != nil {
		return nodeConfig{}, err
	}
	if config.adminTLS, err = loadCertificates("admin", "admin.tls", c.Admin.TLS); err != nil {
		return nodeConfig{}, err
	}
	if c.Cluster.Enabled {
		if config.cluster, err = c.clusterSettings(); err != nil {
			return nodeConfig{}, err
		}
	}
	return config, nil
}

// slogLevel is the level as package slog has it.
func (l *LogConfig) slogLevel() (level slog.Level) {
	if err := level.UnmarshalText([]byte(l.Level)); err != nil {
		panic("an unchecked log level: " + err.Error())
	}
	return level
}

// serve runs a node until a signal, or until it fails. It reads the watched file again
// when that changes, if there is one.
func serve(ctx context.Context, source configSource, watched *watchedFile) error {
	config := source.config
	source.level.Set(config.Log.slogLevel())
	log := newLogger(os.Stderr, source.level, config.Log.Format)
	limitMemory(memlimit.FromCgroup, log)

	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	hangups := make(chan os.Signal, 1) // one more than is at work: it reads what is there by then
	if source.load != nil {            // else it means what it always does: the terminal is gone
		signal.Notify(hangups, syscall.SIGHUP)
		defer signal.Stop(hangups)
	}

	nodeConfig, err := config.nodeConfig()
	if err != nil {
		return &exitError{code: exitConfig, err: err}
	}
	if nodeConfig.unknowns, err = config.Journal.openJournal(); err != nil {
		return &exitError{code: exitConfig, err: err}
	}
	if nodeConfig.coordinator, err = newCoordinator(config, log); err != nil {
		return &exitError{code: exitConfig, err: err}
	}
	if nodeConfig.locks, err = newLocks(config, log); err != nil {
		return &exitError{code: exitConfig, err: err}
	}
	if nodeConfig.records.stores, err = newRecordStores(config); err != nil {
		return &exitError{code: exitConfig, err: err}
	}
	if nodeConfig.tracing, err = newTracing(config, log); err != nil {
		return &exitError{code: exitConfig, err: err}
	}
	nodeConfig.source, nodeConfig.manager = source, newServiceManager(log)
	node, err := startNode(nodeConfig, log)
	if err != nil {
		return failure(err)
	}
	reloading, cancel := context.WithCancel(ctx)
	defer cancel()
	node.wg.Go(func() { node.followHangups(reloading, hangups) }) // ends with reloading
	if watched != nil {
		node.wg.Go(func() { watched.watch(reloading, log, func() { node.Reload(false, "watch") }) }) // ends with reloading
	}

	nodeConfig.manager.ready()

	var failed error
	select {
	case s := <-signals:
		log.Info("signal", "signal", s.String())
	case <-ctx.Done():
	case failed = <-node.failed:
	}

	cancel() // the node's stop waits for its end

	now := make(chan struct{})
	stopped := make(chan error, 1)
	go func() { stopped <- node.stop(now) }() // ends soon after now is closed
	select {
	case err = <-stopped:
	case s := <-signals:
		log.Warn("second signal: ending at once", "signal", s.String())
		close(now)
		err = <-stopped
	}
	switch {
	case failed != nil:
		return failure(failed)
	case errors.Is(err, errAbandoned):
		return &exitError{code: exitAbandoned, err: err}
	case err != nil:
		return failure(fmt.Errorf("stop: %w", err))
	}
	return nil
}
