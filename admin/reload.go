package admin

import (
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Reload is the last time that a node was told to read its configuration again.
type Reload struct {
	Time       time.Time `json:"time"`
	Successful bool      `json:"successful"`
	Failure    string    `json:"failure"` // why it was refused; empty: it was not
}

// Reloaded is what a reload has led to.
type Reloaded struct {
	Node     string   `json:"node"`
	Config   string   `json:"config"`   // hash of what is in force
	Before   string   `json:"before"`   // that of what was
	Changed  []string `json:"changed"`  // settings, each a line; none: nothing has changed
	Warnings []string `json:"warnings"` // about what is in force

	// Unordered are the spaces whose lanes were in use, and whose requests find their lanes
	// by other rules from now on: for them no order is promised across the change. Only by
	// force.
	Unordered []SpaceUse `json:"unordered"`
}

// SpaceUse is what the lanes of a space hold at a node.
type SpaceUse struct {
	Space    string `json:"space"`
	Lanes    int    `json:"lanes"`
	Requests int    `json:"requests"` // that wait or run
	Halted   int    `json:"halted"`   // lanes
}

// Why a reload is refused. The configuration stays as it was.
const (
	ConfigInvalid = "config-invalid" // each problem is a line: file:line:column: error: …
	RestartNeeded = "restart-needed" // each problem is a place and a setting
	LanesInUse    = "lanes-in-use"   // each problem is a space; a reload by force is not refused for this
)

// ReloadError is a refusal.
type ReloadError struct {
	Slug     string // one of the above, or refused
	Detail   string
	Problems []string
}

func (e *ReloadError) Error() string {
	if len(e.Problems) == 0 {
		return e.Detail
	}
	return e.Detail + ": " + strings.Join(e.Problems, "; ")
}

// problem is the answer.
func (e *ReloadError) problem() *problem {
	p := &problem{status: http.StatusConflict, slug: e.Slug, title: "The configuration is not reloaded", detail: e.Detail, problems: e.Problems}
	if e.Slug == ConfigInvalid {
		p.status = http.StatusUnprocessableEntity
	}
	return p
}

func (a *api) reload(r *http.Request, query url.Values) (int, any, *problem) {
	force, wrong := truth(query, "force")
	if wrong != nil {
		return 0, nil, wrong
	}
	reloaded, err := a.cluster.Reload(force, "admin "+r.RemoteAddr)
	if err != nil {
		return 0, nil, err.problem()
	}
	reloaded.Changed, reloaded.Warnings, reloaded.Unordered = list(reloaded.Changed), list(reloaded.Warnings), list(reloaded.Unordered)
	return http.StatusOK, reloaded, nil
}
