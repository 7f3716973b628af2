package admin

import (
	"context"
	"time"
)

// Cluster is a node and what it knows of the others, as the admin API shows it.
// A node without a cluster is one whose only member is itself.
//
// The methods may be called concurrently and return at once. What they return
// is the caller's. A list that is empty may be nil.
type Cluster interface {
	Status() Status
	Members() Members

	// Ring fills in Table only if partitions is true.
	Ring(partitions bool) Ring

	// Locate says where the key of a space belongs, and where it would belong
	// if the named members left. They are live ones of those that Members returned.
	// Space, Key and Without of the answer are filled in by the caller.
	Locate(space, key string, without []string) Location

	// Hot is which keys of this node have most to do. Its keys are as they are: the
	// caller escapes them.
	Hot() Hot

	// Lanes is up to limit lanes of this node: those in which nothing begins, and the
	// deepest of the others. Its keys are as they are.
	Lanes(limit int) Lanes

	// Lane is the lane of a key with all its tickets, as far as this node knows it. Space
	// and Key are filled in by the caller.
	Lane(space, key string) LanePage

	// Why is what this node knows of why requests of a key wait. Space, Key, Text, and Node
	// of its reasons are filled in by the caller.
	Why(space, key string) Why

	// Relieve does what an operator wants of a lane, or returns one of the errors beside
	// Relieved. The key of its answer is as it is. The ticket is one, or empty.
	Relieve(space, key string, r Relief) (Relieved, error)

	// Others are the names of the other live members.
	Others() []string

	// Ask puts a question to another live member. It blocks as long as ctx lasts, at most.
	Ask(ctx context.Context, node string, q *Question) (*Told, error)

	// Configuration is what this node runs by.
	Configuration() Configuration

	// SetLogLevel sets the level of the log, for a time or, if that is 0, until the next
	// change of it; empty is the configured one.
	SetLogLevel(level string, lasts time.Duration) LogLevel

	// Journal is where this node's events are; always the same one.
	Journal() *Journal

	// Ledger is where this node's requests with an unknown outcome are; always the
	// same one.
	Ledger() *Ledger

	// Drain begins to give everything away, or goes on with it. Undrain makes a
	// draining node an ordinary one again. An error is a refusal and says why,
	// such as a process that is ending already.
	Drain() error
	Undrain() error

	// Reload reads the configuration again and puts it in force, as a whole or not at all,
	// by force even if that may break the order of keys in use. by is who wants it. The
	// error is nil or a refusal. It takes as long as reading takes, one after the other.
	Reload(force bool, by string) (Reloaded, *ReloadError)
}

// The states of a member. It is live in the first two.
const (
	StateAlive    = "alive"
	StateDraining = "draining" // it gives its partitions away
	StateLeft     = "left"     // it said so
	StateDead     = "dead"     // it no longer answered
)

// Live reports whether the member is one now.
func (m *Member) Live() bool { return m.State == StateAlive || m.State == StateDraining }

// The fields below are the JSON of the API: names, units and meanings stay as
// they are, new ones may come. What a node does not know is null.

// Status is the answering node. Nodes, Numbers and Silent are of its cluster, and there only
// if that is what was asked for: without ?node.
type Status struct {
	Node        string `json:"node"`
	Incarnation string `json:"incarnation"` // hexadecimal; another one after each start
	Version     string `json:"version"`     // of the program
	Config      string `json:"config"`      // hash of what nodes of one cluster should have in common
	Cluster     string `json:"cluster"`     // empty without a cluster

	Ready         bool       `json:"ready"`
	NotReady      []string   `json:"not_ready"`      // "check: why", for each that fails
	DrainingSince *time.Time `json:"draining_since"` // null = it is not draining

	Members     int    `json:"members"` // live ones, this node among them
	InRing      bool   `json:"in_ring"` // partitions are meant for this node
	RingVersion uint64 `json:"ring_version"`
	Owned       int    `json:"owned"`  // partitions that this node holds
	Moving      int    `json:"moving"` // of those it holds or claims, how many change hands

	Lanes   int `json:"lanes"`   // keys with a ticket here
	Waiting int `json:"waiting"` // tickets
	Running int `json:"running"` // tickets with their turn, held ones among them
	Held    int `json:"held"`    // of those, answered ones whose upstream may still be at work

	Lease *Lease `json:"lease"` // from the coordinator; null without one

	LastReload *Reload `json:"last_reload"` // of the configuration; null: none since the start

	Halted     int       `json:"halted"`              // lanes
	Stopped    int       `json:"stopped"`             // lanes that an operator holds
	Hot        int       `json:"hot"`                 // keys
	OldestWait float64   `json:"oldest_wait_seconds"` // of the request that has waited longest
	Rate       float64   `json:"rate"`                // requests answered per second, lately
	Violations uint64    `json:"violations"`          // of the order, that this node has seen
	Unknown    uint64    `json:"unknown"`             // requests with an unknown outcome since the start
	LaneWait   Latencies `json:"lane_wait"`           // from the ticket to the turn, of the last second or so
	Upstream   Latencies `json:"upstream"`            // from the first byte sent to the last byte read
	LogLevel   string    `json:"log_level"`

	Dead []string `json:"dead,omitzero"` // members that this node takes for dead, and has not forgotten yet

	Nodes   []Status `json:"nodes,omitzero"`   // of all that answered, by name
	Numbers *Numbers `json:"numbers,omitzero"` // of all of them together
	Silent  []Silent `json:"silent,omitzero"`  // members that gave no answer
}

// Latencies are how long something took lately.
type Latencies struct {
	Count uint64  `json:"count"`       // how often it was seen
	P50   float64 `json:"p50_seconds"` // 0 if it was not
	P99   float64 `json:"p99_seconds"`

	Buckets []Bucket `json:"buckets"` // from which both are estimated, rising; those that are empty are left out
}

// Bucket is how many took at most so long, and longer than the one before.
type Bucket struct {
	LE    float64 `json:"le"`    // seconds; the longest of all if it has no end
	Above float64 `json:"above"` // seconds: where it begins
	Count uint64  `json:"count"`
}

// Numbers are a cluster's.
type Numbers struct {
	Time     time.Time `json:"time"`
	Members  int       `json:"members"`  // live ones
	Answered int       `json:"answered"` // of those; what follows is theirs
	Ready    int       `json:"ready"`    // members
	Draining int       `json:"draining"`

	Rate       float64 `json:"rate"` // requests answered per second, lately
	Lanes      int     `json:"lanes"`
	Waiting    int     `json:"waiting"` // tickets
	Running    int     `json:"running"`
	Held       int     `json:"held"`    // lanes, after an upstream timeout
	Stopped    int     `json:"stopped"` // lanes that an operator holds
	Halted     int     `json:"halted"`
	Hot        int     `json:"hot"` // keys
	OldestWait float64 `json:"oldest_wait_seconds"`
	Violations uint64  `json:"violations"` // of the order
	Unknown    uint64  `json:"unknown"`    // requests with an unknown outcome

	LaneWait Latencies `json:"lane_wait"`
	Upstream Latencies `json:"upstream"`

	Warnings []string `json:"warnings"` // for people: what is amiss with the cluster
	Silent   []Silent `json:"silent"`
}

// Lease is a node's lease from the coordinator.
type Lease struct {
	ID       string  `json:"id"`            // empty: it has none
	Seconds  float64 `json:"valid_seconds"` // certainly, from now; 0: nothing strict may be begun
	Age      float64 `json:"age_seconds"`   // since it was asked for; 0 without one
	Untitled int     `json:"untitled"`      // partitions that the node owns and that are not on record
	Away     string  `json:"away"`          // why the coordinator cannot be reached; empty: it can

	// Renewed is when the renewal was sent by which it is valid, in seconds ago; null
	// if it is not valid.
	Renewed *float64 `json:"renewed_seconds"`
}

// Tickets is how many requests the node's lanes have.
func (s *Status) Tickets() int { return s.Waiting + s.Running }

// Drained reports whether a draining node has nothing left that an end of its
// process could hurt. A node that is alone has nobody to give partitions to.
func (s *Status) Drained() bool {
	given := s.Members <= 1 || !s.InRing && s.Owned == 0
	return s.DrainingSince != nil && given && s.Tickets() == 0
}

// Members is who belongs to the cluster.
type Members struct {
	Cluster    string   `json:"cluster"`
	Node       string   `json:"node"`        // who answers
	View       uint64   `json:"view"`        // rises with each change of the members
	MinMembers int      `json:"min_members"` // with fewer the node is not ready
	Members    []Member `json:"members"`     // live ones by name, then those that left or died lately
}

// Member is one member as the answering node sees it.
type Member struct {
	Name        string    `json:"name"`
	Incarnation string    `json:"incarnation"` // hexadecimal
	State       string    `json:"state"`       // alive, draining, left, dead
	Address     string    `json:"address"`     // of gossip
	PeerAddress string    `json:"peer_address"`
	Zone        string    `json:"zone"`
	Target      int       `json:"target"` // partitions meant for it
	Owned       *int      `json:"owned"`  // partitions it holds
	Queued      *int      `json:"queued"` // requests that wait in its lanes
	Config      string    `json:"config"` // hash; members with another one may take keys from requests in another way
	Version     string    `json:"version"`
	Since       time.Time `json:"since"`       // when the answering node saw it come into this state
	RTT         *float64  `json:"rtt_seconds"` // that it took to answer the answering node, lately
}

// Ring is which partitions are meant for whom.
type Ring struct {
	Cluster    string      `json:"cluster"`
	Node       string      `json:"node"` // who answers
	Version    uint64      `json:"version"`
	Hash       string      `json:"hash"`   // hexadecimal, of all targets: nodes that agree show the same
	Layout     string      `json:"layout"` // hexadecimal, of what can never change in a cluster
	Partitions int         `json:"partitions"`
	Moving     int         `json:"moving"`          // partitions known here whose owner is not their target
	Members    []Share     `json:"members"`         // by name
	Table      []Partition `json:"table,omitempty"` // only if asked for; by number
	Runs       []Run       `json:"runs,omitempty"`  // only if asked for: the table, with equal neighbours together
}

// Share is a member's part of the ring.
type Share struct {
	Name   string `json:"name"`
	Target int    `json:"target"` // partitions meant for it
	Owned  *int   `json:"owned"`  // partitions it holds
}

// Run is neighbouring partitions with the same owner, target and state.
type Run struct {
	From   int    `json:"from"`
	To     int    `json:"to"` // the last of them
	Owner  string `json:"owner"`
	Target string `json:"target"`
	Moving bool   `json:"moving"` // known to be another's than its target's
}

// Partition is one partition as the answering node sees it.
type Partition struct {
	Partition int    `json:"partition"`
	Target    string `json:"target"`
	Owner     string `json:"owner"` // empty = nobody, or not known here
	Epoch     uint64 `json:"epoch"` // rises each time the owner changes
	State     string `json:"state"` // at the answering node: foreign, claiming, owned, draining
	Draining  int    `json:"draining"`
}

// Location is where a key belongs.
type Location struct {
	Node      string `json:"node"` // who answers
	Space     string `json:"space"`
	Key       string `json:"key"` // as Lanekeeper-Key writes it: bytes outside 0x21–0x7E, and %, as %XX
	Partition int    `json:"partition"`
	Of        int    `json:"partitions"`

	Owner        string `json:"owner"`         // who holds the partition; empty = nobody, or not known here
	OwnerAddress string `json:"owner_address"` // of peers
	Epoch        uint64 `json:"epoch"`
	State        string `json:"state"` // of the partition at the answering node: foreign, claiming, owned, draining

	// Record is what the answering node knows of the partition's record in the
	// coordinator; null without one.
	Record *Record `json:"record"`

	Target  string   `json:"target"`            // for whom it is meant, without the members in Without; empty = nobody would be left
	Next    []string `json:"next"`              // for whom it would be meant if Target left, and then, if that one did, …
	Without []string `json:"without,omitempty"` // members that are taken to have left

	Lane *Lane `json:"lane"` // null: the key has no ticket at the answering node
}

// Record is a partition's record in the coordinator.
type Record struct {
	Holder   string   `json:"holder"`       // a lease, whose id begins with nothing that means anything
	Tenure   uint64   `json:"tenure"`       // rises each time the holder changes
	Stamp    uint64   `json:"stamp"`        // fences are this, times 2^23, and a count
	Prev     string   `json:"prev"`         // a lease that may still run what it had when it gave the partition away
	Titled   bool     `json:"titled"`       // it is the answering node's, which may run strict requests
	Held     *float64 `json:"held_seconds"` // since it has been titled in this tenure; null if it is not
	WaitsFor string   `json:"waits_for"`    // the lease whose end the answering node waits for, to hold the partition or to run all its keys
}

// Lane is the lane of one key at the answering node.
type Lane struct {
	Depth       int       `json:"depth"`                 // waiting tickets
	Running     int       `json:"running"`               // tickets with their turn
	Blocked     bool      `json:"blocked"`               // a former owner of the key may still run a request of it
	Ticket      string    `json:"ticket,omitempty"`      // that all others wait for
	Halt        *LaneHalt `json:"halt"`                  // null: it is not halted
	TicketState string    `json:"ticket_state"`          // running, held, waiting; empty without one
	Seconds     float64   `json:"ticket_seconds"`        // since that began
	WaitSeconds float64   `json:"wait_seconds_estimate"` // for a request that came now
}

// Hot is which keys have most to do.
type Hot struct {
	Node       string   `json:"node"`        // who answers
	Hot        []HotKey `json:"hot"`         // keys that are hot by their route's rule, most waiting tickets first
	Top        []TopKey `json:"top"`         // keys whose requests were admitted most, hot or not; most first
	TopSeconds float64  `json:"top_seconds"` // in which those were

	Spilled []SpilledKey `json:"spilled"` // keys of other nodes, most waiting requests first

	Silent []Silent `json:"silent,omitzero"`
}

// SpilledKey is a hot key of another node, whose requests wait where they came to, which
// is at the answering node, and run there in turns that its owner lends.
type SpilledKey struct {
	Space   string `json:"space"`
	Key     string `json:"key"`   // as Lanekeeper-Key writes it
	Route   string `json:"route"` // of its newest request
	Waiting int    `json:"waiting"`
	Running int    `json:"running"`
	Asked   int    `json:"asked"`    // turns that have been asked for and have not come
	HasTurn bool   `json:"has_turn"` // one that has, and is not given back
	Node    string `json:"node"`     // where they wait

	Tickets []string `json:"tickets,omitzero"` // of a lane's page alone: of those that wait or run there, in their order
}

// HotKey is a key that is hot, with what speaks for it.
type HotKey struct {
	Space  string    `json:"space"`
	Key    string    `json:"key"`     // as Lanekeeper-Key writes it
	Route  string    `json:"route"`   // of its newest request
	Action string    `json:"action"`  // of that route: none, shed, spill
	LentTo string    `json:"lent_to"` // the member that has the key's turn; empty: this node, or nobody
	Since  time.Time `json:"since"`

	Depth int     `json:"depth"` // waiting requests, those at other nodes included as far as they have asked
	Bytes int     `json:"bytes"` // of their bodies
	Busy  float64 `json:"busy"`  // part of the time with a ticket that runs
	Share float64 `json:"share"` // of all tickets that wait at the node, or of their bytes: the larger
	Rate  float64 `json:"rate"`  // requests per second

	ServiceSeconds float64 `json:"service_seconds"`       // that a turn takes; 0 = not known yet
	WaitSeconds    float64 `json:"wait_seconds_estimate"` // for a request that came now

	Node string `json:"node"` // whose lane it is
}

// TopKey is a key with many requests. They are counted in little memory: the true
// count is at most Count, and at least Count less Error.
type TopKey struct {
	Space string `json:"space"`
	Key   string `json:"key"`   // as Lanekeeper-Key writes it
	Route string `json:"route"` // of its oldest ticket; empty without one
	Hot   bool   `json:"hot"`   // it is in the other list, too
	Count uint64 `json:"count"`
	Error uint64 `json:"error"`

	Depth       int     `json:"depth"`                 // waiting tickets
	WaitSeconds float64 `json:"wait_seconds_estimate"` // for a request that came now; 0 = the key has no ticket

	Node string `json:"node"` // whose lane it is
}
