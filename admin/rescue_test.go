package admin

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// brokenCluster panics when it is asked.
type brokenCluster struct{ threeNodes }

func (*brokenCluster) Status() Status { panic("a bug") }

// Mutants: either handler is not rescued.
func TestAPanicCostsItsRequestAlone(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	broken := []Check{{Name: "broken", Run: func() error { panic("a bug") }}}
	for target, handler := range map[string]http.Handler{
		"/api/v1/status": Handler(local, &brokenCluster{}, log),
		"/livez":         Observe(broken, nil, prometheus.NewRegistry(), log),
	} {
		out.Reset()
		request := httptest.NewRequest("GET", target, nil)
		request.Host = "localhost"
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, request)
		if body := recorder.Body.String(); recorder.Code != 500 || !strings.Contains(body, "problem:internal-error") || strings.Contains(body, "a bug") {
			t.Errorf("%s: %d %s", target, recorder.Code, body)
		}
		if !strings.Contains(out.String(), "a bug") || !strings.Contains(out.String(), "rescue_test.go") {
			t.Errorf("%s: the log says %s", target, &out)
		}
	}
}

// Mutant: profiles are served unasked.
func TestProfilesAreServedToWhoMaySeeThem(t *testing.T) {
	config := local
	config.Tokens, config.Pprof = []string{token}, true
	with := map[string]string{"Authorization": "Bearer " + token}
	asking{method: "GET", target: "/debug/pprof/", status: 401, slug: "unauthorized"}.check(t, config)
	asking{method: "GET", target: "/debug/pprof/heap", status: 401, slug: "unauthorized"}.check(t, config)
	asking{method: "GET", target: "/debug/pprof/heap", host: "evil.example", header: with, status: 421, slug: "host-not-allowed"}.check(t, config)
	asking{method: "POST", target: "/debug/pprof/symbol", header: with, status: 404, slug: "not-found"}.check(t, config)
	for _, target := range []string{"", "heap?gc=1", "goroutine?debug=2", "cmdline", "symbol", "profile?seconds=1", "trace?seconds=0.01"} {
		if body := (asking{method: "GET", target: "/debug/pprof/" + target, header: with, status: 200}).check(t, config).Body; body.Len() == 0 && target != "trace?seconds=0.01" {
			t.Errorf("%s is empty", target)
		}
	}
	config.Pprof = false
	asking{method: "GET", target: "/debug/pprof/heap", header: with, status: 404, slug: "not-found"}.check(t, config)
}
