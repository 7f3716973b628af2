package admin

import (
	"encoding/json"
	"net/http"
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
