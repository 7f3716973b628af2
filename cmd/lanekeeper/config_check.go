package main

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// checker judges what relates settings to each other, and texts with a
// grammar of their own. What a field alone can tell was checked before.
type checker struct {
	cfg       *Config
	report    *Report
	partial   bool                 // no routes and no upstreams are fine
	inherited map[laneProblem]bool // of defaults.lane, and so of every route

	checkedStores map[string]bool // of records
}

func (c *checker) check() {
	c.checkedStores = make(map[string]bool)
	c.checkListeners()
	c.checkAdmin()
	c.checkCluster()
	c.checkCoordinator()
	c.checkTLS("server.tls", c.cfg.Server.TLS)
	c.checkTrusted()
	c.checkUpstreams()
	c.checkBodies()
	c.checkJournal()
	c.checkSession()
	c.checkDefaults()
	c.checkRoutes()
	c.checkStrict()
	if c.partial {
		return
	}
	if len(c.cfg.Upstreams) == 0 {
		c.errorf("upstreams", "required: at least one")
	}
	if len(c.cfg.Routes) == 0 {
		c.errorf("routes", "required: at least one")
	}
	c.checkUse()
}

// errorf reports an error at path, unless what is there was refused before:
// then this is only its consequence.
func (c *checker) errorf(path, format string, args ...any) {
	if !c.report.blames(path) {
		c.report.add(c.report.locate(path), SeverityError, path, format, args...)
	}
}

func (c *checker) warnf(path, format string, args ...any) {
	if !c.report.blames(path) {
		c.report.add(c.report.locate(path), SeverityWarning, path, format, args...)
	}
}

func (c *checker) checkListeners() {
	listeners := c.cfg.listeners()
	for i, l := range listeners {
		if err := checkAddress(l.address); err != nil {
			c.errorf(l.path, "%v", err)
		}
		for _, earlier := range listeners[:i] {
			if overlaps(earlier.address, l.address) {
				c.errorf(l.path, "%s is taken by %s (%s)", l.address, earlier.path, earlier.address)
				break
			}
		}
	}
}

// A listener is a port that a node opens, and the setting that says so.
type listener struct{ path, address string }

func (c *Config) listeners() []listener {
	all := []listener{
		{"server.listen", c.Server.Listen},
		{"observe.listen", c.Observe.Listen},
		{"admin.listen", c.Admin.Listen},
	}
	if c.Cluster.Enabled {
		all = append(all, c.Cluster.listeners()...)
	}
	return all
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?$`)

func checkAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%q is not an address: write host:port or :port", address)
	}
	if host != "" && !isHost(host) {
		return fmt.Errorf("%q is neither a host name nor an IP address", host)
	}
	return checkPort(port, 0)
}

func isHost(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil || hostName.MatchString(host)
}

func checkPort(port string, least int) error {
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || int(n) < least {
		return fmt.Errorf("%q is not a port: a number from %d to 65535", port, least)
	}
	return nil
}

// overlaps says whether two listeners cannot both be open. Port 0 is a new
// port each time.
func overlaps(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil || portA != portB || portA == "0" {
		return false
	}
	return everyAddress(hostA) || everyAddress(hostB) || strings.EqualFold(hostA, hostB)
}

func everyAddress(host string) bool {
	address, err := netip.ParseAddr(host)
	return host == "" || err == nil && address.IsUnspecified()
}

// checkTLS wants a certificate and its key, or neither.
func (c *checker) checkTLS(path string, tls TLSConfig) {
	given := tls.CertFile
	if given == "" {
		given = tls.KeyFile + tls.ClientCAFile
	}
	for name, file := range map[string]string{"cert_file": tls.CertFile, "key_file": tls.KeyFile} {
		if given != "" && file == "" {
			c.errorf(path+"."+name, "required, since another file of %s is given: TLS wants a certificate and its private key", path)
		}
	}
}

func (c *checker) checkTrusted() {
	if c.cfg.Server.ProxyProtocol != "none" && len(c.cfg.Server.TrustedProxies) == 0 {
		c.errorf("server.trusted_proxies", "required, since server.proxy_protocol is %s: it is believed from nobody else", c.cfg.Server.ProxyProtocol)
	}
	for i, text := range c.cfg.Server.TrustedProxies {
		path := fmt.Sprintf("server.trusted_proxies[%d]", i)
		prefix, err := netip.ParsePrefix(text)
		switch address, bare := netip.ParseAddr(text); {
		case bare == nil && address.Zone() == "":
			c.errorf(path, "%s has no prefix length: write %s/%d", text, text, address.BitLen())
		case err != nil:
			c.errorf(path, "%q is not a CIDR like 10.0.0.0/8", text)
		case prefix != prefix.Masked():
			c.errorf(path, "%s has bits beyond its prefix length: write %s", text, prefix.Masked())
		}
	}
}

// checkUse warns of upstreams that no route names; not if a route is wrong, as
// that may be the reason.
func (c *checker) checkUse() {
	for i, u := range c.cfg.Upstreams {
		used := slices.ContainsFunc(c.cfg.Routes, func(r RouteConfig) bool { return r.Upstream == u.Name })
		if !used && !c.report.blames("routes") {
			c.warnf(fmt.Sprintf("upstreams[%d]", i), "no route uses the upstream %s", u.Name)
		}
	}
}

// checkName requires a name that no element before has; first remembers where
// each was.
func (c *checker) checkName(first map[string]string, path, name string) {
	switch earlier, twice := first[name]; {
	case name == "":
		c.errorf(path+".name", "required")
	case twice:
		c.errorf(path+".name", "%s is the name of %s already", name, earlier)
	default:
		first[name] = path
	}
}

// checkBodies warns of bounds that one allowed body alone exceeds.
func (c *checker) checkBodies() {
	if body := c.cfg.Server.MaxBody; c.cfg.Limits.MaxQueuedBytes < body {
		c.warnf("limits.max_queued_bytes", "%s is less than server.max_body (%s): such a body is always refused", c.cfg.Limits.MaxQueuedBytes, body)
	}
}

func (c *checker) checkJournal() {
	j := c.cfg.Journal
	if j.File == "" {
		c.errorf("journal.file", "write none, stdout, or the path of a file")
	}
	if j.MaxSize%MiB != 0 {
		c.errorf("journal.max_size", "%s is not a whole number of MiB", j.MaxSize)
	}
}
