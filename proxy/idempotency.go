package proxy

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"sync"
	"time"

	"github.com/dunglas/httpsfv"

	"lanekeeper/peer"
	"lanekeeper/proxy/idempotency"
)

// A request may carry a name of its own, an Idempotency-Key, with which its client
// asks for it to be run once however often it is sent. It is looked up in the
// request's turn, where no other request of the key runs: so of two that come at
// once the later one finds what became of the first. What was not executed leaves
// no trace; a response that is worth repeating is kept and replayed; and where
// nobody knows, nobody guesses.
//
// Only exclusive requests have names: what may run beside others may run twice.

// Idempotency is how a route's requests are kept from running twice.
type Idempotency struct {
	Mode   IdempotencyMode
	Header string // that has the name
	Store  string // of records, among Config.Records

	TTL      time.Duration // how long a request is remembered
	Lease    time.Duration // of a claim in a store that outlives this process
	MaxEntry int           // bytes of a response that are kept

	StoreAway  StoreAway
	Concurrent Concurrent
	Unknown    UnknownOutcome

	Print        Print    // what of two requests must be the same
	ScopeHeaders []string // headers by which callers are told apart
	Replay       Statuses // the responses that are kept; other requests are as if they had never come
}

// IdempotencyMode is whether requests have names.
type IdempotencyMode uint8

// The modes of idempotency.
const (
	IdempotencyNone     IdempotencyMode = iota
	IdempotencyOptional                 // a request without a name runs as it is
	IdempotencyRequired                 // it is refused: 400
)

// StoreAway is what becomes of a request while the store of records does not answer.
type StoreAway uint8

// The policies for a store that is away.
const (
	RefuseUnrecorded StoreAway = iota // 503 idempotency-store-away
	RunUnrecorded                     // it runs, perhaps once more, and is counted
)

// Concurrent is what becomes of a request whose like is on its way.
type Concurrent uint8

// The policies for duplicates.
const (
	AwaitOutcome   Concurrent = iota // it waits, and gets the same answer
	ConflictAtOnce                   // 409 idempotency-in-progress
)

// UnknownOutcome is what becomes of a request whose like was sent without an answer.
type UnknownOutcome uint8

// The policies after an unknown outcome.
const (
	ConflictOnUnknown UnknownOutcome = iota // 409 idempotency-outcome-unknown
	ExecuteAgain                            // the upstream is known to look for itself
)

// Print is a set of parts of a request.
type Print uint8

// The parts of a request that a Print may have.
const (
	PrintMethod Print = 1 << iota
	PrintPath
	PrintQuery
	PrintContentType
	PrintBody
)

const headerReplayed = "Idempotent-Replayed"

// nameMax is the longest name, in bytes.
const nameMax = 255

// identity is a request's name, on its way through a node.
type identity struct {
	peer.Identity
	rule    *Idempotency
	entered bool // among Proxy.names
	behind  bool // another of its name was on its way when it came
}

// identify finds the request's name.
func (c *call) identify() *problem {
	rule := &c.route.Idempotency
	if rule.Mode == IdempotencyNone || c.mode != exclusive {
		return nil
	}
	value, lines, doubt := field(&c.ctx.Request.Header, rule.Header)
	switch {
	case doubt != "":
		return invalidIdempotencyKey.because(fmt.Sprintf("header %s %s", rule.Header, doubt))
	case lines == 0 && rule.Mode == IdempotencyRequired:
		return idempotencyKeyMissing.because(fmt.Sprintf("this route wants header %s: a name that the client gives to the request, and repeats when it sends it again", rule.Header))
	case lines == 0:
		return nil
	}
	name, err := parseName(string(value))
	if err != nil {
		return invalidIdempotencyKey.because(fmt.Sprintf("header %s: %v", rule.Header, err))
	}
	c.identity = &identity{Identity: peer.Identity{ID: c.idOf(name, false), Print: c.print()}, rule: rule}
	return nil
}

// parseName reads a name as draft-ietf-httpapi-idempotency-key-header-07 wants it,
// a string of RFC 9651, or bare, as most clients send it. Both forms of a name are
// the same.
func parseName(value string) (string, error) {
	if len(value) > 0 && value[0] == '"' {
		item, err := httpsfv.UnmarshalItem([]string{value})
		name, isString := item.Value.(string)
		if err != nil || !isString {
			return "", errors.New("it begins like a quoted string, and is none")
		}
		value = name
	}
	switch {
	case value == "":
		return "", errors.New("it is empty")
	case len(value) > nameMax:
		return "", fmt.Errorf("it has %d bytes; at most %d are allowed", len(value), nameMax)
	}
	for i := range len(value) {
		if value[i] < 0x21 || value[i] > 0x7e {
			return "", errors.New("it has bytes that are not visible ASCII")
		}
	}
	return value, nil
}

// idOf hashes what makes two requests one. One caller never sees another's
// response: those that ScopeHeaders tell apart have names of their own. A name that is
// made of a request's number is none that a client may give.
func (c *call) idOf(name string, ofNumber bool) (id [32]byte) {
	h := sha256.New()
	if ofNumber {
		part(h, []byte("number"))
	}
	part(h, []byte(c.route.Name))
	part(h, c.key)
	part(h, []byte(name))
	for _, header := range c.route.Idempotency.ScopeHeaders {
		lines := c.ctx.Request.Header.PeekAll(header)
		count(h, len(lines))
		for _, line := range lines {
			part(h, line)
		}
	}
	return [32]byte(h.Sum(id[:0]))
}

// print hashes what the request asks for.
func (c *call) print() (print [32]byte) {
	parts, h := c.route.Idempotency.Print, sha256.New()
	header := &c.ctx.Request.Header
	for _, p := range []struct {
		part  Print
		value []byte
	}{
		{PrintMethod, header.Method()}, {PrintPath, c.path}, {PrintQuery, c.query},
		{PrintContentType, header.ContentType()}, {PrintBody, c.ctx.Request.Body()},
	} {
		if parts&p.part != 0 {
			part(h, p.value)
		}
	}
	return [32]byte(h.Sum(print[:0]))
}

// part adds a value with its length, so that no two lists of values are one text.
func part(h hash.Hash, value []byte) {
	count(h, len(value))
	h.Write(value) //nolint:errcheck // a hash takes everything
}

func count(h hash.Hash, n int) {
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(n))) //nolint:errcheck,gosec // a hash takes everything; a length
}

// names counts the requests on their way by their names.
type names struct {
	mu     sync.Mutex // guards counts
	counts map[[32]byte]int
}

// errInProgress refuses a request whose like is on its way.
var errInProgress = errors.New("proxy: a request of this name is on its way")

// enterName counts the request among those of its name that wait or run here, or
// refuses it.
func (c *call) enterName() error {
	name := c.identity
	if name == nil || name.entered {
		return nil
	}
	n := &c.proxy.names
	n.mu.Lock()
	defer n.mu.Unlock()
	name.behind = n.counts[name.ID] > 0
	if name.behind || !c.isNew() {
		c.place.Effect = c.place.Effect.Passive()
	}
	if name.behind && name.rule.Concurrent == ConflictAtOnce {
		return errInProgress
	}
	n.counts[name.ID]++
	name.entered = true
	return nil
}

// isNew reports whether the request is certainly none that was sent before. A repetition
// is no later request: it must not supersede those that came after the first. A store that
// would have to be asked is taken to know it.
func (c *call) isNew() bool {
	store, canTell := c.config.Records[c.identity.rule.Store].(interface{ Knows(idempotency.ID) bool })
	return canTell && !store.Knows(c.identity.ID)
}

func (c *call) leaveName() {
	name := c.identity
	if name == nil || !name.entered {
		return
	}
	name.entered = false
	n := &c.proxy.names
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.counts[name.ID]--; n.counts[name.ID] == 0 {
		delete(n.counts, name.ID)
	}
}

// onceOrNot runs the request in its turn.
func (c *call) onceOrNot() *problem {
	if c.identity != nil {
		return c.once()
	}
	return c.execute()
}

// once runs the request in its turn, unless one of its name has been.
func (c *call) once() *problem {
	run, problem := c.claim()
	if run == nil {
		return problem
	}
	c.claimed = run
	defer c.lose() // a panic: what was sent is not known
	problem = c.execute()
	c.keep(problem)
	return problem
}

// lose notes that nobody will know what became of the request, unless it has been noted
// what did. Whoever has the next turn looks for it: so this comes before the turn is
// passed on.
func (c *call) lose() {
	if run := c.claimed; run != nil {
		c.claimed = nil
		c.complain(run.Lose(context.Background()))
	}
}

// claim returns a Run if the request is to run; else the request is answered, or
// there is a problem.
func (c *call) claim() (idempotency.Run, *problem) {
	rule := c.identity.rule
	r := idempotency.Request{
		ID: c.identity.ID, Print: c.identity.Print, Partition: c.place.Partition, Key: c.key,
		Lease: rule.Lease, TTL: rule.TTL, MaxEntry: rule.MaxEntry, Again: rule.Unknown == ExecuteAgain,
	}
	store := c.config.Records[rule.Store]
	if store == nil {
		return nil, notReady.because("the key's owner keeps no records of this route's requests: the nodes' configurations differ")
	}
	until := time.Now().Add(c.patience)
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		run, record, err := store.Begin(context.Background(), &r)
		switch {
		case err != nil:
			return c.unclaimed(err)
		case run != nil:
			c.named("first")
			return run, nil
		case record.Print != r.Print:
			c.named("mismatch")
			return nil, idempotencyKeyReused.because("a request of this name asked for something else: " + fingerprintHelp)
		case record.State == idempotency.Done:
			return nil, c.replay(&record.Reply)
		case record.State == idempotency.Unknown:
			c.named("unknown")
			return nil, idempotencyOutcomeUnknown.because("a request of this name was sent to the upstream, and nobody can tell what became of it; look there before you send it under a new name")
		case rule.Concurrent == ConflictAtOnce || !time.Now().Add(pause).Before(until):
			c.named("conflict")
			return nil, idempotencyInProgress.after(record.Until, "a request of this name is being run")
		}
		// Its claim is another node's, which owned the key before.
		c.identity.behind = true
		time.Sleep(pause)
	}
}

const fingerprintHelp = "a name is for one request and its repetitions, which are the same in every part that the route compares"

// A request looks for the end of another node's claim after firstPause, and then
// more and more rarely: it stands still in its turn, which costs its own key alone.
const (
	firstPause = 10 * time.Millisecond
	lastPause  = 250 * time.Millisecond
)

// unclaimed is for a request of which the store says nothing.
func (c *call) unclaimed(err error) (idempotency.Run, *problem) {
	rule := c.identity.rule
	if errors.Is(err, idempotency.ErrFull) {
		return nil, overloaded.because("the records of requests with an idempotency key are at their limit")
	}
	c.proxy.metrics.storeErrors.WithLabelValues(rule.Store).Inc()
	c.proxy.log.Warn("the store of idempotency records does not answer", "event", "idempotency-store-away", "route", c.route.Name, "store", rule.Store, "err", err)
	if rule.StoreAway == RunUnrecorded {
		c.named("unrecorded")
		return unrecorded{}, nil
	}
	return nil, idempotencyStoreAway.because("nobody can tell whether a request of this name has been run")
}

// unrecorded is the Run of a request that runs without a record.
type unrecorded struct{}

func (unrecorded) Finish(context.Context, idempotency.Reply) error { return nil }
func (unrecorded) Lose(context.Context) error                      { return nil }
func (unrecorded) Forget(context.Context) error                    { return nil }

// keep notes what became of the request, before its turn ends. What cannot be noted
// ends as unknown, with its claim.
func (c *call) keep(problem *problem) {
	run := c.claimed
	if run == nil {
		return // its lane is held
	}
	c.claimed = nil
	var err error
	response := &c.ctx.Response
	switch {
	case problem != nil && problem.executed == unknown:
		err = run.Lose(context.Background())
	case problem != nil, !c.identity.rule.Replay.Has(response.StatusCode()):
		err = run.Forget(context.Background())
	default:
		err = run.Finish(context.Background(), c.reply())
	}
	c.complain(err)
}

// lastWord keeps an answer of lanekeeper's own as the last word on a request that will
// never run: sent again, it would. If one of its name has run, or runs, what became of
// that is the answer instead, for the client means the same one. Where nobody can tell, this
// request has not run all the same.
func (c *call) lastWord(answer *problem) *problem {
	if c.identity == nil {
		return answer
	}
	run, problem := c.claim()
	switch {
	case run != nil:
		answer.write(&c.ctx.Response, c.about())
		c.complain(run.Finish(context.Background(), c.reply()))
	case problem == nil:
		c.answered = true
		return nil
	case problem.kind != overloaded && problem.kind != idempotencyStoreAway && problem.kind != notReady:
		return problem
	}
	return answer
}

// forget frees the name of a request that was not executed.
func (c *call) forget(run idempotency.Run) { c.complain(run.Forget(context.Background())) }

func (c *call) complain(err error) {
	if err == nil {
		return
	}
	store := c.identity.rule.Store
	c.proxy.metrics.storeErrors.WithLabelValues(store).Inc()
	c.proxy.log.Warn("what became of a request could not be recorded; sent again, its outcome is unknown", "event", "idempotency-unrecorded",
		"route", c.route.Name, "store", store, "ticket", c.id.String(), "err", err)
}

// reply is the response as it is kept. One that streams is not.
func (c *call) reply() idempotency.Reply {
	response := &c.ctx.Response
	if c.later {
		return idempotency.Reply{Status: response.StatusCode(), Bare: true}
	}
	body := response.Body()
	return idempotency.Reply{Status: response.StatusCode(), Head: c.responseHead(len(body)), Body: body}
}

// replay answers with what another request of the name was answered.
func (c *call) replay(reply *idempotency.Reply) *problem {
	if reply.Bare {
		c.named("conflict")
		return idempotencyNotReplayable.because(fmt.Sprintf("a request of this name was answered with status %d and a response too large to be kept", reply.Status))
	}
	response := &c.ctx.Response
	if err := readHead(&response.Header, reply.Head); err != nil {
		return internalError.because("a record cannot be read: " + err.Error())
	}
	response.Header.ResetConnectionClose() // a head without a length seems to say so
	response.Header.Set(headerReplayed, "true")
	if c.ctx.IsHead() || bodiless(response.StatusCode()) {
		response.SkipBody = true
	} else {
		response.SetBodyRaw(reply.Body)
	}
	if c.identity.behind {
		c.named("waited")
	} else {
		c.named("replayed")
	}
	return nil
}

// named counts what a request's name led to.
func (c *call) named(result string) {
	c.proxy.metrics.idempotency.WithLabelValues(c.route.Name, result).Inc()
}
