package main

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
)

// TestNoSecretAndNoKeyGetsOut plants secrets wherever a file may name some, and sends
// keys of all shapes to a node that logs as much as it can. Then it looks for them in
// all that the program says. Keys may be where operators ask for them; in metrics and
// in the log they may not.
func TestNoSecretAndNoKeyGetsOut(t *testing.T) {
	planted := func(n byte) (line string) {
		return base64.StdEncoding.EncodeToString([]byte(fmt.Sprintf("planted-secret-%d-of-32-bytes-long", n))[:secretBytes])
	}
	token := "planted-token-of-an-operator"
	secrets := []string{planted(1), planted(2), planted(3), "planted-secret", token, "planted-password", "wrong-token-of-somebody"}
	file := func(name, content string) string { return secretFile(t, name, content) }
	t.Setenv("PLANTED", "planted-password")
	config := file("lanekeeper.yaml", fmt.Sprintf(`
server: {listen: "127.0.0.1:0"}
observe: {listen: "127.0.0.1:0"}
admin: {listen: "127.0.0.1:0", token_file: %[1]s, pprof: true}
cluster:
  enabled: true
  secret_file: %[2]s
  gossip: {listen: "127.0.0.1:0", secret_file: %[3]s, profile: local}
  peer: {listen: "127.0.0.1:0"}
session: {secret_file: %[4]s, secure: false}
stores:
  redis: {addresses: ["127.0.0.1:1"], username: u, password_file: %[5]s}
  postgres: {dsn_file: %[6]s}
log: {level: debug, access: all}
shutdown: {delay: 0s}
upstreams: [{name: app, targets: ["http://UPSTREAM"]}]
routes:
  - {name: order, match: {path: "/orders/{id}/{rest...}"}, upstream: app, key: {space: order, from: [{path: id}]}, lane: {exclusive: ["*"], shared: []}}
  - {name: json, match: {path: "/json"}, upstream: app, key: {space: order, from: [{json: id}]}}
  - {name: session, match: {path: "/{rest...}"}, upstream: app, key: {space: session, from: [{cookie: lk_session, issue: true}]}}
`, file("token", token), file("cluster.key", planted(1)), file("gossip.key", planted(2)), file("session.key", planted(3)),
		file("password", "planted-password"), file("dsn", "postgres://u:planted-password@127.0.0.1:1/x")))
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/broken") {
			panic(http.ErrAbortHandler)
		}
		io.Copy(io.Discard, r.Body) //nolint:errcheck // whatever there is
	}))
	defer upstream.Close()
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	text = []byte(strings.Replace(string(text), "http://UPSTREAM", upstream.URL, 1))
	if err := os.WriteFile(config, text, 0o600); err != nil {
		t.Fatal(err)
	}

	said := map[string]string{}
	command := func(args ...string) {
		_, out, errs := runArgs(t, args...)
		said[strings.Join(args, " ")] = out + errs
	}
	command("validate", config)
	command("config", "show", "--config", config)
	command("config", "show", "--origin", "--config", config)
	command("config", "diff", config, "../../configs/minimal.yaml")
	broken := file("broken.yaml", strings.Replace(string(text), "secret_file: ", "secret_file: "+file("half.key", "planted-secret-that-is-no-base64")+" # ", 1))
	command("serve", "--config", broken)

	p := launch(t, config)
	line := p.log("serving")
	until(t, "it is ready", func() bool { return statusOf(t, "http://"+line["observe"].(string)+"/readyz") == 200 })
	keys := []string{"odd-key-1", "odd-key-%22quote", "odd-key-%0Aline", "odd-key-\xff\xfe", "odd-key-%E2%82%AC", strings.Repeat("odd-key-", 40)}
	ask := func(method, port, target, body, authorization string) string {
		request, err := http.NewRequest(method, "http://"+line[port].(string), strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		path, query, _ := strings.Cut(target, "?")
		request.URL.Opaque, request.URL.RawQuery = path, query
		if authorization != "" {
			request.Header.Set("Authorization", "Bearer "+authorization)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		answer, _ := io.ReadAll(response.Body)
		return string(answer)
	}
	for _, key := range keys {
		ask("POST", "listen", "/orders/"+key+"/x", "body", "")
		ask("POST", "listen", "/orders/"+key+"/broken", "body", "")
		ask("POST", "listen", "/json", `{"id": "`+key+`"}`, "")
		ask("GET", "listen", "/orders/"+key, "", "")
	}
	ask("GET", "listen", "/else", "", "")
	said["a wrong token"] = ask("GET", "admin", "/api/v1/status", "", "wrong-token-of-somebody")
	for _, target := range []string{"status", "members", "ring", "hot", "lanes", "unknown", "events", "config"} {
		said[target] = ask("GET", "admin", "/api/v1/"+target, "", token)
	}
	for _, target := range []string{"cmdline", "goroutine?debug=2", "heap?debug=1"} {
		said[target] = ask("GET", "admin", "/debug/pprof/"+target, "", token)
	}
	metrics := ask("GET", "observe", "/metrics", "", "")
	said["metrics"] = metrics
	p.signal(syscall.SIGTERM)
	var log strings.Builder
	for line := range p.lines { // to the end
		fmt.Fprintln(&log, line)
	}
	fmt.Fprintln(&log, p.kept())
	p.wait()
	said["log"] = log.String()

	if !strings.Contains(said["log"], "key_hash") || !strings.Contains(metrics, "lanekeeper_requests_total") || !strings.Contains(said["cmdline"], "serve") {
		t.Error("there was nothing to be found")
	}
	for where, text := range said {
		for _, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%s: it holds %q", where, secret)
			}
		}
	}
	for _, where := range []string{"metrics", "log"} {
		if at := strings.Index(said[where], "odd-key"); at >= 0 {
			t.Errorf("a key is in the %s: %s", where, said[where][max(0, at-200):min(len(said[where]), at+50)])
		}
	}
}
