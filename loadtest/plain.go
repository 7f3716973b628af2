package loadtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

// PlainConfig describes a Plain.
type PlainConfig struct {
	Targets     []string      // http://host:port
	Timeout     time.Duration // for a target's whole answer, then 504; 0 = 30 s
	MaxConns    int           // per target; 0 = 1024
	IdleTimeout time.Duration // of a connection to a target; 0 = 10 s

	// Dial opens a connection to a target's host:port; nil means TCP.
	Dial func(address string) (net.Conn, error)
}

// Plain is an ordinary round-robin reverse proxy, as small as an honest one can
// be: pooled connections, hop-by-hop headers removed, one attempt. It keeps no
// order and knows no keys. It is the other side of every comparison: in the
// demo what happens without lanekeeper, in benchmarks the least a proxy on
// fasthttp costs.
type Plain struct {
	host    host
	targets []*fasthttp.HostClient
	next    atomic.Uint32
}

// NewPlain makes a proxy in front of config.Targets.
func NewPlain(config PlainConfig) (*Plain, error) {
	if len(config.Targets) == 0 {
		return nil, errors.New("a plain proxy needs a target")
	}
	if config.Timeout <= 0 {
		config.Timeout = 30 * time.Second
	}
	if config.MaxConns <= 0 {
		config.MaxConns = 1024
	}
	if config.IdleTimeout <= 0 {
		config.IdleTimeout = 10 * time.Second
	}
	if config.Dial == nil {
		config.Dial = func(address string) (net.Conn, error) {
			return net.DialTimeout("tcp", address, 3*time.Second)
		}
	}
	p := &Plain{}
	for _, target := range config.Targets {
		address, err := targetAddress(target)
		if err != nil {
			return nil, err
		}
		p.targets = append(p.targets, &fasthttp.HostClient{
			Addr:                      address,
			Dial:                      config.Dial,
			MaxIdemponentCallAttempts: 1, // a proxy that repeats requests would be another experiment
			ConnPoolStrategy:          fasthttp.LIFO,
			MaxConns:                  config.MaxConns,
			MaxConnWaitTimeout:        config.Timeout,
			MaxIdleConnDuration:       config.IdleTimeout,
			ReadTimeout:               config.Timeout,
			ReadBufferSize:            16 << 10,
			MaxResponseBodySize:       64 << 20,
			NoDefaultUserAgentHeader:  true,
			DisablePathNormalizing:    true,
		})
	}
	p.host.init(p.serve)
	return p, nil
}

// targetAddress is the host:port of an http URL.
func targetAddress(target string) (string, error) {
	u, err := url.Parse(target)
	if err != nil {
		return "", err
	}
	if u.Scheme != "http" || u.Host == "" {
		return "", fmt.Errorf("target %q is not http://host:port", target)
	}
	if u.Port() == "" {
		return net.JoinHostPort(u.Hostname(), "80"), nil
	}
	return u.Host, nil
}

// Start serves ln, which the proxy owns from now on, also if Start fails. It
// can be started once.
func (p *Plain) Start(ln net.Listener) error { return p.host.start(ln) }

// Stop lets running requests be answered and returns when the last client
// connection is closed; when ctx ends first they are cut and it returns ctx's
// cause. fasthttp keeps one sleeping goroutine per used target for up to
// IdleTimeout. It may be called twice, or before Start.
func (p *Plain) Stop(ctx context.Context) error {
	err := p.host.stop(ctx)
	for _, target := range p.targets {
		target.CloseIdleConnections()
	}
	return err
}

func (p *Plain) serve(ctx *fasthttp.RequestCtx) {
	target := p.targets[int(p.next.Add(1)-1)%len(p.targets)]

	request, response := &ctx.Request, &ctx.Response
	removeHopHeaders(&request.Header)
	request.UseHostHeader = true // the client's Host, as most load balancers are set up
	forwardedFor := ctx.RemoteIP().String()
	if prior := request.Header.Peek(fasthttp.HeaderXForwardedFor); len(prior) > 0 {
		forwardedFor = string(prior) + ", " + forwardedFor
	}
	request.Header.Set(fasthttp.HeaderXForwardedFor, forwardedFor)

	if err := target.Do(request, response); err != nil {
		status := fasthttp.StatusBadGateway
		if errors.Is(err, fasthttp.ErrTimeout) {
			status = fasthttp.StatusGatewayTimeout
		}
		response.Reset()
		ctx.Error(err.Error(), status)
		return
	}
	removeHopHeaders(&response.Header)
}

// hopHeader is what fasthttp's two header types have in common here.
type hopHeader interface {
	Peek(string) []byte
	Del(string)
	ConnectionClose() bool
	ResetConnectionClose()
}

// removeHopHeaders removes what speaks of one connection only (RFC 9110
// §7.6.1). Framing is fasthttp's: it parsed the message and writes a new one.
func removeHopHeaders(h hopHeader) {
	if named := h.Peek(fasthttp.HeaderConnection); len(named) > 0 {
		for name := range strings.SplitSeq(string(named), ",") {
			if name = strings.TrimSpace(name); name != "" && !strings.EqualFold(name, "close") {
				h.Del(name)
			}
		}
		h.Del(fasthttp.HeaderConnection)
	}
	if h.ConnectionClose() {
		h.ResetConnectionClose()
	}
	for _, name := range [...]string{"Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Upgrade"} {
		h.Del(name)
	}
}
