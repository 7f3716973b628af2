package admin

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"lanekeeper/admin/ui"
)

// The page can be had without a token, for which it asks; by its host's names only, and nothing of
// the API with it.
//
// Mutants killed: the page wants a token; nothing wants one; without ui the page's paths are open
// all the same.
func TestTheDashboardIsThereBeforeTheToken(t *testing.T) {
	config := Config{Tokens: []string{"0123456789abcdef"}, AllowedHosts: []string{"lk-0"}, UI: true}
	ask := func(config Config, method, path, host string) *http.Response {
		t.Helper()
		request := httptest.NewRequest(method, "http://"+host+path, nil)
		w := httptest.NewRecorder()
		Handler(config, &threeNodes{}, slog.New(slog.DiscardHandler)).ServeHTTP(w, request)
		return w.Result()
	}
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/", 308}, {"GET", "/ui", 308}, {"GET", "/ui/", 200}, {"HEAD", "/ui/page/app.js", 200}, {"GET", "/ui/nothing", 404}, {"POST", "/ui/", 405},
		{"GET", "/api/v1/status", 401}, {"GET", "/uix", 401}, {"GET", "/openapi.json", 401}, {"POST", "/api/v1/drain", 401},
		{"GET", "/ui/%2e%2e/api/v1/status", 404}, {"GET", "/ui%2f..%2fapi/v1/status", 404}, {"POST", "/ui/%2e%2e/api/v1/drain", 405},
	} {
		response := ask(config, c.method, c.path, "lk-0")
		if response.StatusCode != c.status {
			t.Errorf("%s %s: got %d, want %d", c.method, c.path, response.StatusCode, c.status)
		}
		if ours := c.status < 400 && response.Header.Get("Content-Security-Policy") != ui.Policy; ours {
			t.Errorf("%s %s has the policy %q", c.method, c.path, response.Header.Get("Content-Security-Policy"))
		}
	}
	if got := ask(config, "GET", "/ui/", "evil.example").StatusCode; got != http.StatusMisdirectedRequest {
		t.Errorf("by another name: got %d", got)
	}
	config.UI = false
	if got := ask(config, "GET", "/ui/", "lk-0").StatusCode; got != http.StatusUnauthorized {
		t.Errorf("without the dashboard: got %d", got)
	}
	config.Tokens = nil
	for path := range strings.FieldsSeq("/ /ui /ui/ /ui/page/app.js") {
		if got := ask(config, "GET", path, "lk-0").StatusCode; got != http.StatusNotFound {
			t.Errorf("without the dashboard, %s: got %d", path, got)
		}
	}
}
