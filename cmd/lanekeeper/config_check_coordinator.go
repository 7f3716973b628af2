package main

import (
	"fmt"
	"math"
	"net"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
)

func (c *checker) checkCoordinator() {
	coordinator := &c.cfg.Coordinator
	if c.report.blames("coordinator.type") {
		return
	}
	defaults := Default()
	untouched := defaults.Coordinator.stores()
	for i, s := range coordinator.stores() {
		switch {
		case s.kind == coordinator.Type:
			c.checkStore(s, "coordinator.type is "+s.kind)
			c.checkLease(s.kind)
			c.checkPrefix(s.kind)
		case !reflect.DeepEqual(s, untouched[i]):
			c.warnf(s.path(), "never used: coordinator.type is %s", coordinator.Type)
		}
	}
}

// checkStore judges where a store is, and how a node proves itself to it. What
// is in the files that are named is looked at by who opens the store. The reason is
// why there must be one.
func (c *checker) checkStore(s storeSection, reason string) {
	what, instead := "locks", "etcd or zookeeper"
	if s.within == "stores" {
		what, instead = "records", "postgres"
	}
	switch n := len(s.addresses); {
	case n == 0:
		c.errorf(s.listPath(), "required, since %s: %s", reason, s.example())
	case s.kind == "redis" && n > 1:
		c.errorf(s.listPath(), "%d addresses, and %s are kept on one master: give its address alone. Replicas are no use here; a store that outlives a machine is %s", n, what, instead)
	case s.kind == "redlock" && (n < 3 || n%2 == 0):
		c.errorf(s.listPath(), "%d addresses: locks are kept on the majority of an odd number of masters, at least 3", n)
	}
	for i, address := range s.addresses {
		at := fmt.Sprintf("%s[%d]", s.listPath(), i)
		if err := s.checkAddress(address); err != nil {
			c.errorf(at, "%v", err)
		} else if slices.Contains(s.addresses[:i], address) {
			c.errorf(at, "%s is given twice", address)
		}
	}
	if s.kind == "etcd" && !c.report.blames(s.listPath()) {
		c.checkSchemes(s)
	}
	c.checkAccess(s)
}

// example is how the addresses of a store are written.
func (s storeSection) example() string {
	return map[string]string{
		"etcd":      "its members, like https://etcd-0:2379",
		"zookeeper": "its servers, like zk-0:2181",
		"redis":     "the master, like redis:6379",
		"redlock":   "an odd number of masters, at least 3, like redis-0:6379",
	}[s.kind]
}

func (s storeSection) checkAddress(text string) error {
	address := text
	if scheme, rest, found := strings.Cut(text, "://"); s.kind == "etcd" && found {
		if scheme != "https" && scheme != "http" {
			return fmt.Errorf("%s is not http or https: write %s", scheme, endpointForms)
		}
		u, err := url.Parse(text)
		if err != nil || u.Host != rest {
			return fmt.Errorf("%q is more than a host and a port: write %s", withoutUser(text), endpointForms)
		}
		address = rest
	}
	host, port, err := net.SplitHostPort(address)
	switch {
	case s.kind == "etcd" && (err != nil || !isHost(host) || everyAddress(host)):
		return fmt.Errorf("%q is not a member of an etcd cluster: write %s", withoutUser(text), endpointForms)
	case err != nil, !isHost(host), everyAddress(host):
		return fmt.Errorf("%q is not the address of a server: write host:port", withoutUser(text))
	}
	return checkPort(port, 1)
}

const endpointForms = "https://host:port, http://host:port or host:port"

// withoutUser keeps a password that somebody put into an address out of what is
// printed.
func withoutUser(address string) string {
	if i := strings.LastIndex(address, "@"); i >= 0 {
		return "…" + address[i:]
	}
	return address
}

// checkSchemes asks for one scheme: the client of etcd takes that of the first
// endpoint for all of them, and without https drops what is given of TLS.
func (c *checker) checkSchemes(s storeSection) {
	for i, endpoint := range s.addresses {
		if scheme, first := schemeOf(endpoint), schemeOf(s.addresses[0]); scheme != first {
			c.errorf(fmt.Sprintf("%s[%d]", s.listPath(), i), "%s, but %s: all endpoints are with TLS, or none", endpoint, s.addresses[0])
			return
		}
	}
	if len(s.addresses) > 0 && schemeOf(s.addresses[0]) == "http" && s.access.TLS != (StoreTLSConfig{}) {
		c.errorf(s.listPath()+"[0]", "%s is without TLS, and coordinator.etcd.tls is given: write https://, or leave tls out", s.addresses[0])
	}
}

// schemeOf is empty for a host and a port.
func schemeOf(endpoint string) string {
	scheme, _, found := strings.Cut(endpoint, "://")
	if !found {
		return ""
	}
	return scheme
}

func (c *checker) checkAccess(s storeSection) {
	path, access := s.path(), s.access
	// Redis has a user for those who give none, and users without password. The
	// clients of the others leave out both if one is missing.
	if s.kind == "etcd" || s.kind == "zookeeper" {
		switch {
		case access.Username != "" && access.PasswordFile == "":
			c.errorf(path+".password_file", "required, since username is %s: %s takes both or neither", access.Username, s.kind)
		case access.Username == "" && access.PasswordFile != "":
			c.errorf(path+".username", "required, since there is a password_file: %s takes both or neither", s.kind)
		}
	}
	if strings.Contains(access.Username, ":") && s.kind == "zookeeper" {
		c.errorf(path+".username", "%q has a colon, behind which zookeeper expects the password", access.Username)
	}
	tls := access.TLS
	switch {
	case tls.CertFile != "" && tls.KeyFile == "":
		c.errorf(path+".tls.key_file", "required, since cert_file is given: a certificate is of use with its private key alone")
	case tls.CertFile == "" && tls.KeyFile != "":
		c.errorf(path+".tls.cert_file", "required, since key_file is given: a private key is of use with its certificate alone")
	}
	if tls.ServerName != "" && !isHost(tls.ServerName) {
		c.errorf(path+".tls.server_name", "%q is not a host name: write it without port and wildcards", tls.ServerName)
	}
}

// checkLease compares the length of leases with what the store can count, and
// the margin with it.
func (c *checker) checkLease(kind string) {
	ttl, margin := time.Duration(c.cfg.Coordinator.LeaseTTL), time.Duration(c.cfg.Coordinator.SafetyMargin)
	written := c.cfg.Coordinator.LeaseTTL
	switch {
	case kind == "etcd" && (ttl < 2*time.Second || ttl%time.Second != 0):
		c.errorf("coordinator.lease_ttl", "%s is not of whole seconds, at least 2s, as etcd counts", written)
	case kind == "zookeeper" && ttl < 500*time.Millisecond:
		c.errorf("coordinator.lease_ttl", "%s is too short for zookeeper: at least 500ms", written)
	case kind == "zookeeper" && ttl > math.MaxInt32*time.Millisecond:
		c.errorf("coordinator.lease_ttl", "%s is longer than zookeeper can count: at most %s", written, Duration(math.MaxInt32*time.Millisecond))
	}
	part, most := "half", ttl/2
	if kind == "zookeeper" {
		part, most = "a third", ttl/3
	}
	if margin >= most && !c.report.blames("coordinator.lease_ttl") {
		c.errorf("coordinator.safety_margin", "%s is not less than %s of lease_ttl (%s), so a node with %s would hardly ever hold a lease: lower it, or raise lease_ttl",
			c.cfg.Coordinator.SafetyMargin, part, written, kind)
	}
}

var zookeeperPath = regexp.MustCompile(`^(/[A-Za-z0-9_-]+)+$`)

// checkPrefix asks for a prefix that the store can have.
func (c *checker) checkPrefix(kind string) {
	const path = "coordinator.key_prefix"
	switch prefix := c.cfg.Coordinator.KeyPrefix; {
	case prefix == "":
		c.errorf(path, "required: what this cluster keeps in %s must be told from what others keep there", kind)
	case kind == "zookeeper" && !zookeeperPath.MatchString(prefix):
		c.errorf(path, "%q is not a path in zookeeper: write one of letters, digits, - and _, like /lanekeeper/prod", prefix)
	case kind == "zookeeper" && (prefix == "/zookeeper" || strings.HasPrefix(prefix, "/zookeeper/")):
		c.errorf(path, "%s is zookeeper's own: write another path, like /lanekeeper/prod", prefix)
	case (kind == "redis" || kind == "redlock") && strings.ContainsAny(prefix, "{}"):
		c.errorf(path, "%q has a brace, by which redis says which keys belong together: leave it out", prefix)
	}
}

// isStrict says whether requests of the route wait for their turn, and go to the
// service under a lease alone; reads that are shared do so as well.
func (r RouteConfig) isStrict() bool {
	return r.Lane.Guarantee == "strict" && r.Lane.Mode == "enforce" && r.queues()
}

// queues says whether any request of the route does not bypass its lane.
func (r RouteConfig) queues() bool {
	if len(r.Match.Methods) == 0 {
		return r.Lane.queues()
	}
	return slices.ContainsFunc(r.Match.Methods, func(m string) bool { return r.Lane.class(m) != "bypass" })
}

// checkStrict asks for a coordinator that can carry the routes that are strict.
func (c *checker) checkStrict() {
	store, ok := c.cfg.Coordinator.store()
	if c.report.blames("coordinator.type") {
		return
	}
	warned := make(map[string]bool) // routes that start from one default need one warning
	for i, r := range c.cfg.Routes {
		switch {
		case !r.isStrict():
		case !ok:
			c.errorf(c.lanePath(i, "guarantee"), "strict rests on a coordinator, and coordinator.type is none: name a store there (etcd, zookeeper, redis), or write best_effort")
		case !store.fences():
			c.errorf("coordinator.type", "%s has no fencing token; routes[%d] (%s) is strict", store.kind, i, r.Name)
		case !c.cfg.Cluster.Enabled:
			c.errorf(c.lanePath(i, "guarantee"), "strict needs cluster.enabled: true, of which this node may be the only member; or write best_effort")
		default:
			c.checkStrictTimeout(i, warned)
		}
	}
	if ok && !store.fences() && !c.cfg.spillsUnderLocks() && !c.report.blames("coordinator.type") {
		c.warnf("coordinator.type", "%s is used for nothing: it has no fencing token, so no route can be strict with it, and no route has lane.hot with action: spill and backend: coordinator", store.kind)
	}
	c.checkSpillLocks()
}

// checkSpillLocks asks for a store for the locks of spilled keys.
func (c *checker) checkSpillLocks() {
	_, ok := c.cfg.Coordinator.store()
	for i, r := range c.cfg.Routes {
		switch {
		case !r.Lane.Hot.underLocks():
		case !ok:
			c.errorf(c.lanePath(i, "hot.backend"), "coordinator, and coordinator.type is none: name a store there (etcd, zookeeper, redis, redlock), or write owner")
		case !c.cfg.Cluster.Enabled:
			c.errorf(c.lanePath(i, "hot.backend"), "coordinator needs cluster.enabled: true: nodes that share no keys have nothing to lock; or write owner")
		}
	}
}

// checkStrictTimeout warns if a strict route promises its service more time than
// a lease has.
func (c *checker) checkStrictTimeout(i int, warned map[string]bool) {
	coordinator, path := &c.cfg.Coordinator, c.lanePath(i, "upstream_timeout")
	timeout, most := c.cfg.Routes[i].Lane.UpstreamTimeout, Duration(coordinator.validFor())
	if timeout <= most || warned[path] || c.report.blames("coordinator.lease_ttl") || c.report.blames("coordinator.safety_margin") {
		return
	}
	warned[path] = true
	c.warnf(path, "%s, but a strict request is told a Lanekeeper-Deadline within its node's lease, so %s from its start at most (coordinator.lease_ttl is %s, safety_margin %s): lower the timeout, or raise lease_ttl",
		timeout, most, coordinator.LeaseTTL, coordinator.SafetyMargin)
}

// lanePath is where a setting of route i's lane is given: at the route, or in the
// defaults.
func (c *checker) lanePath(i int, setting string) string {
	path := fmt.Sprintf("routes[%d].lane.%s", i, setting)
	if _, given := c.report.places[path]; given {
		return path
	}
	return "defaults.lane." + setting
}
