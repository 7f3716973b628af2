package admin

import (
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Check is one condition of health. Run returns nil, or what is wrong. It may
// be called concurrently and must not block.
type Check struct {
	Name string
	Run  func() error
}

// Observe returns the handler of the observe port:
//
//	/livez    the process makes progress; never a peer's or an upstream's fault
//	/readyz   requests should be sent here
//	/metrics  Prometheus
//
// It logs panics alone. Health answers 200 or 503, and each check's state with ?verbose.
func Observe(live, ready []Check, metrics prometheus.Gatherer, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /livez", health(live))
	mux.Handle("GET /readyz", health(ready))
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, "lanekeeper: /livez /readyz /metrics")
	})
	return rescued(log, mux.ServeHTTP)
}

// health answers in the form of Kubernetes' own endpoints: [+]name ok, [-]name: why not.
func health(checks []Check) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var report strings.Builder
		failed := 0
		for _, check := range checks {
			if err := check.Run(); err != nil {
				failed++
				fmt.Fprintf(&report, "[-]%s: %v\n", check.Name, err)
				continue
			}
			fmt.Fprintf(&report, "[+]%s ok\n", check.Name)
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		switch {
		case failed > 0:
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, report.String())
		case r.URL.Query().Has("verbose"):
			fmt.Fprint(w, report.String())
		default:
			fmt.Fprintln(w, "ok")
		}
	})
}
