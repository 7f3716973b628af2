package admin

import (
	"net/http"
	"net/url"
	"time"
)

// Configuration is what a node runs by.
type Configuration struct {
	Node     string    `json:"node"`
	Config   string    `json:"config"` // hash
	Settings []Setting `json:"settings"`
}

// Setting is one value. Secrets are in files, of which the names are shown.
type Setting struct {
	Path   string `json:"path"`
	Value  string `json:"value"`
	Origin string `json:"origin"` // default, the place in the file, or what overrides that
}

// LogLevel is how much a node logs.
type LogLevel struct {
	Node       string     `json:"node"`
	Level      string     `json:"level"`      // debug, info, warn, error
	Configured string     `json:"configured"` // log.level
	Until      *time.Time `json:"until"`      // then the configured one is back; null: it stays until the next reload or change
}

func (a *api) config(*http.Request, url.Values) (int, any, *problem) {
	c := a.cluster.Configuration()
	c.Settings = list(c.Settings)
	return http.StatusOK, c, nil
}

// levelMost is the longest time that a level is set for.
const levelMost = 7 * 24 * time.Hour

func (a *api) logLevel(r *http.Request, query url.Values) (int, any, *problem) {
	level := query.Get("level")
	switch level {
	case "debug", "info", "warn", "error", "":
	default:
		return 0, nil, badRequest("level is debug, info, warn or error; without one it is log.level again")
	}
	var lasts time.Duration
	if query.Has("for") {
		var err error
		if lasts, err = time.ParseDuration(query.Get("for")); err != nil || lasts <= 0 || lasts > levelMost || level == "" {
			return 0, nil, badRequest("for is a duration such as 10m, at most 168h, and goes with a level")
		}
	}
	set := a.cluster.SetLogLevel(level, lasts)
	a.log.Info("admin: loglevel", "level", set.Level, "configured", set.Configured, "for", lasts.String(), "remote", r.RemoteAddr)
	return http.StatusOK, set, nil
}
