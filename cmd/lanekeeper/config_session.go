package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"lanekeeper/proxy"
)

var sameSiteWords = map[string]string{"lax": "Lax", "strict": "Strict", "none": "None"}

// proxySessions is how sessions are issued, but for the secrets, which are in a file.
func (s SessionConfig) proxySessions() *proxy.Sessions {
	return &proxy.Sessions{MaxAge: time.Duration(s.MaxAge), Path: s.Path, Secure: s.Secure, SameSite: sameSiteWords[s.SameSite]}
}

// issued are the cookies that a key's sources issue.
func (k KeyConfig) issued() (cookies []string) {
	for _, source := range k.From {
		for _, place := range append([]PlaceConfig{source.PlaceConfig}, source.All...) {
			if place.Issue {
				cookies = append(cookies, place.Cookie)
			}
		}
	}
	return cookies
}

// issues reports whether any route gives sessions to clients.
func (c *Config) issues() bool {
	return slices.ContainsFunc(c.Routes, func(r RouteConfig) bool { return len(r.Key.issued()) > 0 })
}

// choosesByKey reports whether the key of a route chooses the target of requests outside
// lanes: only an issued one is looked for there.
func (c *checker) choosesByKey(r RouteConfig) bool {
	byKey := slices.ContainsFunc(c.cfg.Upstreams, func(u UpstreamConfig) bool { return u.Name == r.Upstream && u.Balance == "key_hash" })
	return byKey && len(r.Key.issued()) > 0
}

// sessionLength is of a session's id, in a key.
const sessionLength = 22

// checkIssuing judges the sources of a key that issue sessions; path is the key's.
func (c *checker) checkIssuing(path string, r RouteConfig) {
	issued := r.Key.issued()
	if len(issued) == 0 {
		return
	}
	if len(issued) > 1 {
		c.errorf(path+".from", "%s are issued: a route issues one session", strings.Join(issued, " and "))
	}
	if r.Key.MaxLength < sessionLength {
		c.errorf(path+".max_length", "%d is less than a session's id has (%d): every request would be refused", r.Key.MaxLength, sessionLength)
	}
	for i, source := range r.Key.From[:len(r.Key.From)-1] {
		if source.Issue {
			c.warnf(fmt.Sprintf("%s.from[%d]", path, i+1), "never used: a session is issued before")
			break
		}
	}
	for _, cookie := range issued {
		s := c.cfg.Session
		switch {
		case strings.HasPrefix(cookie, "__Host-") && (s.Path != "/" || !s.Secure), strings.HasPrefix(cookie, "__Secure-") && !s.Secure:
			c.errorf(path+".from", "browsers refuse %s: a name that begins so needs session.secure, and __Host- the path /", cookie)
		}
	}
}

func (c *checker) checkSession() {
	s := c.cfg.Session
	if s.SecretFile == "" && c.cfg.issues() {
		c.errorf("session.secret_file", "required, since a key source says issue: true; make one with %s", makeSecret)
	}
	if s.SameSite == "none" && !s.Secure {
		c.errorf("session.same_site", "none, but session.secure is false: browsers refuse such a cookie")
	}
	if !strings.HasPrefix(s.Path, "/") || strings.ContainsFunc(s.Path, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == ';' || r == ',' }) {
		c.errorf("session.path", "%q is not a path: it begins with / and has no blanks, commas and semicolons", s.Path)
	}
}
