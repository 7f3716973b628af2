package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
)

// guard decides who may use the admin API at all. A port on loopback is not
// private: every web page that is open on the machine can send requests there.
// Without the list of hosts, a page whose name is made to point to 127.0.0.1
// after it has loaded could read the answers; without the check of origins, any
// page could send a drain whose answer it cannot read.
type guard struct {
	hosts  map[string]bool
	tokens [][sha256.Size]byte
	origin *http.CrossOriginProtection
	log    *slog.Logger
}

func newGuard(config Config, log *slog.Logger) *guard {
	g := &guard{hosts: make(map[string]bool), origin: http.NewCrossOriginProtection(), log: log}
	for _, host := range config.AllowedHosts {
		g.hosts[bareHost(host)] = true
	}
	for _, token := range config.Tokens {
		g.tokens = append(g.tokens, sha256.Sum256([]byte(token)))
	}
	return g
}

// refuse returns why the request may not be answered, or nil. secret is false for what everybody
// who reaches the port may have: the page that then asks for a token.
func (g *guard) refuse(r *http.Request, secret bool) *problem {
	switch {
	case !g.hosts[hostOf(r.Host)]:
		g.note(r, "host not allowed")
		return &problem{
			status: http.StatusMisdirectedRequest, slug: "host-not-allowed", title: "The node is not known by this host name",
			detail: fmt.Sprintf("Host %.100q is not among admin.allowed_hosts; add the name if it is one of this node's", r.Host),
		}
	case g.origin.Check(r) != nil:
		g.note(r, "cross-origin")
		return &problem{
			status: http.StatusForbidden, slug: "cross-origin", title: "The request was sent by a page of another site",
			detail: "changes are taken from this API's own origin and from programs that are no browsers",
		}
	case secret && !g.knows(r.Header["Authorization"]):
		g.note(r, "no valid token")
		return &problem{
			status: http.StatusUnauthorized, slug: "unauthorized", title: "A token is asked for",
			detail: "send Authorization: Bearer with a token of admin.token_file",
			header: [2]string{"WWW-Authenticate", `Bearer realm="lanekeeper"`},
		}
	}
	return nil
}

// note logs a refusal, without the target, which may hold a key.
func (g *guard) note(r *http.Request, why string) {
	g.log.Warn("admin request refused", "why", why, "remote", r.RemoteAddr)
}

// knows reports whether one token is given and is one of ours. It takes the same
// time for each wrong one.
func (g *guard) knows(fields []string) bool {
	if len(g.tokens) == 0 {
		return true
	}
	if len(fields) != 1 {
		return false
	}
	scheme, token, _ := strings.Cut(fields[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return false
	}
	given, found := sha256.Sum256([]byte(strings.TrimSpace(token))), 0
	for i := range g.tokens {
		found |= subtle.ConstantTimeCompare(given[:], g.tokens[i][:])
	}
	return found == 1
}

// hostOf is the host of a Host field, without its port.
func hostOf(field string) string {
	if host, _, err := net.SplitHostPort(field); err == nil {
		return bareHost(host)
	}
	return bareHost(field)
}

// bareHost is a host in lower case, without brackets and the dot that ends a
// complete name.
func bareHost(host string) string {
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}
