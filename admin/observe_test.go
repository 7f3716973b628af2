package admin

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestObserve(t *testing.T) {
	good := Check{"listeners", func() error { return nil }}
	bad := Check{"draining", func() error { return errors.New("since 4s") }}
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "lanekeeper_test_total"}))

	for _, test := range []struct {
		name, method, path string
		ready              []Check
		status             int
		body               string
	}{
		{"live", "GET", "/livez", []Check{bad}, 200, "ok\n"},
		{"live verbose", "GET", "/livez?verbose", []Check{bad}, 200, "[+]listeners ok\n"},
		{"ready", "GET", "/readyz", []Check{good}, 200, "ok\n"},
		{"not ready", "GET", "/readyz", []Check{good, bad}, 503, "[+]listeners ok\n[-]draining: since 4s\n"},
		{"HEAD", "HEAD", "/readyz", []Check{good}, 200, ""},
		{"metrics", "GET", "/metrics", nil, 200, "lanekeeper_test_total 0"},
		{"nothing can be changed", "POST", "/readyz", nil, 405, ""},
		{"index", "GET", "/", nil, 200, "/readyz"},
		{"nothing else", "GET", "/debug/pprof/", nil, 404, ""},
	} {
		recorder := httptest.NewRecorder()
		Observe([]Check{good}, test.ready, registry, slog.New(slog.DiscardHandler)).ServeHTTP(recorder, httptest.NewRequest(test.method, test.path, nil))
		if recorder.Code != test.status {
			t.Errorf("%s: status %d, want %d", test.name, recorder.Code, test.status)
		}
		if body := recorder.Body.String(); !strings.Contains(body, test.body) {
			t.Errorf("%s: %q does not hold %q", test.name, body, test.body)
		}
	}
}

func TestHealthIsNotCached(t *testing.T) {
	recorder := httptest.NewRecorder()
	health(nil).ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/livez", nil))
	if got := recorder.Header().Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control = %q", got)
	}
}
