package proxy_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"lanekeeper/proxy"
)

// Which requests have a line, and what it says of them.
//
// Mutants: the answers of the service are lines of AccessErrors whatever their status; those
// that are lanekeeper's own are not; AccessNone is AccessErrors; the key is written beside its
// hash; executed is left out.
func TestTheAccessLog(t *testing.T) {
	for access, want := range map[proxy.Access]string{
		proxy.AccessAll:    "200 404 503 400",
		proxy.AccessErrors: "503 400",
		proxy.AccessNone:   "",
	} {
		synctest.Test(t, func(t *testing.T) {
			n := start(t, func(c *proxy.Config) { c.Access = access })
			for _, status := range []int{200, 404, 503} {
				n.service.handle(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
				n.send("POST", "/orders/secret/a", nil, "")
			}
			n.send("POST", "/orders/"+strings.Repeat("1", 33)+"/a", nil, "")
			synctest.Wait()
			var statuses []string
			for text := range strings.Lines(n.log.String()) {
				var line map[string]any
				if err := json.Unmarshal([]byte(text), &line); err != nil {
					t.Fatal(err)
				}
				if line["msg"] != "request" {
					continue
				}
				status, _ := json.Marshal(line["status"])
				statuses = append(statuses, string(status))
				if strings.Contains(text, "secret") {
					t.Errorf("the key is in %s", text)
				}
				fields := "route space status lane_ms upstream_ms"
				if string(status) == "400" {
					fields += " executed reason detail"
				} else {
					fields += " ticket depth key_hash"
				}
				for _, field := range strings.Fields(fields) {
					if line[field] == nil {
						t.Errorf("%s is not in %s", field, text)
					}
				}
			}
			if got := strings.Join(statuses, " "); got != want {
				t.Errorf("the lines of %d are of %q, want %q", access, got, want)
			}
		})
	}
}
