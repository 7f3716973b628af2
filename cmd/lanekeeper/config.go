package main

import "time"

// Config is everything a person can set, in the shape of the YAML file. Each
// field carries, once, what is known of it without looking at other fields:
//
//	json     its name in the file
//	doc      its meaning: `config docs` and the schema print this text
//	enum     the words it may be
//	min, max the least and the most it may be
//	pattern  the expression a text must match as a whole
//	env      "-" if no environment variable sets it
//	reload   "restart" if it is read once, when the process starts; a section's
//	         is that of all in it
//
// What relates fields to each other is in config_check.go.
type Config struct {
	Version     int               `json:"version" doc:"format of this file; this build reads 1" min:"1" env:"-"`
	Node        NodeConfig        `json:"node" doc:"this node" reload:"restart"`
	Server      ServerConfig      `json:"server" doc:"the listener that clients talk to"`
	Observe     ObserveConfig     `json:"observe" doc:"the read-only listener: /livez /readyz /metrics" reload:"restart"`
	Admin       AdminConfig       `json:"admin" doc:"the listener of operators: what the cluster looks like, and draining" reload:"restart"`
	Cluster     ClusterConfig     `json:"cluster" doc:"the nodes that keep one order together" reload:"restart"`
	Coordinator CoordinatorConfig `json:"coordinator" doc:"the store that strict routes rest on" reload:"restart"`
	Stores      StoresConfig      `json:"stores" doc:"where what became of requests may be kept" reload:"restart"`
	Upstreams   []UpstreamConfig  `json:"upstreams" doc:"the services behind the node" jsonschema:"required"`
	Limits      LimitsConfig      `json:"limits" doc:"bounds of the whole node; beyond one: 503 overloaded"`
	Defaults    DefaultsConfig    `json:"defaults" doc:"what every route starts from; a route overrides single fields, lists are replaced whole"`
	Session     SessionConfig     `json:"session" doc:"the cookies that key sources with issue: true give to clients"`
	Routes      []RouteConfig     `json:"routes" doc:"which requests go where and what their key is; the first that matches wins" jsonschema:"required"`
	Shutdown    ShutdownConfig    `json:"shutdown" doc:"what happens between SIGTERM and the end"`
	Log         LogConfig         `json:"log" doc:"the log, on stderr"`
	Journal     JournalConfig     `json:"journal" doc:"requests whose outcome nobody can say, for whoever has to look after the data" reload:"restart"`
	Metrics     MetricsConfig     `json:"metrics" doc:"the Prometheus metrics" reload:"restart"`
	Tracing     TracingConfig     `json:"tracing" doc:"spans of requests, sent by OpenTelemetry" reload:"restart"`
}

// NodeConfig names this process.
type NodeConfig struct {
	Name string `json:"name" doc:"name of this node, its own in the cluster and the same after a restart, so that it keeps its keys; empty is the host name" pattern:"[A-Za-z0-9._-]{0,64}"`
	Zone string `json:"zone" doc:"where this node runs; shown among the members" pattern:"[A-Za-z0-9._-]{0,63}"`
}

// ServerConfig is the listener that clients talk to.
type ServerConfig struct {
	Listen                   string   `json:"listen" doc:"host:port; an empty host is every address" reload:"restart"`
	ProxyProtocol            string   `json:"proxy_protocol" doc:"whether trusted_proxies announce by the PROXY protocol, version 1 or 2, whom they speak for. optional: they may. required: they must, and a connection from anywhere else, or without the header, is cut off" enum:"none optional required" reload:"restart"`
	TrustedProxies           []string `json:"trusted_proxies" doc:"CIDRs whose Forwarded, X-Forwarded-* and Lanekeeper-* headers are believed"`
	Forwarded                string   `json:"forwarded" doc:"headers that tell the upstream who the client was" enum:"x-forwarded rfc7239 both none"`
	ViaNode                  bool     `json:"via_node" doc:"put the node name into Via"`
	ServerTiming             bool     `json:"server_timing" doc:"tell clients in Server-Timing how long a request waited in its lane and how long the upstream took, as browsers and lanekeeper bench show it"`
	ReadTimeout              Duration `json:"read_timeout" doc:"for a request's body; 0 = no limit"`
	IdleTimeout              Duration `json:"idle_timeout" doc:"between two requests of a connection; 0 = no limit" reload:"restart"`
	MaxBody                  Size     `json:"max_body" doc:"largest request body that is held; beyond: 413. Bypass routes stream instead"`
	MaxHeader                Size     `json:"max_header" doc:"largest head of a request; beyond: 431" min:"1KiB" reload:"restart"`
	HeaderTimeout            Duration `json:"header_timeout" doc:"for a request's head; 0 = no limit" reload:"restart"`
	MaxURI                   Size     `json:"max_uri" doc:"longest request target; beyond: 414; 0 = no limit but max_header"`
	MaxHeaders               int      `json:"max_headers" doc:"header lines of a request; beyond: 431; 0 = no limit but max_header" min:"0"`
	MaxConnections           int      `json:"max_connections" doc:"client connections; beyond: 503 and close; 0 = no limit" min:"0"`
	MaxConnectionsPerAddress int      `json:"max_connections_per_address" doc:"client connections of one address; beyond: 503 and close; 0 = no limit. Behind a proxy that is one address for all" min:"0" reload:"restart"`
	MaxRequestsPerConnection int      `json:"max_requests_per_connection" doc:"after which a connection is closed; 0 = no limit" min:"0" reload:"restart"`
	BypassIdleTimeout        Duration `json:"bypass_idle_timeout" doc:"without a byte either way on a bypass request; 0 = no limit"`
	TicketHeader             bool     `json:"ticket_header" doc:"put Lanekeeper-Ticket on responses, so that a client can name its request"`

	TLS TLSConfig `json:"tls" doc:"the listener speaks TLS if this is given: 1.2 or later, HTTP/1.1. The files are read again when they change" reload:"restart"`
}

// TLSConfig is what a listener shows of itself, and whom it believes.
type TLSConfig struct {
	CertFile     string `json:"cert_file" doc:"this node's certificate, and those between it and the authority, in PEM"`
	KeyFile      string `json:"key_file" doc:"its private key, in PEM"`
	ClientCAFile string `json:"client_ca_file" doc:"authorities in PEM: clients need a certificate that one of them has signed; empty: they need none"`
}

// ObserveConfig is the listener of probes and scrapers.
type ObserveConfig struct {
	Listen string `json:"listen" doc:"host:port; an empty host is every address"`
}

// AdminConfig is the listener of operators.
type AdminConfig struct {
	Listen       string   `json:"listen" doc:"host:port; on any address but loopback a token is required"`
	TokenFile    string   `json:"token_file" doc:"file with bearer tokens, one a line: clients send one, any is accepted; required unless listen is loopback"`
	AllowedHosts []string `json:"allowed_hosts" doc:"names and addresses, without port, by which requests may call this node, beside the IP address in listen; others are refused, lest a web page reach it by a name of its own"`
	UI           bool     `json:"ui" doc:"serve the dashboard under /ui/. Its files are for everybody who may reach the port; what it shows wants the token, for which it asks"`
	Pprof        bool     `json:"pprof" doc:"serve the profiles of Go's net/http/pprof under /debug/pprof/; wants token_file"`

	TLS TLSConfig `json:"tls" doc:"the listener speaks TLS if this is given, so that a token can cross a network. The files are read again when they change"`
}

// ClusterConfig is the nodes that keep one order together.
type ClusterConfig struct {
	Enabled        bool         `json:"enabled" doc:"be a member of a cluster; otherwise this node is alone, and nothing below counts"`
	Name           string       `json:"name" doc:"name of the cluster; the same on all nodes for ever, a node with another one cannot join" pattern:"[A-Za-z0-9._-]{1,64}"`
	SecretFile     string       `json:"secret_file" doc:"file with secrets of the cluster, one a line, each 32 random bytes in base64: the first is used, all are accepted. Serves gossip and peer; required unless gossip.secret_file and peer.tls are set or every listener of the cluster is loopback"`
	Settle         Duration     `json:"settle" doc:"joins and leaves within this are one change; 0 = each is one"`
	Rejoin         Duration     `json:"rejoin" doc:"how often the members in join are asked again, for ever" min:"1s"`
	Gossip         GossipConfig `json:"gossip" doc:"who is alive, over UDP and TCP"`
	Peer           PeerConfig   `json:"peer" doc:"requests on their way to their key's owner, over TCP"`
	Join           []string     `json:"join" doc:"members to join: host:port, dns+host:port (every address of the name) or dnssrv+name; this node itself may be among them"`
	JoinTimeout    Duration     `json:"join_timeout" doc:"if none of them answers for so long, start alone, and go on asking; with a strict route only if they hold no address but this node's own; 0 = never alone"`
	MinMembers     int          `json:"min_members" doc:"with fewer members this node is not ready and runs nothing exclusive; guards against a split network only if it is more than half of them" min:"1"`
	Partitions     int          `json:"partitions" doc:"parts into which keys are divided; the same on all nodes for ever, a node with another number cannot join" min:"16" max:"65536"`
	HandoffTimeout Duration     `json:"handoff_timeout" doc:"a claim that a live owner does not answer is repeated after this; no request is ever cut short by it" min:"100ms"`
	ForgetAfter    Duration     `json:"forget_after" doc:"a dead member is forgotten after this" min:"1s"`
}

// GossipConfig is how the members find each other and see who is alive.
type GossipConfig struct {
	Listen     string `json:"listen" doc:"ip:port, for UDP and TCP; without ip every address"`
	Advertise  string `json:"advertise" doc:"ip:port that other members use; empty is the private address of this machine and the port of listen"`
	SecretFile string `json:"secret_file" doc:"file like cluster.secret_file, for gossip alone"`
	Profile    string `json:"profile" doc:"how patient members are with each other: within a site, between sites, or on one machine" enum:"lan wan local"`
}

// PeerConfig is how requests travel between members.
type PeerConfig struct {
	Listen    string        `json:"listen" doc:"host:port; an empty host is every address"`
	Advertise string        `json:"advertise" doc:"host:port that other members use; empty is the address that gossip uses and the port of listen"`
	TLS       PeerTLSConfig `json:"tls" doc:"certificates in place of cluster.secret_file; all three or none. The files are read again when they change"`
}

// PeerTLSConfig is the certificates of members: each proves itself to the other.
type PeerTLSConfig struct {
	CertFile     string `json:"cert_file" doc:"this node's certificate, and those between it and the authority, in PEM"`
	KeyFile      string `json:"key_file" doc:"its private key, in PEM"`
	ClientCAFile string `json:"client_ca_file" doc:"authorities that sign the members' certificates and nobody else's, in PEM"`
}

// UpstreamConfig is a named set of interchangeable targets.
type UpstreamConfig struct {
	Name           string   `json:"name" doc:"what routes call it" pattern:"[A-Za-z0-9._-]{1,64}" jsonschema:"required"`
	Targets        []string `json:"targets" doc:"each able to serve every request: http://host:port, https://host:port, unix:///path, and dns+http://host:port or dns+https://host:port, which is every address behind the name" jsonschema:"required"`
	Balance        string   `json:"balance" doc:"which target gets a request; the lane keeps the order whichever it is. key_hash keeps a key on its target, and moves only the keys of one that is away" enum:"least_pending round_robin key_hash"`
	ConnectTimeout Duration `json:"connect_timeout" doc:"for dialling, TLS included; then 502 upstream-connect, nothing was sent" min:"1ms"`
	MaxConnections int      `json:"max_connections" doc:"per target; who finds none free waits in queue" min:"1"`
	IdleTimeout    Duration `json:"idle_timeout" doc:"of a connection between two requests; keep it below the upstream's own keep-alive" min:"1ms"`
	Queue          int      `json:"queue" doc:"requests that have their turn and wait for a connection or for limit, first come first served: for what is left of their queue_timeout, for connect_timeout at least, and before upstream_timeout begins; then 503 no-upstream. Beyond: 503 overloaded. Nothing was sent; 0 = nobody waits" min:"0"`
	DNSRefresh     Duration `json:"dns_refresh" doc:"how often the names of dns+ targets are looked up. An address that has gone gets no more requests and ends those that it has; a lookup that fails changes nothing" min:"1s"`
	SlowStart      Duration `json:"slow_start" doc:"in which a target that is new, or available again, comes to its whole share; 0 = at once"`

	Health  HealthConfig      `json:"health" doc:"the node's own checks of each target"`
	Circuit CircuitConfig     `json:"circuit" doc:"failures of requests in a row take a target away: no connection, a reset, no answer in time, an answer that is not HTTP. A status is an answer, 5xx too"`
	Limit   LimitConfig       `json:"limit" doc:"of requests in flight at all targets together, so that a burst waits in lanes and queue, and the service gets what it can bear"`
	TLS     UpstreamTLSConfig `json:"tls" doc:"of https targets, whose certificates are always verified. The files are read again when they change"`
}

// HealthConfig is a node's own checks of targets.
type HealthConfig struct {
	Path     string   `json:"path" doc:"of a GET that a healthy target answers with 2xx or 3xx; empty = nothing is checked. A target counts as healthy until its first check, which decides alone; the node's readiness does not depend on any of this" pattern:"(/[!-~]*)?"`
	Interval Duration `json:"interval" doc:"from the end of one check to the next, a tenth more or less" min:"10ms"`
	Timeout  Duration `json:"timeout" doc:"of one check" min:"1ms"`
	Fall     int      `json:"fall" doc:"failures in a row that take a target away" min:"1"`
	Rise     int      `json:"rise" doc:"successes in a row that bring it back" min:"1"`
}

// CircuitConfig is what failures of requests do to a target.
type CircuitConfig struct {
	Failures int      `json:"failures" doc:"in a row, that take a target away; 0 = never" min:"0"`
	OpenFor  Duration `json:"open_for" doc:"then one request at a time tries, and an answer brings the target back" min:"1ms"`
}

// LimitConfig bounds the requests in flight at an upstream.
type LimitConfig struct {
	Mode string `json:"mode" doc:"none, fixed (max), or adaptive: between min and max, less when answers get slower and more when they do not" enum:"none fixed adaptive"`
	Max  int    `json:"max" doc:"most that are in flight" min:"1"`
	Min  int    `json:"min" doc:"with adaptive: fewest" min:"1"`
}

// UpstreamTLSConfig is what https targets need.
type UpstreamTLSConfig struct {
	CAFile     string `json:"ca_file" doc:"authorities that sign the targets' certificates, in PEM; empty is the system's"`
	CertFile   string `json:"cert_file" doc:"this node's certificate, in PEM; empty is none"`
	KeyFile    string `json:"key_file" doc:"its private key, in PEM"`
	ServerName string `json:"server_name" doc:"name that the targets' certificates are for, and that they are asked for; empty is the target's host"`
}

// LimitsConfig bounds the node as a whole.
type LimitsConfig struct {
	MaxInflight    int  `json:"max_inflight" doc:"requests at upstreams at once" min:"1"`
	MaxQueued      int  `json:"max_queued" doc:"requests waiting in lanes" min:"1" reload:"restart"`
	MaxQueuedBytes Size `json:"max_queued_bytes" doc:"bodies waiting in lanes" min:"1B" reload:"restart"`
	MaxLanes       int  `json:"max_lanes" doc:"keys in use at once" min:"1" reload:"restart"`

	MaxRecords      int  `json:"max_records" doc:"requests that this node remembers for routes with store: owner; none is forgotten before its time" min:"1" reload:"restart"`
	MaxRecordsBytes Size `json:"max_records_bytes" doc:"memory of these: a million with answers of 100 bytes take 450 MiB" min:"1KiB" reload:"restart"`
}

// DefaultsConfig is what every route starts from.
type DefaultsConfig struct {
	Key  KeyDefaults `json:"key" doc:"of every route's key"`
	Lane LaneConfig  `json:"lane" doc:"of every route's lane"`

	Idempotency IdempotencyConfig `json:"idempotency" doc:"of every route's requests that carry a name of their own"`
	Sequence    SequenceConfig    `json:"sequence" doc:"of every route's requests that their producers number"`
	Coalesce    []CoalesceConfig  `json:"coalesce" doc:"rules of every route by which a request supersedes those that wait directly before it in its lane: they are answered at once, and never run"`
}

// KeyDefaults is the part of a key that routes usually share.
type KeyDefaults struct {
	Missing   string   `json:"missing" doc:"what to do with a request without a key: refuse it (400), forward it without a lane, or take the client's address" enum:"reject bypass client_ip"`
	Normalize []string `json:"normalize" doc:"changes to the key, in order" enum:"trim lower"`
	MaxLength int      `json:"max_length" doc:"bytes of a key without its space; beyond: 400 invalid-key" min:"1"`
}

// RouteConfig says which requests it takes, where they go and what orders them.
type RouteConfig struct {
	Name     string      `json:"name" doc:"in logs, metrics and error answers" pattern:"[A-Za-z0-9._-]{1,64}" jsonschema:"required"`
	Match    MatchConfig `json:"match,omitzero" doc:"all that is given must hold; nothing given matches every request"`
	Upstream string      `json:"upstream" doc:"the name of an upstream" jsonschema:"required"`
	Key      KeyConfig   `json:"key,omitzero" doc:"what orders the requests; only a route that bypasses all methods goes without"`
	Lane     LaneConfig  `json:"lane" doc:"how requests of one key queue and run"`

	Idempotency IdempotencyConfig `json:"idempotency" doc:"how requests that carry a name of their own are kept from running twice"`
	Sequence    SequenceConfig    `json:"sequence" doc:"how requests that their producers number are put in order"`
	Coalesce    []CoalesceConfig  `json:"coalesce" doc:"rules by which a request of this route supersedes those that wait directly before it in its lane, up to the first that no rule names, whatever route of the space they came by: they are answered at once, and never run"`
}

// CoalesceConfig is a rule by which one request supersedes others that have not begun.
type CoalesceConfig struct {
	By     string   `json:"by" doc:"the method of the request that supersedes, exclusive. It need not succeed: those that it has superseded stay so even if the service refuses it" jsonschema:"required"`
	Over   []string `json:"over" doc:"the methods of those that it makes needless, exclusive. For requests that leave nothing behind once the other has run: a PUT of the whole thing, any change before a DELETE; not for one that adds, or that somebody counts" jsonschema:"required"`
	Scope  string   `json:"scope" doc:"which of the key's requests it makes needless: those with the same Host, path and query, byte for byte, or all" enum:"path key"`
	Status int      `json:"status" doc:"what those are answered with: 409 superseded, not executed; or a status that claims success, without a body" enum:"409 200 202 204"`
}

// MatchConfig selects requests.
type MatchConfig struct {
	Host    string         `json:"host,omitzero" doc:"exact, without port, in any case"`
	Path    string         `json:"path,omitzero" doc:"template in the syntax of Go's http.ServeMux: /orders/{id}, /orders/{id}/{rest...}, /{$}"`
	Methods []string       `json:"methods,omitzero" doc:"upper case"`
	Headers []HeaderConfig `json:"headers,omitzero" doc:"headers a request must have"`
}

// HeaderConfig is one header a request must have.
type HeaderConfig struct {
	Name  string `json:"name" doc:"in any case" jsonschema:"required"`
	Value string `json:"value,omitzero" doc:"exact; empty is any value"`
}

// KeyConfig says where a route's key is. It is KeyDefaults and two fields that
// have no default: a default space would either split one thing over two
// lanes or put two things into one.
type KeyConfig struct {
	Space string         `json:"space" doc:"kind of the key, such as order; routes with one space share lanes" pattern:"[a-z0-9_-]{1,32}" jsonschema:"required"`
	From  []SourceConfig `json:"from" doc:"where the key may be; the first that is present wins" jsonschema:"required"`
	KeyDefaults
}

// SourceConfig is one place of a key, or several that make one key together.
type SourceConfig struct {
	PlaceConfig
	All []PlaceConfig `json:"all,omitzero" doc:"a key made of several places, all of which must be present"`
}

// PlaceConfig is one place of a request; exactly one field is set.
type PlaceConfig struct {
	Path   string `json:"path,omitzero" doc:"a wildcard of the route's path"`
	Header string `json:"header,omitzero" doc:"a header"`
	Query  string `json:"query,omitzero" doc:"a query parameter"`
	Cookie string `json:"cookie,omitzero" doc:"a cookie"`
	Issue  bool   `json:"issue,omitzero" doc:"with cookie: a client that has no valid one gets one, as session says; the key is the id in it. So it is always present, and no source behind it counts"`
	JSON   string `json:"json,omitzero" doc:"a member of a JSON body: data.order.id, items.0.id; a dot within a name is \\."`
}

// LaneConfig is how requests of one key queue and run.
type LaneConfig struct {
	Guarantee       string   `json:"guarantee" doc:"best_effort: the order holds unless the network splits or a node is taken for dead. strict: the coordinator is asked as well, and exclusive requests carry Lanekeeper-Fence, by which the service can refuse what comes late" enum:"best_effort strict"`
	Exclusive       []string `json:"exclusive" doc:"methods that run one at a time, in arrival order; so do methods in no list. * is every method in no other list"`
	Shared          []string `json:"shared" doc:"methods that run together with each other, after the exclusive ones before them"`
	Bypass          []string `json:"bypass" doc:"methods that never queue"`
	MaxDepth        int      `json:"max_depth" doc:"waiting requests of a key; beyond: 429 lane-full" min:"1"`
	MaxShared       int      `json:"max_shared" doc:"shared requests of a key at the upstream at once" min:"1"`
	QueueTimeout    Duration `json:"queue_timeout" doc:"longest wait for a turn; then 503 lane-timeout, not executed. What is left of it may be waited for a place at the upstream" min:"1ms"`
	UpstreamTimeout Duration `json:"upstream_timeout" doc:"longest wait for the upstream, from when there is a place for the request; then 504 upstream-timeout, outcome unknown" min:"1ms"`
	AfterTimeout    string   `json:"after_timeout" doc:"after an upstream timeout: hold the lane until the upstream answers or closes, or release it at once" enum:"hold release"`
	HoldFor         Duration `json:"hold_for" doc:"longest hold; then the lane is released and the risk counted" min:"1ms"`
	ClientGone      string   `json:"client_gone" doc:"skip or run a waiting request whose client hung up" enum:"skip run"`
	Retries         int      `json:"retries" doc:"further attempts while no byte was sent; never for exclusive requests" min:"0"`
	Reentrant       string   `json:"reentrant" doc:"a call for the key its own sender runs under: refuse it (508) or pass it through" enum:"reject pass"`
	Mode            string   `json:"mode" doc:"enforce order, or observe: nothing waits, what would have overlapped is counted" enum:"enforce observe"`
	MaxBytes        Size     `json:"max_bytes" doc:"waiting bodies of a key; beyond: 429 lane-full" min:"1B"`
	MaxResponse     Size     `json:"max_response" doc:"largest response that is read before the lane is freed; a larger one streams while the lane waits"`

	AfterFailure AfterFailureConfig `json:"after_failure" doc:"what happens when a request has failed: the upstream answered with one of statuses, or its outcome is unknown, or it could not be sent"`

	Hot HotConfig `json:"hot" doc:"when a key is hot: its backlog is large (depth or bytes) and dominant (busy, share and rate), all of it for so long"`
}

// AfterFailureConfig says what a lane does when a request of it has failed.
type AfterFailureConfig struct {
	Action             string   `json:"action" doc:"continue: the next request runs. retry: the request keeps its turn and is attempted again; only while nothing was sent, unless upstream_idempotent. halt: after an exclusive request nothing of its key runs until an operator says so" enum:"continue retry halt"`
	Statuses           []string `json:"statuses" doc:"responses that are failures: codes like 503, or classes like 5xx"`
	Attempts           int      `json:"attempts" doc:"with retry: attempts in all, within upstream_timeout as a whole" min:"1" max:"100"`
	Backoff            Duration `json:"backoff" doc:"with retry: wait before the second attempt, at most; a random part of it is waited, and it doubles each time" min:"1ms"`
	MaxBackoff         Duration `json:"max_backoff" doc:"longest that backoff grows to" min:"1ms"`
	UpstreamIdempotent bool     `json:"upstream_idempotent" doc:"with retry: running a request twice, even beside itself, has no further effect at the upstream, so that it may be sent again after a failing status or an unknown outcome"`
	Halted             string   `json:"halted" doc:"with halt: the requests of a halted key wait, as long as for any turn, or are refused (423 lane-halted)" enum:"wait refuse"`
}

// HotConfig says when a key is hot, and what is done about it.
type HotConfig struct {
	Depth     int      `json:"depth" doc:"waiting requests of a key that make it hot; 0 = their number does not" min:"0"`
	Bytes     Size     `json:"bytes" doc:"waiting bodies of a key that make it hot; 0 = their size does not"`
	Busy      float64  `json:"busy" doc:"part of the time in which the key has a request at the upstream, at least" min:"0" max:"1"`
	Share     float64  `json:"share" doc:"part of all that waits at the node, in requests or in bytes, at least" min:"0" max:"1"`
	Rate      float64  `json:"rate" doc:"requests of the key per second, at least; 0 = any" min:"0"`
	For       Duration `json:"for" doc:"all of this must hold for so long" min:"1ms"`
	CoolAfter Duration `json:"cool_after" doc:"a key is no longer hot when, even with depth, bytes and share halved, this has not held for so long" min:"1ms"`
	Action    string   `json:"action" doc:"none shows hot keys and does nothing. shed refuses further requests of a hot key at depth, below max_depth: 429 lane-full. spill has them wait at the nodes that they came to, for turns that the owner lends" enum:"none shed spill"`
	Backend   string   `json:"backend" doc:"what a spilled key's turns rest on: owner, its lane alone. coordinator: each turn also holds the key's lock in the coordinator's store, which keeps two owners apart that a split or a false death has made" enum:"owner coordinator"`
	Batch     int      `json:"batch" doc:"requests of a spilled key that a node runs in one turn, at most" min:"1" max:"4096"`
	Quantum   Duration `json:"quantum" doc:"how long after the beginning of such a turn another request of it may begin" min:"1ms"`
}

// SessionConfig is how sessions are issued: see proxy.Sessions.
type SessionConfig struct {
	SecretFile string   `json:"secret_file" doc:"file like cluster.secret_file, the same on all nodes: the first secret signs, all verify; required if any key source has issue: true"`
	MaxAge     Duration `json:"max_age" doc:"how long a client may be away and keep its session; a cookie that is used after half of it is signed anew" min:"1s" max:"9600h"`
	Secure     bool     `json:"secure" doc:"the cookie is sent over TLS only; false is for tests"`
	SameSite   string   `json:"same_site" doc:"whether requests that other sites cause carry the cookie" enum:"lax strict none"`
	Path       string   `json:"path" doc:"requests below it carry the cookie"`
}

// ShutdownConfig is what happens between SIGTERM and the end.
type ShutdownConfig struct {
	Delay        Duration `json:"delay" doc:"unready but still serving, so that load balancers notice"`
	DrainTimeout Duration `json:"drain_timeout" doc:"then, for requests that wait or run"`
}

// LogConfig is the log on stderr.
type LogConfig struct {
	Level  string `json:"level" doc:"least severe line that is written" enum:"debug info warn error"`
	Format string `json:"format" doc:"auto is text on a terminal, else json" enum:"auto json text" reload:"restart"`
	Access string `json:"access" doc:"which requests get a line" enum:"none errors all"`
	Keys   string `json:"keys" doc:"how a key appears; keys are often personal data" enum:"plain hash none"`
}

// JournalConfig is what becomes of requests whose outcome nobody can say.
type JournalConfig struct {
	File     string `json:"file" doc:"where they are written, each a line of JSON with its key in plain text: none, stdout, or the path of a file, which nothing else writes to"`
	MaxSize  Size   `json:"max_size" doc:"of the file, in whole MiB; then it gets another name, with the time in it, and a new one begins" min:"1MiB" max:"1024GiB"`
	MaxFiles int    `json:"max_files" doc:"files that are kept, the present one among them" min:"2" max:"10000"`
	Keep     int    `json:"keep" doc:"how many of them stay in memory, file or not, for lanekeeper unknown; each takes about 1 KiB" min:"0" max:"1000000"`
}

// MetricsConfig is how metrics are exposed.
type MetricsConfig struct {
	NativeHistograms bool `json:"native_histograms" doc:"native histograms beside the classic ones"`
}

// TracingConfig is which requests have spans. Everything else about them is said by
// OpenTelemetry's own environment variables.
type TracingConfig struct {
	Enabled bool   `json:"enabled" doc:"make spans, and send them by OTLP over HTTP to OTEL_EXPORTER_OTLP_ENDPOINT, or else http://localhost:4318; without, what requests say of their traces passes all the same"`
	Sample  string `json:"sample" doc:"which requests have spans: parent is those whose traceparent says so, and of those without one, the part that OTEL_TRACES_SAMPLER_ARG says, 0.01 for one in a hundred, else all; ratio is that part of all requests, whatever their traceparent says" enum:"parent always never ratio"`
}

// Default is the one place where defaults exist. Routes and upstreams have
// none: there is no service to guess. What each of them starts from is
// Defaults and defaultUpstream.
func Default() Config {
	return Config{
		Version: 1,
		Server: ServerConfig{
			Listen:            ":7940",
			ProxyProtocol:     "none",
			TrustedProxies:    []string{},
			Forwarded:         "x-forwarded",
			ReadTimeout:       Duration(15 * time.Second),
			IdleTimeout:       Duration(75 * time.Second), // above the 60 s of common load balancers, so that they close first
			MaxBody:           1 * MiB,
			MaxHeader:         16 * KiB,
			HeaderTimeout:     Duration(10 * time.Second),
			MaxURI:            8 * KiB,
			MaxHeaders:        100,
			MaxConnections:    16384,
			BypassIdleTimeout: Duration(5 * time.Minute),
		},
		Observe: ObserveConfig{Listen: ":7941"},
		Admin:   AdminConfig{Listen: "127.0.0.1:7942", AllowedHosts: []string{"localhost", "127.0.0.1", "[::1]"}, UI: true},
		Cluster: ClusterConfig{
			Name:           "lanekeeper",
			Settle:         Duration(500 * time.Millisecond),
			Rejoin:         Duration(30 * time.Second),
			Gossip:         GossipConfig{Listen: ":7943", Profile: "lan"},
			Peer:           PeerConfig{Listen: ":7944"},
			Join:           []string{},
			JoinTimeout:    Duration(30 * time.Second),
			MinMembers:     1,
			Partitions:     4096,
			HandoffTimeout: Duration(10 * time.Second),
			ForgetAfter:    Duration(time.Minute),
		},
		Coordinator: CoordinatorConfig{
			Type:           "none",
			KeyPrefix:      "/lanekeeper",
			LeaseTTL:       Duration(10 * time.Second),
			SafetyMargin:   Duration(3 * time.Second), // below a third, as zookeeper wants it
			AcquireTimeout: Duration(2 * time.Second),
			Etcd:           EtcdConfig{Endpoints: []string{}},
			ZooKeeper:      ZooKeeperConfig{Servers: []string{}},
			Redis:          RedisConfig{Addresses: []string{}, Grace: true},
			Redlock:        RedlockConfig{Addresses: []string{}},
		},
		Stores: StoresConfig{
			Redis:    RecordRedisConfig{Addresses: []string{"127.0.0.1:6379"}, KeyPrefix: "lanekeeper:"},
			Postgres: RecordPostgresConfig{Table: "lanekeeper_records", CreateTable: true, MaxConnections: 8},
		},
		Limits: LimitsConfig{MaxInflight: 4096, MaxQueued: 16384, MaxQueuedBytes: 512 * MiB, MaxLanes: 65536, MaxRecords: 1_000_000, MaxRecordsBytes: 512 * MiB},
		Defaults: DefaultsConfig{
			Key: KeyDefaults{Missing: "reject", Normalize: []string{"trim"}, MaxLength: 256},
			Lane: LaneConfig{
				Guarantee:       "best_effort",
				Exclusive:       []string{"POST", "PUT", "PATCH", "DELETE"},
				Shared:          []string{"GET", "HEAD"},
				Bypass:          []string{"OPTIONS"},
				MaxDepth:        64,
				MaxShared:       16,
				QueueTimeout:    Duration(10 * time.Second),
				UpstreamTimeout: Duration(30 * time.Second),
				AfterTimeout:    "hold",
				HoldFor:         Duration(30 * time.Second),
				ClientGone:      "skip",
				Reentrant:       "reject",
				Mode:            "enforce",
				MaxBytes:        16 * MiB,
				MaxResponse:     1 * MiB,
				AfterFailure: AfterFailureConfig{
					Action:     "continue",
					Statuses:   []string{"5xx"},
					Attempts:   3,
					Backoff:    Duration(100 * time.Millisecond),
					MaxBackoff: Duration(5 * time.Second),
					Halted:     "wait",
				},
				Hot: HotConfig{
					Depth:     32,
					Bytes:     8 * MiB,
					Busy:      0.9,
					Share:     0.1,
					For:       Duration(5 * time.Second),
					CoolAfter: Duration(30 * time.Second),
					Action:    "none",
					Backend:   "owner",
					Batch:     16,
					Quantum:   Duration(50 * time.Millisecond),
				},
			},
			Idempotency: IdempotencyConfig{
				Mode:         "none",
				Header:       "Idempotency-Key",
				TTL:          Duration(24 * time.Hour),
				Store:        "owner",
				ClaimLease:   Duration(30 * time.Second),
				StoreAway:    "refuse",
				Concurrent:   "wait",
				Fingerprint:  []string{"method", "path", "query", "content_type", "body"},
				ScopeHeaders: []string{"Authorization"},
				Replay:       []string{"2xx", "3xx", "4xx", "500"},
				Unknown:      "conflict",
				MaxEntry:     64 * KiB,
			},
			Sequence: SequenceConfig{
				Mode:    "none",
				Store:   "owner",
				Start:   "one",
				GapWait: Duration(5 * time.Second),
				MaxHeld: 64,
				Done:    "replay",
				TTL:     Duration(24 * time.Hour),
			},
			Coalesce: []CoalesceConfig{},
		},
		Session:  SessionConfig{MaxAge: Duration(24 * time.Hour), Secure: true, SameSite: "lax", Path: "/"},
		Shutdown: ShutdownConfig{Delay: Duration(5 * time.Second), DrainTimeout: Duration(25 * time.Second)},
		Log:      LogConfig{Level: "info", Format: "auto", Access: "errors", Keys: "hash"},
		Journal:  JournalConfig{File: "none", MaxSize: 64 * MiB, MaxFiles: 8, Keep: 10000},
		Metrics:  MetricsConfig{NativeHistograms: true},
		Tracing:  TracingConfig{Sample: "parent"},
	}
}

// defaultUpstream is what each of the upstreams starts from.
func defaultUpstream() UpstreamConfig {
	return UpstreamConfig{
		Balance:        "least_pending",
		ConnectTimeout: Duration(2 * time.Second),
		MaxConnections: 256,
		IdleTimeout:    Duration(30 * time.Second),
		Queue:          1024,
		DNSRefresh:     Duration(10 * time.Second),
		Health:         HealthConfig{Interval: Duration(5 * time.Second), Timeout: Duration(time.Second), Fall: 3, Rise: 2},
		Circuit:        CircuitConfig{Failures: 10, OpenFor: Duration(5 * time.Second)},
		Limit:          LimitConfig{Mode: "none", Max: 256, Min: 4},
	}
}
