package admin

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"runtime/debug"
)

// problem is an answer that is not what was asked for (RFC 9457).
type problem struct {
	status   int
	slug     string
	title    string
	detail   string
	problems []string  // what is wrong, one by one
	header   [2]string // a field that goes with it; none without a name
}

// Problem is the body of such an answer.
type Problem struct {
	Type   string `json:"type"` // urn:lanekeeper:problem:<slug>
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`

	Problems []string `json:"problems,omitempty"` // what is wrong, one by one
}

func badRequest(detail string) *problem {
	return &problem{status: http.StatusBadRequest, slug: "bad-request", title: "The request is not understood", detail: detail}
}

func notFound(detail string) *problem {
	return &problem{status: http.StatusNotFound, slug: "not-found", title: "There is no such thing", detail: detail}
}

// write never repeats anything of the request that could be a key: the answer
// may end in somebody's log.
func (p *problem) write(w http.ResponseWriter) {
	if p.header[0] != "" {
		w.Header().Set(p.header[0], p.header[1])
	}
	writeJSON(w, p.status, "application/problem+json", Problem{
		Type: "urn:lanekeeper:problem:" + p.slug, Title: p.title, Status: p.status, Detail: p.detail, Problems: p.problems,
	})
}

func writeJSON(w http.ResponseWriter, status int, contentType string, body any) {
	writeHead(w, status, contentType)
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	out.Encode(body) //nolint:errcheck // nobody is left to hear of it
}

func writeHead(w http.ResponseWriter, status int, contentType string) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	w.WriteHeader(status)
}

// rescued keeps a panic from costing more than its request.
func rescued(log *slog.Logger, handle http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			cause := recover()
			if cause == nil {
				return
			}
			log.Error("panic in a request to an operators' port", "panic", cause, "stack", string(debug.Stack()))
			(&problem{
				status: http.StatusInternalServerError, slug: "internal-error", title: "The node has failed at this",
				detail: "the cause is in the log",
			}).write(w) // if nothing was written yet
		}()
		handle(w, r)
	})
}
