package membership

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// relay carries log lines from gossip to the log. Whoever logs holds a lock of
// memberlist's, or is its packet loop: it must not wait for a log device. So
// lines are queued, and dropped and counted when the queue is full.
type relay struct {
	log        *slog.Logger
	lines      chan line
	stop       chan struct{} // closed: run writes what is queued and returns
	dropped    atomic.Int64
	pushPull   time.Duration // how long news takes without UDP
	advertised string

	mu    sync.Mutex // guards spoke
	spoke map[string]time.Time
}

type line struct {
	level slog.Level
	text  string
	attrs []any
}

const (
	relayQueue = 256
	// quiet is how long the same sentence about the same node is not repeated.
	quiet    = 10 * time.Minute
	spokeMax = 1024
)

func newRelay(log *slog.Logger, pushPull time.Duration) *relay {
	return &relay{
		log: log, pushPull: pushPull, spoke: make(map[string]time.Time),
		lines: make(chan line, relayQueue), stop: make(chan struct{}),
	}
}

// say queues a line. It never blocks.
func (r *relay) say(level slog.Level, text string, attrs ...any) {
	if !r.log.Enabled(context.Background(), level) {
		return
	}
	select {
	case r.lines <- line{level, text, attrs}:
	default:
		r.dropped.Add(1)
	}
}

// sayOnce is say, unless it has been said about the same subject not long ago.
func (r *relay) sayOnce(subject string, level slog.Level, text string, attrs ...any) {
	now := time.Now()
	r.mu.Lock()
	last, found := r.spoke[text+subject]
	repeated := found && now.Sub(last) < quiet
	if !repeated {
		if len(r.spoke) >= spokeMax {
			clear(r.spoke) // rather say something twice than remember every stranger
		}
		r.spoke[text+subject] = now
	}
	r.mu.Unlock()
	if repeated {
		level = slog.LevelDebug
	}
	r.say(level, text, attrs...)
}

// run writes lines until stop.
func (r *relay) run() {
	for {
		select {
		case l := <-r.lines:
			r.write(l)
		case <-r.stop:
			for {
				select {
				case l := <-r.lines:
					r.write(l)
				default:
					return
				}
			}
		}
	}
}

func (r *relay) write(l line) {
	if n := r.dropped.Swap(0); n > 0 {
		r.log.Warn("gossip logged faster than the log could be written", "dropped", n)
	}
	r.log.Log(context.Background(), l.level, l.text, l.attrs...)
}

// Write takes one line of memberlist's.
func (r *relay) Write(p []byte) (int, error) {
	level, text := splitLevel(strings.TrimSpace(string(p)))
	for _, rule := range relevelled {
		if rest, ok := strings.CutPrefix(text, rule.prefix); ok {
			if rule.say != nil {
				rule.say(r, rest)
				return len(p), nil
			}
			level = rule.level
			break
		}
	}
	r.say(level, "memberlist: "+text)
	return len(p), nil
}

// splitLevel reads "[WARN] memberlist: text". What has no level is debug:
// memberlist gives one to everything that matters.
func splitLevel(s string) (slog.Level, string) {
	level := slog.LevelDebug
	if rest, ok := strings.CutPrefix(s, "["); ok {
		if word, rest, ok := strings.Cut(rest, "] "); ok {
			s = rest
			switch word {
			case "WARN", "ERR", "ERROR":
				// An error of gossip is seldom one of the node: it goes on.
				level = slog.LevelWarn
			case "INFO":
				level = slog.LevelInfo
			}
		}
	}
	return level, strings.TrimPrefix(s, "memberlist: ")
}

// relevelled are the lines of memberlist's that a person would misread: those
// that are part of every crash or restart, and those that say what is wrong in
// a way nobody acts on.
var relevelled = []struct {
	prefix string
	level  slog.Level
	say    func(r *relay, rest string)
}{
	{prefix: "Was able to connect to ", say: func(r *relay, rest string) {
		node, _, _ := strings.Cut(rest, " ")
		r.sayOnce(node, slog.LevelWarn, "a member answers over TCP but not over UDP: allow both, in both directions, on the gossip port of every member; until then news takes longer to spread",
			"member", node, "up to", r.pushPull.String())
	}},
	{prefix: "Refuting a suspect message (from: ", say: func(r *relay, rest string) {
		node := strings.TrimSuffix(rest, ")")
		r.sayOnce("", slog.LevelWarn, "another member got no answer from this node in time, suspected it dead and was told otherwise: harmless once; often, this node has too little CPU, the network loses packets, or the address it advertises cannot be reached",
			"member", node, "advertised", r.advertised)
	}},
	{prefix: "Refuting a dead message (from: ", say: func(r *relay, rest string) {
		node := strings.TrimSuffix(rest, ")")
		r.say(slog.LevelWarn, "the other members had declared this node dead, and were told otherwise: it was cut off, or got no CPU, for seconds",
			"event", "declared-dead", "member", node)
	}},
	{prefix: "Decrypt packet failed", say: func(r *relay, rest string) {
		from := after(rest, "from=")
		r.sayOnce(host(from), slog.LevelWarn, "gossip came that none of this node's keys decrypts: a stranger, or a member with another key", "from", from)
	}},
	{prefix: "discarding ", say: func(r *relay, rest string) {
		from := after(rest, "from=")
		r.sayOnce(host(from), slog.LevelWarn, "gossip of another cluster came to this node's port: check the seeds and the cluster name of its sender",
			"label", between(rest, `label "`, `"`), "from", from)
	}},
	{prefix: "Refuting an alive message", level: slog.LevelDebug},
	{prefix: "Stream connection", level: slog.LevelDebug},
	{prefix: "Suspect ", level: slog.LevelDebug},
	{prefix: "Marking ", level: slog.LevelDebug},
	{prefix: "Updating address", level: slog.LevelDebug},
	// The ends of a connection to a node that died, restarted or was refused,
	// which is reported by itself.
	{prefix: "ignoring alive message", level: slog.LevelDebug},
	{prefix: "Failed push/pull merge", level: slog.LevelDebug},
	{prefix: "Push/Pull with ", say: func(r *relay, rest string) {
		if node, why, _ := strings.Cut(rest, " failed: "); strings.Contains(why, noConnect) {
			r.sayOnce(node, slog.LevelWarn, "a member does not answer over TCP: unless it has just died, allow TCP and UDP, in both directions, on the gossip port of every member",
				"member", node)
		}
		r.say(slog.LevelDebug, "memberlist: Push/Pull with "+rest)
	}},
	{prefix: "failed to receive", level: slog.LevelDebug},
	{prefix: "Failed fallback TCP ping", level: slog.LevelDebug},
	{prefix: "Failed to send ", level: slog.LevelDebug},
	{prefix: "Failed to read remote state", level: slog.LevelDebug},
	{prefix: "Failed to push local state", level: slog.LevelDebug},
	{prefix: "Failed to forward ack", level: slog.LevelDebug},
	{prefix: "Failed to receive", level: slog.LevelDebug},
	// Somebody pings the node that had this address before.
	{prefix: "Got ping for unexpected node", level: slog.LevelDebug},
}

func after(s, mark string) string {
	_, rest, _ := strings.Cut(s, mark)
	return rest
}

func between(s, left, right string) string {
	middle, _, _ := strings.Cut(after(s, left), right)
	return middle
}

// host drops the port, which a sender of streams changes each time.
func host(address string) string {
	if i := strings.LastIndexByte(address, ':'); i >= 0 {
		return address[:i]
	}
	return address
}
