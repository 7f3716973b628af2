package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"lanekeeper/admin"
)

// TestSettingsThatNeedARestart holds which settings a reload cannot change: scripts and
// people count on the others.
//
// Mutants killed: a section's tag is not that of all in it; only sections have it.
func TestSettingsThatNeedARestart(t *testing.T) {
	var have []string
	for path, f := range configSettings {
		if strings.HasPrefix(path, "coordinator.") || strings.HasPrefix(path, "stores.") || strings.HasPrefix(path, "cluster.") {
			continue // as a whole, see below
		}
		a, b := Default(), Default()
		value := reflect.ValueOf(&b).Elem()
		for name := range strings.SplitSeq(path, ".") {
			of, _ := findField(fieldsOf(value.Type()), name)
			value = value.FieldByIndex(of.index)
		}
		if f.isList() {
			value.Set(reflect.MakeSlice(value.Type(), 1, 1))
			value.Index(0).Set(reflect.Zero(value.Type().Elem()))
		} else if value.IsZero() && value.Kind() == reflect.Bool {
			value.SetBool(true)
		} else if value.IsZero() && value.Kind() == reflect.String {
			value.SetString("x")
		} else if value.IsZero() && value.CanInt() {
			value.SetInt(7)
		} else {
			value.SetZero()
		}
		have = append(have, restartSettings(reflect.ValueOf(a), reflect.ValueOf(b), "", false)...)
	}
	slices.Sort(have)
	want := strings.Fields(`admin.allowed_hosts admin.listen admin.pprof admin.tls.cert_file admin.tls.client_ca_file admin.tls.key_file admin.token_file admin.ui
		journal.file journal.keep journal.max_files journal.max_size
		limits.max_lanes limits.max_queued limits.max_queued_bytes limits.max_records limits.max_records_bytes log.format metrics.native_histograms
		node.name node.zone observe.listen
		server.header_timeout server.idle_timeout server.listen server.max_connections_per_address server.max_header server.max_requests_per_connection
		server.proxy_protocol server.tls.cert_file server.tls.client_ca_file server.tls.key_file tracing.enabled tracing.sample`)
	if !slices.Equal(have, want) {
		t.Errorf("got  %s\nwant %s", have, want)
	}
	a, b := Default(), Default()
	b.Cluster.Gossip.Listen, b.Cluster.Join, b.Coordinator.Etcd.TLS.CAFile, b.Stores.Redis.DB = ":1", []string{"a:1"}, "x", 7
	have = restartSettings(reflect.ValueOf(a), reflect.ValueOf(b), "", false)
	if want := strings.Fields("cluster.gossip.listen cluster.join coordinator.etcd.tls.ca_file stores.redis.db"); !slices.Equal(have, want) {
		t.Errorf("got  %s\nwant %s", have, want)
	}
}

const reloadable = `
server: {listen: "127.0.0.1:0"}
observe: {listen: "127.0.0.1:0"}
admin: {listen: "127.0.0.1:0"}
coordinator: {type: redlock, redlock: {addresses: ["a:1", "b:1", "c:1"]}}
stores: {postgres: {dsn_file: x}}
upstreams: [{name: app, targets: ["http://127.0.0.1:1"]}]
shutdown: {delay: 0s}
routes:
  - name: order
    match: {path: "/orders/{id}/{rest...}"}
    upstream: app
    key: {space: order, from: [{path: id}]}
`

// What routes need of the stores must have been opened at the start.
//
// Mutants killed: locks, stores, or the time of claims are not looked at.
func TestRoutesNeedWhatIsOpen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lanekeeper.yaml")
	config := func(route string) (*Config, *Report) {
		writeFile(t, file, strings.Replace(reloadable, "coordinator:", `cluster: {enabled: true, gossip: {listen: "127.0.0.1:7943"}, peer: {listen: "127.0.0.1:7944"}}`+"\ncoordinator:", 1)+route)
		c, report := Load(LoadOptions{File: file})
		if report.Errors() > 0 {
			t.Fatal(report.Problems)
		}
		return c, report
	}
	const locks = "    lane: {hot: {action: spill, backend: coordinator}}\n"
	const store, brief = "    idempotency: {mode: optional, store: redis}\n", "    idempotency: {mode: optional, store: redis, claim_lease: 4s}\n"
	for name, c := range map[string]struct{ first, present, next, want string }{
		"locks":         {"", "", locks, "15:33: routes[0].lane.hot.backend: no route had coordinator"},
		"locks, again":  {locks, "", locks, ""},
		"a store":       {"", "", store, "15:35: routes[0].idempotency.store: no route had redis"},
		"another store": {store, store, strings.ReplaceAll(store, "redis", "postgres"), "15:35: routes[0].idempotency.store: no route had postgres"},
		"a store again": {store, "", store, ""},
		"no store":      {store, store, "", ""},
		"short claims":  {store, store, brief, "15:49: routes[0].idempotency.claim_lease: the node waits for redis"},
		"long claims":   {brief, brief, store, ""},
	} {
		first, _ := config(c.first)
		present, _ := config(c.present)
		next, report := config(c.next)
		have := needRestart(first, present, next, report)
		if c.want == "" && len(have) > 0 || c.want != "" && (len(have) != 1 || !strings.HasPrefix(have[0], file+":"+c.want)) {
			t.Errorf("%s: got %q, want %q", name, have, c.want)
		}
	}
}

// A node in this process, whose file is changed in all ways.
//
// Mutants killed: errors take effect; a restart setting is let through; the hash stays; the
// level stays; the last failure stays in the status; a node whose process ends reloads.
func TestReload(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lanekeeper.yaml")
	writeFile(t, file, reloadable)
	load := func() (*Config, *Report) { return Load(LoadOptions{File: file}) }
	config, report := load()
	if report.Errors() > 0 {
		t.Fatal(report.Problems)
	}
	nodeConfig, err := config.nodeConfig()
	if err != nil {
		t.Fatal(err)
	}
	level := new(slog.LevelVar)
	nodeConfig.source = configSource{config: config, load: load, level: level}
	n, err := startNode(nodeConfig, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	now := make(chan struct{})
	close(now)
	stopped := false
	defer func() {
		if !stopped {
			n.stop(now)
		}
	}()
	before := n.Status()
	if before.LastReload != nil {
		t.Error("there was a reload before the first")
	}

	refused := func(text, slug string, problems ...string) {
		t.Helper()
		writeFile(t, file, text)
		_, err := n.Reload(false, "test")
		if err == nil || err.Slug != slug || len(err.Problems) != len(problems) {
			t.Fatalf("got %v, want %s, %q", err, slug, problems)
		}
		for i, problem := range problems {
			if !strings.HasPrefix(err.Problems[i], file+":"+problem) {
				t.Errorf("got %q, want %q", err.Problems[i], problem)
			}
		}
		s := n.Status()
		if s.Config != before.Config || s.LastReload == nil || s.LastReload.Successful || s.LastReload.Failure != err.Error() {
			t.Errorf("the status is %+v", s)
		}
		if n.proxy.Config().Routes[0].Name != "order" {
			t.Error("it takes effect")
		}
	}
	renamed := strings.Replace(reloadable, "name: order", "name: orders", 1)
	refused(renamed+"    lane: {tiemout: 1s}\n", admin.ConfigInvalid, "14:12: error: routes[0].lane.tiemout: unknown field")
	refused(strings.Replace(renamed, `server: {listen: "127.0.0.1:0"}`, `server: {listen: "127.0.0.1:2", max_header: 8KiB}`, 1), admin.RestartNeeded,
		"2:10: server.listen", "2:33: server.max_header")
	refused(renamed+"    idempotency: {mode: optional, store: redis}\n", admin.RestartNeeded, "14:35: routes[0].idempotency.store")

	writeFile(t, file, "# only a comment\n"+reloadable)
	done, refusal := n.Reload(false, "test")
	if refusal != nil || len(done.Changed) > 0 || done.Config != before.Config {
		t.Errorf("nothing new: %v, %v", done, refusal)
	}
	if s := n.Status(); !s.LastReload.Successful || s.LastReload.Failure != "" {
		t.Errorf("the status is %+v", s.LastReload)
	}

	writeFile(t, file, renamed+"log: {level: warn}\n")
	done, refusal = n.Reload(false, "test")
	if refusal != nil {
		t.Fatal(refusal)
	}
	s := n.Status()
	if !slices.Contains(done.Changed, "~ log.level: info -> warn") || done.Before != before.Config || done.Config == before.Config || s.Config != done.Config || level.Level() != slog.LevelWarn {
		t.Errorf("got %+v, status %+v, level %s", done, s, level)
	}
	if m := n.Members().Members; len(m) != 1 || m[0].Config != done.Config {
		t.Errorf("the members are %+v", m)
	}
	if name := n.proxy.Config().Routes[0].Name; name != "orders" {
		t.Errorf("requests come to %s", name)
	}

	stopped = true
	n.stop(now)
	if _, err := n.Reload(false, "test"); err == nil || err.Slug != "refused" {
		t.Errorf("at its end: %v", err)
	}
}

func TestANodeWithoutAFileIsNotReloaded(t *testing.T) {
	n := &node{}
	config, report := Load(LoadOptions{Quick: &Quick{Upstream: "http://127.0.0.1:1", Key: "header:A"}})
	if report.Errors() > 0 {
		t.Fatal(report.Problems)
	}
	nodeConfig, err := config.nodeConfig()
	if err != nil {
		t.Fatal(err)
	}
	nodeConfig.listen, nodeConfig.observe, nodeConfig.admin, nodeConfig.delay = "127.0.0.1:0", "", "", 0
	if n, err = startNode(nodeConfig, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	defer n.stop(make(chan struct{}))
	if _, err := n.Reload(true, "test"); err == nil || err.Slug != "refused" {
		t.Errorf("got %v", err)
	}
}

// Mutants killed: a refusal's exit code is 5; its problems are left out; --force is left
// out; what force did is left out; who runs another configuration is not said.
func TestReloadCommand(t *testing.T) {
	c := newFakeCluster()
	c.reloaded = admin.Reloaded{Node: "lk-1", Config: "b", Before: "a", Changed: []string{"~ log.level: info -> warn"}, Warnings: []string{"f:1:1: warning: x"}}
	c.forced = admin.Reloaded{Node: "lk-1", Config: "c", Before: "b", Changed: []string{"one", "two"}, Unordered: []admin.SpaceUse{{Space: "order", Lanes: 2, Requests: 9}}}
	c.statuses[0].Config = "b"
	address := c.serve(t)
	for name, want := range map[string]struct {
		args        []string
		refuses     *admin.ReloadError
		code        int
		out, people string
	}{
		"plain": {nil, nil, 0, "", "f:1:1: warning: x\n~ log.level: info -> warn\nlk-1: 1 change in force (config a -> b)\n"},
		"json":  {[]string{"-o", "json"}, nil, 0, "{\n", "f:1:1: warning: x\n~ log.level: info -> warn\nlk-1: 1 change in force (config a -> b)\n"},
		"force": {[]string{"--force"}, &admin.ReloadError{Slug: admin.LanesInUse}, 0, "", "one\ntwo\norder: no order is promised across the change for the 2 lanes in use\nlk-1: 2 changes in force (config b -> c)\n" +
			"! lk-0 runs another config (b): lanekeeper reload --node lk-0 has it read its own file\n"},
		"invalid": {nil, &admin.ReloadError{Slug: admin.ConfigInvalid, Detail: "why", Problems: []string{"f:1:2: error: x", "f:3:4: error: y"}}, 3, "",
			"f:1:2: error: x\nf:3:4: error: y\nlanekeeper: why; the configuration stays as it was\n"},
		"restart": {nil, &admin.ReloadError{Slug: admin.RestartNeeded, Detail: "why", Problems: []string{"f:1:2: node.name"}}, 3, "",
			"f:1:2: node.name\nlanekeeper: why; the configuration stays as it was\n"},
		"ending": {nil, &admin.ReloadError{Slug: "refused", Detail: "why"}, 3, "", "lanekeeper: why; the configuration stays as it was\n"},
	} {
		t.Run(name, func(t *testing.T) {
			c.refusesReload = want.refuses
			code, out, people := runArgs(t, append([]string{"reload", "--admin", address}, want.args...)...)
			if code != want.code || people != want.people || !strings.HasPrefix(out, want.out) || want.out == "" && out != "" {
				t.Errorf("got %d, %q, %q, want %+v", code, out, people, want)
			}
		})
	}
}

// Mutant killed: the file is watched and not its directory.
func TestWatchedFile(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, dir, file, text string){
		"written": func(t *testing.T, _, file, text string) { writeFile(t, file, text) },
		"renamed": func(t *testing.T, dir, file, text string) {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			writeFile(t, filepath.Join(dir, "new"), text)
			if err := os.Rename(filepath.Join(dir, "new"), file); err != nil {
				t.Fatal(err)
			}
		},
		// As Kubernetes does: the file is a link into ..data, itself a link.
		"volume": func(t *testing.T, dir, _, text string) { swapVolume(t, dir, text) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "lanekeeper.yaml")
			if name == "volume" {
				swapVolume(t, dir, "0")
				if err := os.Symlink("..data/lanekeeper.yaml", file); err != nil {
					t.Fatal(err)
				}
			} else {
				writeFile(t, file, "0")
			}
			ctx, cancel := context.WithCancel(t.Context())
			told, done := make(chan string, 10), make(chan struct{})
			watched := newWatchedFile(file)
			go func() {
				defer close(done)
				watched.watch(ctx, slog.New(slog.DiscardHandler), func() {
					text, err := os.ReadFile(file)
					if err != nil {
						t.Error(err)
					}
					told <- string(text)
				})
			}()
			for i := 1; i <= 3; i++ {
				text := fmt.Sprint(i)
				change(t, dir, file, text)
				if have := <-told; have != text {
					t.Errorf("told of %q, want %q", have, text)
				}
				change(t, dir, file, text)
			}
			cancel()
			<-done
			if len(told) > 0 {
				t.Errorf("told of %q, which is as before", <-told)
			}
		})
	}
}

// swapVolume puts another directory in the place of ..data.
func swapVolume(t *testing.T, dir, text string) {
	t.Helper()
	to, err := os.MkdirTemp(dir, "..20")
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(to, "lanekeeper.yaml"), text)
	temporary := filepath.Join(dir, "..data_tmp")
	if err := os.Symlink(filepath.Base(to), temporary); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(temporary, filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
}
