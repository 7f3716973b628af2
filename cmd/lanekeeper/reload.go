package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"lanekeeper/admin"
	"lanekeeper/membership"
	"lanekeeper/proxy"
)

// configSource is where a node's configuration came from, and comes from again.
type configSource struct {
	config *Config                   // that it starts with
	report *Report                   // of where its values come from; nil: nobody says
	load   func() (*Config, *Report) // nil: there is no file
	level  *slog.LevelVar            // of the log
}

// inForce is what of a configuration a reload puts in force.
type inForce struct {
	proxy        proxy.Config
	strict       bool
	delay, drain time.Duration
}

// reloads is what a node does about its configuration while it runs.
type reloads struct {
	source  configSource
	present atomic.Pointer[inForce]
	last    atomic.Pointer[admin.Reload] // nil: there was none
	success atomic.Int64                 // Unix nanoseconds of the last one that succeeded, or of the start

	levels *logLevels

	mu     sync.Mutex // guards the rest: one reload after the other
	config *Config    // in force
	report *Report    // of that
}

func newReloads(config *nodeConfig) *reloads {
	if config.source.level == nil {
		config.source.level = new(slog.LevelVar)
	}
	r := &reloads{source: config.source, config: config.source.config, report: config.source.report}
	r.levels = &logLevels{level: config.source.level, configured: config.source.level.Level()}
	r.present.Store(&inForce{proxy: config.proxy, strict: config.strict, delay: config.delay, drain: config.drain})
	r.success.Store(time.Now().UnixNano())
	return r
}

// Reload implements admin.Cluster. by is who wants it, for the log.
func (n *node) Reload(force bool, by string) (admin.Reloaded, *admin.ReloadError) {
	r := n.reloads
	r.mu.Lock()
	defer r.mu.Unlock()
	done, refused := n.reload(force)
	last := &admin.Reload{Time: time.Now(), Successful: refused == nil}
	switch {
	case refused != nil:
		last.Failure = refused.Error()
		n.log.Error("the configuration is not reloaded, and stays as it was", "event", "config-refused",
			"by", by, "reason", refused.Slug, "why", refused.Detail, "problems", strings.Join(refused.Problems, "; "), "config", n.proxy.Config().Hash)
	case len(done.Changed) == 0:
		n.log.Info("the configuration is reloaded: nothing has changed", "by", by, "config", done.Config)
	case len(done.Unordered) > 0:
		n.log.Warn("the configuration is reloaded by force: for keys that were in use no order is promised across the change", "event", "config-reloaded",
			"by", by, "config", done.Config, "before", done.Before, "changes", len(done.Changed), "in_use", usesText(done.Unordered))
	default:
		n.log.Info("the configuration is reloaded", "event", "config-reloaded",
			"by", by, "config", done.Config, "before", done.Before, "changes", len(done.Changed))
	}
	if refused == nil {
		r.success.Store(last.Time.UnixNano())
	}
	r.last.Store(last)
	return done, refused
}

// reload reads the configuration again and puts it in force, as a whole or not at all.
func (n *node) reload(force bool) (admin.Reloaded, *admin.ReloadError) {
	r := n.reloads
	done := admin.Reloaded{Node: n.config.name(), Before: n.proxy.Config().Hash, Config: n.proxy.Config().Hash}
	switch {
	case n.stopping.Load():
		return done, &admin.ReloadError{Slug: "refused", Detail: errEnding.Error()}
	case r.source.load == nil:
		return done, &admin.ReloadError{Slug: "refused", Detail: "this node was started without a file: there is nothing to read"}
	}
	next, report := r.source.load()
	var wrong []string
	for _, p := range report.Problems {
		if p.Severity == SeverityError {
			wrong = append(wrong, p.String())
		} else {
			done.Warnings = append(done.Warnings, p.String())
		}
	}
	if len(wrong) > 0 {
		return done, &admin.ReloadError{Slug: admin.ConfigInvalid, Detail: "the configuration has errors", Problems: wrong}
	}
	to, err := next.inForce()
	if err != nil {
		return done, &admin.ReloadError{Slug: admin.ConfigInvalid, Detail: "the configuration cannot be used", Problems: []string{err.Error()}}
	}
	if restart := needRestart(r.source.config, r.config, next, report); len(restart) > 0 {
		return done, &admin.ReloadError{Slug: admin.RestartNeeded, Detail: "settings have changed that count from the start of the process only: restart the node, or take these changes back", Problems: restart}
	}
	done.Changed = r.changes(next, &to)
	if len(done.Changed) == 0 {
		return done, nil
	}
	uses, err := n.proxy.Reload(to.proxy, force)
	inUse := (*proxy.InUseError)(nil)
	switch {
	case errors.As(err, &inUse):
		refusal := &admin.ReloadError{
			Slug:   admin.LanesInUse,
			Detail: "requests would find their lanes by other rules than those of their keys that are here still: wait until these lanes are empty, drain the node and restart it, or force it, if their order may break",
		}
		for _, u := range inUse.Uses {
			refusal.Problems = append(refusal.Problems, u.String())
		}
		return done, refusal
	case err != nil: // our own bug: the check of the file is to be the stricter one
		return done, &admin.ReloadError{Slug: admin.ConfigInvalid, Detail: "the configuration cannot be served", Problems: []string{err.Error()}}
	}
	for _, u := range uses {
		done.Unordered = append(done.Unordered, admin.SpaceUse(u))
	}
	done.Config = to.proxy.Hash
	r.config, r.report = next, report
	r.present.Store(&to)
	r.levels.configure(next.Log.slogLevel())
	n.announceConfig(to.proxy.Hash)
	return done, nil
}

// changes lists what another configuration changes: what the file says, and what the
// files hold that it names.
func (r *reloads) changes(next *Config, to *inForce) []string {
	changed := differences(r.config, next)
	if a, b := r.present.Load().proxy.Sessions, to.proxy.Sessions; a != nil && b != nil && !reflect.DeepEqual(a.Secrets, b.Secrets) {
		changed = append(changed, "~ session.secret_file: it holds other secrets")
	}
	return changed
}

func usesText(uses []admin.SpaceUse) string {
	texts := make([]string, len(uses))
	for i, u := range uses {
		texts[i] = proxy.Use(u).String()
	}
	return strings.Join(texts, "; ")
}

// inForce is the part of a configuration that a reload can change. It reads the secret files
// that it names.
func (c *Config) inForce() (inForce, error) {
	e := inForce{
		proxy: c.proxyConfig(), strict: c.strict(),
		delay: time.Duration(c.Shutdown.Delay), drain: time.Duration(c.Shutdown.DrainTimeout),
	}
	e.proxy.Hash = c.hash()
	if e.proxy.Sessions != nil {
		var err error
		if e.proxy.Sessions.Secrets, err = readSecrets(c.Session.SecretFile); err != nil {
			return inForce{}, settingError{"session.secret_file", err}
		}
	}
	return e, nil
}

// followHangups reloads with each signal.
func (n *node) followHangups(ctx context.Context, hangups <-chan os.Signal) {
	for {
		select {
		case <-hangups:
			n.Reload(false, "SIGHUP")
		case <-ctx.Done():
			return
		}
	}
}

// needRestart lists the settings of next, with their places, that differ from those in
// force, and that only count from the start on; and what routes need that the node did not
// open when it started.
func needRestart(first, present, next *Config, report *Report) (settings []string) {
	for _, path := range restartSettings(reflect.ValueOf(*present), reflect.ValueOf(*next), "", false) {
		settings = append(settings, fmt.Sprintf("%s: %s", report.locate(path), path))
	}
	name := func(i int, setting, why string) {
		path := fmt.Sprintf("routes[%d].%s", i, setting)
		settings = append(settings, fmt.Sprintf("%s: %s: %s", report.locate(path), path, why))
	}
	opened, leases := first.recordLeases(), next.recordLeases()
	for i, r := range next.Routes {
		if r.Lane.Hot.underLocks() && !first.spillsUnderLocks() {
			name(i, "lane.hot.backend", "no route had coordinator when the node started, so it has opened no locks")
		}
		for section, store := range map[string]string{"idempotency": r.Idempotency.remote(), "sequence": r.Sequence.remote()} {
			switch lease, open := opened[store]; {
			case store == "":
			case !open:
				name(i, section+".store", "no route had "+store+" when the node started, so it has not opened that")
			case recordTimeout(leases[store]) < recordTimeout(lease):
				name(i, "idempotency.claim_lease", "the node waits for "+store+" for longer than so short a claim allows")
			}
		}
	}
	slices.Sort(settings)
	return slices.Compact(settings)
}

// restartSettings lists the paths of settings that differ and have the tag reload:"restart",
// by themselves or by their section.
func restartSettings(a, b reflect.Value, path string, restart bool) (paths []string) {
	for _, f := range fieldsOf(a.Type()) {
		at, x, y := joinPath(path, f.name), a.FieldByIndex(f.index), b.FieldByIndex(f.index)
		switch restart := restart || f.needsRestart(); {
		case f.isSection():
			paths = append(paths, restartSettings(x, y, at, restart)...)
		case restart && !reflect.DeepEqual(plainValue(x), plainValue(y)):
			paths = append(paths, at)
		}
	}
	return paths
}

// announceConfig tells the other members the hash of what is in force.
func (n *node) announceConfig(hash string) {
	n.announce(func(m *membership.Membership, ctx context.Context) error { return m.SetConfigHash(ctx, hash) }) //nolint:errcheck // it is nil
}

// reloadCollector is the metrics of the configuration in force.
type reloadCollector struct{ *node }

var (
	reloadSuccessful = prometheus.NewDesc("lanekeeper_config_last_reload_successful", "1 unless the last reload of the configuration was refused.", nil, nil)
	reloadSuccess    = prometheus.NewDesc("lanekeeper_config_last_reload_success_timestamp_seconds", "When the configuration was last read with success, at the start or later, Unix time.", nil, nil)
	configHash       = prometheus.NewDesc("lanekeeper_config_hash_info", "The configuration in use; nodes of one cluster should agree.", []string{"hash"}, nil)
)

// Describe implements prometheus.Collector.
func (c reloadCollector) Describe(descs chan<- *prometheus.Desc) {
	descs <- reloadSuccessful
	descs <- reloadSuccess
	descs <- configHash
}

// Collect implements prometheus.Collector.
func (c reloadCollector) Collect(values chan<- prometheus.Metric) {
	successful := 1.0
	if last := c.reloads.last.Load(); last != nil && !last.Successful {
		successful = 0
	}
	values <- prometheus.MustNewConstMetric(reloadSuccessful, prometheus.GaugeValue, successful)
	values <- prometheus.MustNewConstMetric(reloadSuccess, prometheus.GaugeValue, float64(c.reloads.success.Load())/1e9)
	values <- prometheus.MustNewConstMetric(configHash, prometheus.GaugeValue, 1, c.proxy.Config().Hash)
}
