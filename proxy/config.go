package proxy

import (
	"crypto/tls"
	"net/netip"
	"time"

	"go.opentelemetry.io/otel/trace"

	"lanekeeper/lock"
	"lanekeeper/proxy/idempotency"
	"lanekeeper/proxy/sequence"
	"lanekeeper/proxy/upstream"
	"lanekeeper/queue"
)

// Config is everything the edge needs to know, already validated: New refuses
// what it could not serve, but the sentences a person reads about a bad file
// are written where the file is read.
type Config struct {
	// Hash is the configuration's, as nodes tell it to each other; see Cluster.OwnersConfig.
	Hash string

	// Node is this node's name. It reaches clients only with ViaNode.
	Node    string
	ViaNode bool // put Node into Via

	// ServerTiming tells clients in Server-Timing how long their request waited in its
	// lane, and how long the upstream took.
	ServerTiming bool

	// Forwarded says which header families tell the upstream who the client
	// was. Inbound ones are believed only from TrustedProxies.
	Forwarded      Forwarded
	TrustedProxies []netip.Prefix

	// TLS is spoken with clients; nil: it is not. Its files and their changes are the
	// caller's.
	TLS *tls.Config

	// ProxyProtocol says whether TrustedProxies tell by the PROXY protocol, before
	// anything else, whom they speak for.
	ProxyProtocol ProxyProtocol

	MaxBody    int // bytes of a request body that is held; beyond: 413. Bypass streams instead
	MaxHeader  int // bytes of a request's head; beyond: 431
	MaxURI     int // bytes of a request target; beyond: 414
	MaxHeaders int // header lines of a request; beyond: 431

	HeaderTimeout     time.Duration // first byte of a request to the end of its head; 0 = none
	ReadTimeout       time.Duration // end of the head to the end of the body; 0 = none
	IdleTimeout       time.Duration // between two requests of a connection; 0 = none
	BypassIdleTimeout time.Duration // without a byte either way on a bypass request; 0 = none

	MaxConnections           int // client connections; beyond: 503 and close
	MaxPerAddress            int // of one address; beyond: 503 and close; 0 = no limit
	MaxRequestsPerConnection int // then the connection is closed; 0 = no limit
	MaxInflight              int // requests at upstreams at once; beyond: 503 overloaded

	// TicketHeader puts Lanekeeper-Ticket on responses, so that a client can
	// name its request.
	TicketHeader bool

	NativeHistograms bool // also as Prometheus' native histograms

	Access  Access   // which requests the access log holds
	LogKeys KeyStyle // how keys appear in it; they are often personal data

	Tracer trace.Tracer // of spans; nil: there are none, and traces only pass

	// Sessions are what sources with Issue give to clients; nil: there is no such source.
	Sessions *Sessions

	// Unknowns is told of every request that had a lane and whose outcome nobody can
	// say; nil: nobody is. It is called before the request's answer is on its way, so
	// it must not block; it may be called concurrently, and keep what it gets.
	Unknowns func(*Unknown)

	Upstreams []Upstream
	Routes    []Route // the first that matches wins

	Cluster Cluster // the nodes that share the keys; nil: this one has them all

	Locks Locks // of spilled keys

	Records map[string]idempotency.Store // of requests with a name, by what Idempotency.Store says
	Marks   *sequence.Marks              // of producers that number their requests; nil: some without bound

	// MarkStores are where marks are also kept, so that they outlive this node, by what
	// Sequence.Store says. Those of a store that is not among them are in Marks alone.
	MarkStores map[string]sequence.Store
}

// Locks are locks in a store, which lanes with SpillLocks want.
type Locks struct {
	lock.Locker               // nil: there are none
	Timeout     time.Duration // of an Acquire
	Name        string        // of the kind of store, in metrics
}

// Access selects the requests that are logged.
type Access uint8

// The access log policies.
const (
	AccessErrors Access = iota // answers that are lanekeeper's own, 5xx, and clients that hung up
	AccessAll
	AccessNone
)

// KeyStyle is how a key is written into logs.
type KeyStyle uint8

// The key styles.
const (
	KeysHashed KeyStyle = iota // the first 64 bits of SHA-256: enough to find, not to read; a small set of keys can be guessed
	KeysPlain
	KeysNone
)

// Forwarded selects how the upstream learns of the client's address.
type Forwarded uint8

// The forwarded header families.
const (
	ForwardedX    Forwarded = iota // X-Forwarded-For, -Proto, -Host
	ForwardedRFC                   // Forwarded, RFC 7239
	ForwardedBoth                  // both families
	ForwardedNone                  // neither; inbound ones are removed unless trusted
)

// ProxyProtocol is whether a proxy announces its clients by the PROXY protocol.
type ProxyProtocol uint8

// The uses of the PROXY protocol.
const (
	ProxyNone     ProxyProtocol = iota // nobody does; the header would be a malformed request
	ProxyOptional                      // a trusted proxy may; for anybody else it is as with ProxyNone
	ProxyRequired                      // a trusted proxy must; anybody else, and who does not, is cut off
)

// Upstream is a named set of interchangeable targets.
type Upstream = upstream.Config

// Route says which requests it takes, where they go, where their key is, and
// how their lane behaves.
type Route struct {
	Name     string
	Match    Match
	Upstream string
	Key      Key
	Lane     Lane

	Idempotency Idempotency
	Sequence    Sequence
	Coalesce    []Coalesce // which requests are not run because of a later one
}

// Match selects requests. Empty fields match everything; all given ones must match.
type Match struct {
	Host    string   // exact, without port, case-insensitive
	Path    string   // template in the grammar of net/http.ServeMux: /orders/{id}/{rest...}
	Methods []string // upper case
	Headers []Header
}

// Header is a name and, unless empty, the exact value it must have.
type Header struct{ Name, Value string }

// Key says where a route's key is.
type Key struct {
	Space     string   // routes with one space share lanes
	From      []Source // the first that is present wins
	Missing   Missing  // what to do when none is
	Normalize []string // "trim", "lower", in order
	MaxLength int      // bytes of the key without its space
}

// Source is one place a key may be; exactly one field is set.
type Source struct {
	Path   string // a wildcard of the route's path template
	Header string
	Query  string
	Cookie string
	Issue  bool     // of Cookie: the node gives one to clients that have none. At most one source of a route does
	JSON   string   // dotted path of members of a JSON body
	All    []Source // composite: every part must be present
}

// Missing is what happens to a request without a key.
type Missing uint8

// The policies for a request without a key.
const (
	MissingReject   Missing = iota // 400 missing-key
	MissingBypass                  // forward it without a lane
	MissingClientIP                // the client's address is the key
)

// Lane is how a route's requests queue and run.
type Lane struct {
	Exclusive, Shared, Bypass []string // methods; "*" is every method not named elsewhere. Unnamed methods are exclusive

	MaxDepth  int // waiting per key; beyond: 429 lane-full
	MaxBytes  int // bytes of waiting bodies per key; beyond: 429 lane-full
	MaxShared int // shared requests of a key at the upstream at once

	QueueTimeout    time.Duration // waiting; then 503 lane-timeout
	UpstreamTimeout time.Duration // first byte sent to last byte received; then 504
	AfterTimeout    AfterTimeout
	HoldFor         time.Duration // bound of AfterTimeout hold
	AfterFailure    AfterFailure
	ClientGone      ClientGone
	Retries         int // further attempts while no byte was sent; never for exclusive requests. AfterFailure's Retry counts its own
	Reentrant       Reentrant
	Mode            Mode
	Strict          bool // nothing is sent to the upstream but under this node's lease, and exclusive requests carry a fence
	MaxResponse     int  // bytes of a response that is read before the lane is freed; a larger one streams under the lane

	Hot  *queue.HotRule // when a key is hot; nil: never
	Shed bool           // a hot key's requests are refused at Hot.Depth: 429 lane-full

	// Spill has a hot key's requests wait at the nodes that they came to, for turns that
	// its owner lends: of at most Batch requests, of which the last begins within Quantum.
	Spill   bool
	Batch   int
	Quantum time.Duration
	// SpillLocks has every turn of a spilled key, also those of its owner's own requests,
	// hold the key's lock in a store. The lane gives the order; the lock keeps two owners
	// apart that a split or a false death has made. Without the store no key is spilled.
	SpillLocks bool
}

// shedDepth is queue.Request's.
func (l *Lane) shedDepth() int {
	if l.Shed && l.Hot != nil {
		return l.Hot.Depth
	}
	return 0
}

// AfterTimeout is what becomes of a lane whose upstream did not answer in time.
type AfterTimeout uint8

// The policies after an upstream timeout.
const (
	Hold    AfterTimeout = iota // until the upstream answers or closes, or HoldFor has passed
	Release                     // at once: the next request may run beside the late one
)

// ClientGone is what becomes of a waiting request whose client hung up.
type ClientGone uint8

// The policies for a client that hung up.
const (
	Skip ClientGone = iota // it leaves its lane unexecuted
	Run                    // it runs all the same
)

// Reentrant is what becomes of a request for the key that its own sender is being run under.
type Reentrant uint8

// The policies for re-entry.
const (
	RejectReentry Reentrant = iota // 508 reentrant-lane, at once
	PassReentry                    // forwarded without a lane: it runs inside its holder's turn
)

// Mode is whether a route's lanes order requests or only watch them.
type Mode uint8

// The lane modes.
const (
	Enforce Mode = iota
	Observe      // nothing queues, nothing is refused for its key; what would have overlapped is counted
)
