package clients

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lanekeeper/configs/configstest"
	"lanekeeper/lock/locktest"
)

// service runs one of the examples, which say in their first line where they serve.
func service(t *testing.T, command ...string) string {
	t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("%v says nothing: %v", command, err)
	}
	return strings.TrimSpace(line)
}

func pythonService(t *testing.T) string {
	return service(t, configstest.Program(t, "python3", "python3"), "-W", "error::ResourceWarning", "fence.py", "127.0.0.1:0", filepath.Join(t.TempDir(), "orders.db"))
}

func nodeService(t *testing.T) string {
	node, psql := configstest.Program(t, "node", "nodejs"), configstest.Program(t, "psql", "postgresql")
	database := "postgres://postgres@" + locktest.Postgres(t).Address + "/postgres"
	return service(t, node, "testdata/fence_service.js", psql, database)
}

// javaService is the filter of ../fence, which needs the API of servlets and a driver.
func javaService(t *testing.T) string {
	javac, java := configstest.Program(t, "javac", "default-jdk-headless"), configstest.Program(t, "java", "default-jdk-headless")
	classes := t.TempDir()
	path := classes
	for jar, pkg := range map[string]string{"jakarta-servlet-api": "libjakarta-servlet-api-java", "postgresql": "libpostgresql-jdbc-java"} {
		file := "/usr/share/java/" + jar + ".jar"
		if _, err := os.Stat(file); err != nil {
			configstest.Absent(t, "no %s here: apt-get install %s", file, pkg)
		}
		path += ":" + file
	}
	out, err := exec.CommandContext(t.Context(), javac, "--release", "17", "-Xlint:all,-path", "-Werror", "-cp", path, "-d", classes,
		"../fence/FenceFilter.java", "testdata/FenceService.java").CombinedOutput()
	if err != nil {
		t.Fatalf("javac: %v\n%s", err, out)
	}
	return service(t, java, "-XX:TieredStopAtLevel=1", "-cp", path, "FenceService", "jdbc:postgresql://"+locktest.Postgres(t).Address+"/postgres?user=postgres")
}

// strict is a strict route of lanekeeper before a service, and what it sends there.
type strict struct {
	address, service string

	mu   sync.Mutex // guards sent
	sent []http.Header
}

func newStrict(t *testing.T, service string) *strict {
	t.Helper()
	s := &strict{service: service}
	to, err := url.Parse(service)
	if err != nil {
		t.Fatal(err)
	}
	through := &httputil.ReverseProxy{Transport: &http.Transport{DisableKeepAlives: true}, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }}
	tap := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, in *http.Request) {
		s.mu.Lock()
		s.sent = append(s.sent, in.Header.Clone())
		s.mu.Unlock()
		through.ServeHTTP(out, in)
	}))
	t.Cleanup(tap.Close)
	file := filepath.Join(t.TempDir(), "lanekeeper.yaml")
	text := fmt.Sprintf(`
version: 1
server: {listen: "127.0.0.1:0"}
observe: {listen: "127.0.0.1:0"}
admin: {listen: "127.0.0.1:0"}
cluster: {enabled: true, gossip: {listen: "127.0.0.1:0", profile: local}, peer: {listen: "127.0.0.1:0"}}
coordinator: {type: redis, redis: {addresses: [%q], grace: false}}
upstreams: [{name: app, targets: [%q]}]
routes: [{name: orders, match: {path: "/orders/{id}"}, upstream: app, key: {space: order, from: [{path: id}]}, lane: {guarantee: strict, upstream_timeout: 5s}}]
shutdown: {delay: 0s}
`, locktest.Redis(t).Address, tap.URL)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(configstest.Lanekeeper(t), "serve", "--config", file)
	cmd.Env = append(os.Environ(), "LANEKEEPER_LOG_FORMAT=json")
	node := configstest.Serve(t, cmd)
	s.address = node.Address
	t.Cleanup(func() {
		if code := node.Stop(); code != 0 {
			t.Errorf("lanekeeper ends with %d", code)
		}
	})
	ticker, deadline := time.NewTicker(20*time.Millisecond), time.After(20*time.Second)
	defer ticker.Stop()
	for ask(t, http.MethodGet, node.Observe+"/readyz", nil, "").status != http.StatusOK {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatal("lanekeeper does not become ready")
		}
	}
	return s
}

type answer struct {
	status int
	text   string
}

func ask(t *testing.T, method, url string, header http.Header, body string) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header = header.Clone()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{response.StatusCode, string(text)}
}

// A request that was sent, froze on its way, and comes after a newer one of its key is
// refused by the service, with what lanekeeper really sends. The same request may come in
// several parts; who comes by without lanekeeper is not let in.
//
// Mutants, of each language: no comparison of fences; equal ones are refused; a request
// without a fence is let in; the first of two is taken; the fence is read as a floating-point
// number.
func TestWhatComesLateIsRefused(t *testing.T) {
	for name, start := range map[string]func(*testing.T) string{"python": pythonService, "node": nodeService, "java": javaService} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStrict(t, start(t))
			const order = "/orders/7"
			for _, value := range []string{"first", "second"} {
				if have := ask(t, http.MethodPut, s.address+order, nil, value); have.status != http.StatusOK {
					t.Fatalf("%s is answered by %v", value, have)
				}
			}
			s.mu.Lock()
			sent := slices.Clone(s.sent)
			s.mu.Unlock()
			if len(sent) != 2 {
				t.Fatalf("lanekeeper has sent %d requests", len(sent))
			}
			late, present := sent[0], sent[1]
			none, two := present.Clone(), present.Clone()
			none.Del("Lanekeeper-Fence")
			two.Add("Lanekeeper-Fence", late.Get("Lanekeeper-Fence"))
			// Neighbours are one number where there is room for 53 bits.
			higher, lower := present.Clone(), present.Clone()
			higher.Set("Lanekeeper-Fence", "9223372036854775807")
			lower.Set("Lanekeeper-Fence", "9223372036854775806")
			for _, step := range []struct {
				what   string
				header http.Header
				want   int
				value  string // that is there afterwards
			}{
				{"late", late, http.StatusConflict, "second"},
				{"again", present, http.StatusOK, "again"},
				{"none", none, http.StatusBadRequest, "again"},
				{"two", two, http.StatusBadRequest, "again"},
				{"higher", higher, http.StatusOK, "higher"},
				{"lower", lower, http.StatusConflict, "higher"},
			} {
				have := ask(t, http.MethodPut, s.service+order, step.header, step.what)
				if value := ask(t, http.MethodGet, s.service+order, nil, "").text; have.status != step.want || value != step.value {
					t.Errorf("%s: %v, and then there is %q; want %d, %q", step.what, have, value, step.want, step.value)
				}
			}
		})
	}
}
