package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metricsql"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"go.yaml.in/yaml/v3"

	"lanekeeper/loadtest"
	"lanekeeper/lock/locktest"
)

const (
	metricsPage   = "../../configs/guide/metrics.md"
	prometheusDir = "../../configs/prometheus/"
	dashboardFile = "../../configs/grafana/lanekeeper.json"
)

// metricsKey is in every request of the test, and in no label.
const metricsKey = "keyofsomebody"

// family is a metric as it is, or as a page says that it is.
type family struct {
	kind   string
	labels string // sorted, with commas
}

// metricsCluster is two nodes that use all that has a metric: a lease, stores, limits,
// certificates, and keys that are spilled.
func metricsCluster(t *testing.T) (c *testCluster, store *locktest.Server) {
	t.Helper()
	coordinator, store := locktest.Redis(t), locktest.Redis(t)
	url, history := startWitness(t, loadtest.WitnessConfig{Delay: 2 * time.Millisecond})
	c = &testCluster{t: t, dir: t.TempDir(), history: history}
	secret := filepath.Join(c.dir, "secret")
	_, line := aSecret(1)
	writeFile(t, secret, line+"\n")
	a := newAuthority(t)
	a.certify("admin")
	ports := freePorts(t, 10)
	for i := range 2 {
		of := ports[5*i:]
		file := filepath.Join(c.dir, fmt.Sprintf("n%d.yaml", i+1))
		writeFile(t, file, fmt.Sprintf(`
version: 1
node: {name: n%d}
server: {listen: "127.0.0.1:%s"}
observe: {listen: "127.0.0.1:%s"}
admin: {listen: "127.0.0.1:%s", tls: {cert_file: %[5]s/admin.crt, key_file: %[5]s/admin.key}}
cluster:
  enabled: true
  secret_file: %[6]s
  join: ["127.0.0.1:%[7]s"]
  gossip: {listen: "127.0.0.1:%[8]s"}
  peer: {listen: "127.0.0.1:%[9]s"}
%[10]sstores: {redis: {addresses: [%[11]q]}}
upstreams: [{name: app, targets: [%[12]q], limit: {mode: fixed, max: 200}}]
defaults: {lane: {max_depth: 1000, queue_timeout: 30s, guarantee: best_effort}}
routes:
  - {name: strict, match: {path: "/strict/{id}"}, upstream: app, key: {space: strict, from: [{path: id}]}, lane: {guarantee: strict}}
  - {name: watched, match: {path: "/watched/{id}"}, upstream: app, key: {space: watched, from: [{path: id}]}, lane: {mode: observe}}
  - {name: named, match: {path: "/named/{id}"}, upstream: app, key: {space: named, from: [{path: id}]}, idempotency: {mode: optional, store: redis}}
  - {name: numbered, match: {path: "/numbered/{id}"}, upstream: app, key: {space: numbered, from: [{path: id}]}, sequence: {mode: optional}}
  - name: spilled
    match: {path: "/spilled/{id}"}
    upstream: app
    key: {space: spilled, from: [{path: id}]}
    lane: {hot: {depth: 4, bytes: 64KiB, busy: 0, share: 0, for: 50ms, cool_after: 500ms, action: spill}}
log: {keys: plain}
`, i+1, of[1], of[2], of[3], a.dir, secret, ports[0], of[0], of[4], strictSection("redis", "redis: {addresses: [%q]}", coordinator.Address), store.Address, url))
		c.files = append(c.files, file)
		c.targets = append(c.targets, "http://127.0.0.1:"+of[1])
		c.nodes = append(c.nodes, launch(t, file))
	}
	for i := range c.nodes {
		c.awaitReady(i)
	}
	return c, store
}

// everyMetric sends requests of each kind to both nodes.
func (c *testCluster) everyMetric(round int) {
	c.t.Helper()
	for _, target := range c.targets {
		for _, r := range []struct{ method, path, header, value string }{
			{"POST", "/strict/" + metricsKey, "", ""},
			{"GET", "/strict/" + metricsKey, "", ""},
			{"PUT", "/strict/" + strings.Repeat(metricsKey, 100), "", ""}, // too long
			{"POST", "/watched/" + metricsKey, "", ""},
			{"POST", "/named/" + metricsKey, "Idempotency-Key", fmt.Sprintf("%s-%d", metricsKey, round)},
			{"POST", "/numbered/" + metricsKey, "Lanekeeper-Producer", metricsKey},
			{"POST", "/spilled/" + metricsKey, "", ""},
			{"GET", "/nowhere/" + metricsKey, "", ""},
		} {
			request, err := http.NewRequestWithContext(c.t.Context(), r.method, target+r.path, http.NoBody)
			if err != nil {
				c.t.Fatal(err)
			}
			if r.header != "" {
				request.Header.Set(r.header, r.value)
			}
			if r.header == "Lanekeeper-Producer" {
				request.Header.Set("Lanekeeper-Seq", fmt.Sprint(round))
			}
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				c.t.Fatal(err)
			}
			io.Copy(io.Discard, response.Body) //nolint:errcheck // what it says is others' to test
			response.Body.Close()
		}
	}
}

// scrape is what a node exports, as a Prometheus with native histograms gets it.
func (c *testCluster) scrape(i int) (families []*dto.MetricFamily) {
	c.t.Helper()
	request, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, c.nodes[i].observe+"/metrics", http.NoBody)
	if err != nil {
		c.t.Fatal(err)
	}
	request.Header.Set("Accept", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		c.t.Fatal(err)
	}
	defer response.Body.Close()
	decoder := expfmt.NewDecoder(response.Body, expfmt.ResponseFormat(response.Header))
	for {
		f := new(dto.MetricFamily)
		switch err := decoder.Decode(f); {
		case errors.Is(err, io.EOF):
			return families
		case err != nil:
			c.t.Fatal(err)
		}
		families = append(families, f)
	}
}

// exported judges what nodes export, and returns it.
func (c *testCluster) exported() map[string]family {
	c.t.Helper()
	all := make(map[string]family)
	for i := range c.nodes {
		for _, f := range c.scrape(i) {
			name := f.GetName()
			for _, m := range f.GetMetric() {
				var labels []string
				for _, label := range m.GetLabel() {
					labels = append(labels, label.GetName())
					if strings.Contains(label.GetValue(), metricsKey) {
						c.t.Errorf("%s has a key in its label %s: %s", name, label.GetName(), label.GetValue())
					}
				}
				slices.Sort(labels)
				is := family{strings.ToLower(f.GetType().String()), strings.Join(labels, ",")}
				if before, ok := all[name]; ok && before != is {
					c.t.Errorf("%s is %v and %v", name, before, is)
				}
				all[name] = is
				if h := m.GetHistogram(); h != nil && strings.HasPrefix(name, "lanekeeper_") && (h.Schema == nil || len(h.GetBucket()) == 0) {
					c.t.Errorf("%s is not classic and native at once", name)
				}
				if name == "lanekeeper_order_violations_total" && m.GetCounter().GetValue() != 0 {
					c.t.Errorf("order was broken: %v", m)
				}
			}
		}
	}
	return all
}

// documented is what the page says of them.
func documented(t *testing.T) map[string]family {
	t.Helper()
	page, err := os.ReadFile(metricsPage)
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("(?m)^\\| `(lanekeeper_[a-z_]+)` \\| ([a-z]+) \\| ([`a-z_, ]*) \\| (.+) \\|$")
	all := make(map[string]family)
	for _, found := range row.FindAllStringSubmatch(string(page), -1) {
		labels := strings.FieldsFunc(found[3], func(r rune) bool { return strings.ContainsRune("`, ", r) })
		slices.Sort(labels)
		if _, ok := all[found[1]]; ok {
			t.Errorf("%s is twice on the page", found[1])
		}
		all[found[1]] = family{found[2], strings.Join(labels, ",")}
	}
	return all
}

// query is one of the rules or of the dashboard.
type query struct{ where, expression, text string } // text: what names labels by templates

// instants is what Grafana and the tests' short life make of a query.
var instants = strings.NewReplacer("$__rate_interval", "10s", "$job", "lanekeeper", "$route", ".*")

type ruleFile struct {
	Groups []struct {
		Rules []struct {
			Record, Alert, Expr string
			Labels, Annotations map[string]string
		}
	}
}

func readRules(t *testing.T) (rules ruleFile) {
	t.Helper()
	text, err := os.ReadFile(prometheusDir + "rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &rules); err != nil {
		t.Fatal(err)
	}
	return rules
}

func dashboardQueries(t *testing.T) (queries []query) {
	t.Helper()
	text, err := os.ReadFile(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			ID                       int
			Type, Title, Description string
			Targets                  []struct{ Expr, LegendFormat string }
		}
		Templating struct {
			List []struct{ Name, Type, Query string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	ids := make(map[int]bool)
	for _, p := range dashboard.Panels {
		if ids[p.ID] {
			t.Errorf("two panels have the number %d", p.ID)
		}
		ids[p.ID] = true
		if p.Type != "row" && (len(p.Targets) == 0 || p.Description == "") {
			t.Errorf("the panel %q asks for nothing, or does not say what it shows", p.Title)
		}
		for _, target := range p.Targets {
			queries = append(queries, query{"the panel " + p.Title, instants.Replace(target.Expr), target.LegendFormat})
		}
	}
	values := regexp.MustCompile(`^label_values\((.+), ([a-z]+)\)$`)
	for _, v := range dashboard.Templating.List {
		if v.Type != "query" {
			continue
		}
		found := values.FindStringSubmatch(v.Query)
		if found == nil {
			t.Fatalf("the variable %s: %s", v.Name, v.Query)
		}
		queries = append(queries, query{"the variable " + v.Name, instants.Replace(found[1]), "{{" + found[2] + "}}"})
	}
	return queries
}

var templated = regexp.MustCompile(`\{\{ ?(?:\$labels\.)?([a-z]+) ?\}\}`)

// fits reports what a query asks for that is not exported. recorded are the names that
// the rules make.
func (q query) fits(exported map[string]family, recorded map[string]bool) (wrong []string) {
	parsed, err := metricsql.Parse(q.expression)
	if err != nil {
		return []string{err.Error()}
	}
	labelsOf := func(e metricsql.Expr) (each [][]string) {
		metricsql.VisitAll(e, func(e metricsql.Expr) {
			if m, ok := e.(*metricsql.MetricExpr); ok {
				if labels, ok := labelsOfMetric(m.LabelFilterss[0][0].Value, exported, recorded); ok {
					each = append(each, labels)
				}
			}
		})
		return each
	}
	every := func(e metricsql.Expr, wanted []string, what string) {
		for _, have := range labelsOf(e) {
			for _, label := range wanted {
				if !slices.Contains(have, label) {
					wrong = append(wrong, fmt.Sprintf("%s %s: there are %v", what, label, have))
				}
			}
		}
	}
	metricsql.VisitAll(parsed, func(e metricsql.Expr) {
		switch e := e.(type) {
		case *metricsql.MetricExpr:
			name := e.LabelFilterss[0][0].Value
			if _, ok := labelsOfMetric(name, exported, recorded); !ok {
				wrong = append(wrong, "there is no "+name)
			}
			for _, filter := range e.LabelFilterss[0][1:] {
				every(e, []string{filter.Label}, name+" by")
			}
		case *metricsql.AggrFuncExpr:
			every(e, e.Modifier.Args, e.Name+" by")
		case *metricsql.BinaryOpExpr:
			every(e, e.GroupModifier.Args, e.Op+" on")
		}
	})
	for _, found := range templated.FindAllStringSubmatch(q.text, -1) {
		every(parsed, found[1:], "the text has")
	}
	return wrong
}

// labelsOfMetric are those that a series of this name has in Prometheus.
func labelsOfMetric(name string, exported map[string]family, recorded map[string]bool) (labels []string, ok bool) {
	all := []string{"job", "instance"}
	if name == "up" {
		return all, true
	}
	if recorded[name] {
		return append(all, "route", "mode", "code", "upstream"), true // promtool's tests know more
	}
	if f, ok := exported[name]; ok {
		return append(all, strings.Split(f.labels, ",")...), true
	}
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if f, ok := exported[strings.TrimSuffix(name, suffix)]; ok && f.kind == "histogram" {
			return append(append(all, "le"), strings.Split(f.labels, ",")...), true
		}
	}
	return nil, false
}

// prometheusServer is a running one.
type prometheusServer struct {
	t   *testing.T
	url string
}

// startPrometheus starts Debian's, with the configuration and the rules that are here for
// users, but with the cluster's addresses, and without patience.
func (c *testCluster) startPrometheus(t *testing.T, flags ...string) *prometheusServer {
	t.Helper()
	path := program(t, "prometheus", "prometheus")
	dir, address := t.TempDir(), freeAddress(t)
	text, err := os.ReadFile(prometheusDir + "prometheus.yaml")
	if err != nil {
		t.Fatal(err)
	}
	config := regexp.MustCompile(`_interval: \d+s`).ReplaceAllString(string(text), "_interval: 500ms")
	var targets []string
	for i := range c.nodes {
		targets = append(targets, fmt.Sprintf("%q", strings.TrimPrefix(c.nodes[i].observe, "http://")))
	}
	config = regexp.MustCompile(`targets: \[.*\]`).ReplaceAllString(config, "targets: ["+strings.Join(targets, ", ")+"]")
	writeFile(t, filepath.Join(dir, "prometheus.yaml"), config)
	rules, err := os.ReadFile(prometheusDir + "rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "rules.yaml"), string(rules))
	start(t, exec.Command(path, append(flags, "--config.file="+dir+"/prometheus.yaml", "--storage.tsdb.path="+dir+"/data", "--web.listen-address="+address)...),
		"Server is ready to receive web requests")
	return &prometheusServer{t, "http://" + address}
}

// series is how many a query returns.
func (p *prometheusServer) series(expression string) (int, error) {
	response, err := http.PostForm(p.url+"/api/v1/query", url.Values{"query": {expression}})
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	var answer struct {
		Status, Error string
		Data          struct{ Result []json.RawMessage }
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return 0, err
	}
	if answer.Status != "success" {
		return 0, errors.New(answer.Error)
	}
	return len(answer.Data.Result), nil
}

// returns waits until every query of the dashboard does, and every rule that records; of an
// alert's comparison both sides.
func (p *prometheusServer) returns(queries []query) {
	p.t.Helper()
	for _, q := range queries {
		expressions := []string{q.expression}
		if strings.HasPrefix(q.where, "the alert") {
			expressions = sides(q.expression)
		}
		for _, expression := range expressions {
			until(p.t, q.where+" returns something for "+expression, func() bool {
				n, err := p.series(expression)
				if err != nil {
					p.t.Fatalf("%s: %v", q.where, err)
				}
				return n > 0
			})
		}
		if _, err := p.series(q.expression); err != nil {
			p.t.Errorf("%s: %v", q.where, err)
		}
	}
}

// sides are what an alert compares, but for numbers, and whatever labels it picks: those of
// trouble are not there.
func sides(expression string) (sides []string) {
	parsed, err := metricsql.Parse(expression)
	comparison, ok := parsed.(*metricsql.BinaryOpExpr)
	if err != nil || !ok {
		return []string{expression}
	}
	metricsql.VisitAll(parsed, func(e metricsql.Expr) {
		if m, ok := e.(*metricsql.MetricExpr); ok {
			m.LabelFilterss[0] = m.LabelFilterss[0][:1]
		}
	})
	for _, side := range []metricsql.Expr{comparison.Left, comparison.Right} {
		if _, number := side.(*metricsql.NumberExpr); !number {
			sides = append(sides, string(side.AppendString(nil)))
		}
	}
	return sides
}

// TestStrictMetrics holds what two nodes export, under all that has a metric, against the page
// that explains it, both ways; and every query of the rules and of the dashboard against what
// is exported, and against a Prometheus that scrapes the nodes, once with classic
// histograms and once with native ones.
//
// Mutants: a metric has another name; a key is in a label; the histogram of hand-overs is not
// native; the page has another label, or a metric that is none; a panel groups, or is named, by
// a label that is none; so is an alert's summary; a rule asks for classic histograms alone.
func TestStrictMetrics(t *testing.T) {
	unhurried(t)
	c, store := metricsCluster(t)
	var scraping []*prometheusServer
	for _, flags := range [][]string{nil, {"--enable-feature=native-histograms"}} {
		scraping = append(scraping, c.startPrometheus(t, flags...))
	}
	traffic := loadtest.Traffic{
		Mode: loadtest.Closed, Keys: 3, Requests: 1_000_000, Connections: 48, Path: "/spilled/{key}", Space: "spilled", Timeout: 40 * time.Second, Duration: time.Minute,
	}
	rules, recorded := readRules(t), make(map[string]bool)
	queries := dashboardQueries(t)
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			if rule.Record != "" {
				recorded[rule.Record] = true
				queries = append(queries, query{"the record " + rule.Record, rule.Expr, ""})
				continue
			}
			queries = append(queries, query{"the alert " + rule.Alert, rule.Expr, fmt.Sprint(rule.Annotations)})
			if rule.Labels["severity"] != "page" && rule.Labels["severity"] != "ticket" || rule.Annotations["summary"] == "" || !strings.Contains(rule.Annotations["runbook"], "irst ") {
				t.Errorf("%s: nobody would know what to do: %v, %v", rule.Alert, rule.Labels, rule.Annotations)
			}
		}
	}
	_, report := c.under(traffic, func() {
		for round := 1; round <= 6; round++ {
			c.everyMetric(round)
		}
		store.Kill()
		for round := 7; round <= 12; round++ {
			c.everyMetric(round)
		}
		for _, p := range scraping {
			p.returns(queries)
		}
	})
	if !report.OK() {
		t.Errorf("%s", report)
	}
	exported := c.exported()
	page := documented(t)
	for name, is := range exported {
		if said, ok := page[name]; strings.HasPrefix(name, "lanekeeper_") && (!ok || said != is) {
			t.Errorf("%s is %v, and the page says %v", name, is, said)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(page)) {
		if _, ok := exported[name]; !ok {
			t.Errorf("the page has %s, which is not exported", name)
		}
	}
	for _, q := range queries {
		for _, wrong := range q.fits(exported, recorded) {
			t.Errorf("%s: %s: %s", q.where, q.expression, wrong)
		}
	}
	shown := fmt.Sprint(queries)
	for name := range page {
		if !strings.Contains(shown, name) {
			t.Errorf("neither the dashboard nor a rule shows %s", name)
		}
	}
}

// TestRules has promtool judge the files, and run the rules' own tests, of which each alert
// has one.
//
// Mutants: an alert's threshold is ten times as high; one target of two that is down is enough
// for LanekeeperUpstreamDown; an alert has no test.
func TestRules(t *testing.T) {
	promtool := program(t, "promtool", "prometheus")
	for _, args := range [][]string{{"check", "config", "prometheus.yaml"}, {"check", "rules", "rules.yaml"}, {"test", "rules", "rules_test.yaml"}} {
		cmd := exec.Command(promtool, args...)
		cmd.Dir = prometheusDir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
	tests, err := os.ReadFile(prometheusDir + "rules_test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range readRules(t).Groups {
		for _, rule := range group.Rules {
			if rule.Alert != "" && !strings.Contains(string(tests), fmt.Sprintf(`{alertname=%q}`, rule.Alert)) {
				t.Errorf("no test has %s fire", rule.Alert)
			}
		}
	}
}
