package upstream

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"
)

// Address is where a target is.
type Address struct {
	Host    string // host:port, as a request names it
	Network string // tcp or unix
	Dial    string // host:port, or the socket's path
	Lookup  bool   // it is every address behind Host
	Secure  bool   // TLS
}

// ParseTarget reads a target.
func ParseTarget(text string) (Address, error) {
	rest, lookup := strings.CutPrefix(text, "dns+")
	at, err := url.Parse(rest)
	if err != nil {
		return Address{}, notTarget(text)
	}
	if at.Scheme == "unix" && !lookup {
		if at.Host != "" || !strings.HasPrefix(at.Path, "/") || "unix://"+at.Path != text {
			return Address{}, fmt.Errorf("%q is not a socket: write unix:///path, with three slashes", text)
		}
		return Address{Host: "localhost", Network: "unix", Dial: at.Path}, nil
	}
	port, ok := map[string]string{"http": "80", "https": "443"}[at.Scheme]
	if !ok || at.Hostname() == "" {
		return Address{}, notTarget(text)
	}
	if whole := (&url.URL{Scheme: at.Scheme, Host: at.Host}).String(); whole != rest {
		return Address{}, fmt.Errorf("%s: a target is a host and a port: write %s", text, strings.TrimSuffix(text, rest)+whole)
	}
	if strings.HasSuffix(at.Host, ":") {
		return Address{}, errors.New(text + " has no port behind its colon")
	}
	host := net.JoinHostPort(at.Hostname(), cmp.Or(at.Port(), port))
	return Address{Host: host, Network: "tcp", Dial: host, Lookup: lookup, Secure: at.Scheme == "https"}, nil
}

func notTarget(text string) error {
	return fmt.Errorf("%q is not a target: write http://host:port", text)
}

// scheme is how a target's URL begins.
func (a *Address) scheme() string {
	if a.Secure {
		return "https://"
	}
	return "http://"
}

// dial opens a connection to t.
func (u *Upstream) dial(ctx context.Context, t *Target, timeout time.Duration) (Conn, error) {
	by := time.Now().Add(timeout)
	conn, err := u.open(ctx, t, by)
	if err != nil {
		return nil, err
	}
	var secure *tls.Config
	if t.address.Secure {
		host, _, _ := net.SplitHostPort(t.Host)
		secure = u.material.config(cmp.Or(u.TLS.ServerName, host))
	}
	wrapped, err := u.wrap(conn, secure, by)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return wrapped, nil
}

func (u *Upstream) open(ctx context.Context, t *Target, by time.Time) (net.Conn, error) {
	if u.Dial != nil {
		return u.Dial(t.address.Dial)
	}
	dialer := net.Dialer{Deadline: by}
	return dialer.DialContext(ctx, t.address.Network, t.address.Dial)
}
