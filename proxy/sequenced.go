package proxy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"lanekeeper/peer"
	"lanekeeper/proxy/sequence"
	"lanekeeper/queue"
)

// A producer may number its requests for a key, and then they run in the order of
// their numbers, whatever way they came. Each takes its place as it comes; in its
// turn, where no other request of the key runs, it is asked whether its number is the
// next one. If others are missing before it, it gives its turn back and is held,
// where it keeps nobody waiting, until there is news or its time is up.

// Sequence is how a route's requests are put into their producers' order.
type Sequence struct {
	Mode     SequenceMode
	Store    string        // of the marks, among Config.MarkStores, and of the answers that are replayed, among Config.Records
	AnyStart bool          // a producer may begin with any number
	GapWait  time.Duration // how long a request waits for those before it
	MaxHeld  int           // requests of a key that wait so
	Replay   bool          // a number that is done is answered as it was; else 409
	TTL      time.Duration // how long a producer is remembered, from its last request
}

// SequenceMode is whether requests have numbers.
type SequenceMode uint8

// The modes of sequence numbers.
const (
	SequenceNone     SequenceMode = iota
	SequenceOptional              // a request without a number runs as it comes
	SequenceRequired              // it is refused: 400
)

const (
	headerProducer = "Lanekeeper-Producer"
	headerSeq      = "Lanekeeper-Seq"
)

// sequenced is a request's number, on its way through a node.
type sequenced struct {
	sequence.Number
	named bool      // its identity is made of it
	runs  bool      // until it has been noted what became of it
	until time.Time // when it has been held for long enough; zero: it has not been held
}

// number finds the request's number.
func (c *call) number() *problem {
	rule := &c.route.Sequence
	if rule.Mode == SequenceNone || c.mode != exclusive {
		return nil
	}
	h := &c.ctx.Request.Header
	producer, producers, doubt := field(h, headerProducer)
	text, numbers, also := field(h, headerSeq)
	switch {
	case doubt+also != "":
		return invalidSequence.because(headerProducer + " or " + headerSeq + " " + doubt + also)
	case producers == 0 && numbers == 0 && rule.Mode == SequenceOptional:
		return nil
	case producers == 0 || numbers == 0:
		return invalidSequence.because("this route's requests carry both " + headerProducer + " and " + headerSeq)
	}
	n, err := parseNumber(string(producer), string(text))
	if err != nil {
		return invalidSequence.because(err.Error())
	}
	c.sequence = &sequenced{Number: n}
	if rule.Replay && c.identity == nil {
		c.sequence.named = true
		name := fmt.Sprintf("%s;epoch=%d;seq=%d", n.Producer, n.Epoch, n.Seq)
		c.identity = &identity{Identity: peer.Identity{ID: c.idOf(name, true)}, rule: &c.route.ofNumbers}
	}
	return nil
}

// producerMax is the longest name of a producer, in bytes.
const producerMax = 64

func parseNumber(producer, text string) (n sequence.Number, err error) {
	name, epoch, hasEpoch := strings.Cut(producer, ";epoch=")
	if hasEpoch {
		if n.Epoch, err = strconv.ParseUint(epoch, 10, 63); err != nil || epoch[0] == '+' {
			return n, fmt.Errorf("%s: the epoch is a number up to 2^63-1", headerProducer)
		}
	}
	if name == "" || len(name) > producerMax || strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") != "" {
		return n, fmt.Errorf("%s: it is 1 to %d letters, digits, dots, hyphens and underscores, and perhaps ;epoch=N", headerProducer, producerMax)
	}
	n.Producer = name
	if n.Seq, err = strconv.ParseUint(text, 10, 63); err != nil || n.Seq == 0 || text[0] == '+' {
		return n, fmt.Errorf("%s: it is a number from 1", headerSeq)
	}
	return n, nil
}

// takeTurns is takeTurn, again if the request's key has another owner by its turn: its
// number keeps its place.
func (c *call) takeTurns() *problem {
	for tries := 1; ; tries++ {
		problem := c.takeTurn()
		if problem == nil || c.sequence == nil || problem.kind != ownershipMoved || tries == turnsMax || !time.Now().Before(c.arrived.Add(c.patience)) {
			return problem
		}
		c.owner = ""
	}
}

// turnsMax is how many owners a numbered request is taken to.
const turnsMax = 4

// inSequence runs the request in its turn if it is its number's, or in a later one.
func (c *call) inSequence() *problem {
	rule, marks := &c.route.Sequence, c.config.Marks
	if rule.Mode == SequenceNone {
		return notReady.because("the key's owner keeps no producers' order on this route: the nodes' configurations differ")
	}
	for {
		if problem := c.recall(); problem != nil {
			return problem
		}
		n := c.sequence.Number
		verdict, done := marks.Judge(c.place.Partition, c.key, n, rule.AnyStart)
		switch verdict {
		case sequence.Next:
			if err := marks.Begin(c.place.Partition, c.key, n); err != nil {
				return marksFull()
			}
			return c.runNext()
		case sequence.Done:
			return c.ranBefore(done)
		case sequence.Fenced:
			c.numbered("fenced")
			return sequenceFenced.because(fmt.Sprintf("producer %s has begun an epoch after %d", n.Producer, n.Epoch))
		}
		if problem := c.holdForGap(verdict, done); problem != nil || c.answered {
			return problem
		}
	}
}

// runNext runs a request whose number is the next one.
func (c *call) runNext() *problem {
	c.numbered("next")
	c.sequence.runs = true
	defer c.done() // a panic: it may have been run
	problem := c.onceOrNot()
	if !c.ran(problem) {
		c.sequence.runs = false
	}
	return problem
}

// done notes that the request's number is done, once, and before its turn is passed on:
// else who comes next finds it to be the next one still, and who comes after a crash too.
func (c *call) done() {
	if n := c.sequence; n != nil && n.runs {
		n.runs = false
		c.config.Marks.Ran(c.place.Partition, c.key, n.Number, c.route.Sequence.TTL)
		c.save()
	}
}

// ran reports whether the request is over and done with: it was answered for good, or
// nobody can tell. After anything else its producer had better send it again.
func (c *call) ran(problem *problem) bool {
	if problem != nil {
		// The answer that was not kept is of a node that crashed before it saved the mark.
		return problem.executed == unknown || problem.kind == idempotencyNotReplayable
	}
	return c.route.ofNumbers.Replay.Has(c.ctx.Response.StatusCode())
}

// ranBefore answers a request whose number is done.
func (c *call) ranBefore(done uint64) *problem {
	if c.identity != nil {
		run, problem := c.claim()
		if run == nil {
			c.numbered("replayed")
			return problem
		}
		c.forget(run)
	}
	c.numbered("done")
	return sequenceDone.because(fmt.Sprintf("number %d of producer %s was run; the last one was %d", c.sequence.Seq, c.sequence.Producer, done))
}

// holdForGap gives the turn back and waits for those before the request; it ends in
// another turn, or with an answer.
func (c *call) holdForGap(verdict sequence.Verdict, done uint64) *problem {
	rule, number := &c.route.Sequence, c.sequence
	if number.until.IsZero() {
		number.until = earlier(time.Now().Add(rule.GapWait), c.arrived.Add(c.patience))
		c.numbered("held")
	}
	held, err := c.config.Marks.Hold(c.place.Partition, c.key, rule.MaxHeld)
	if err != nil {
		return c.gap(verdict, done, fmt.Sprintf("%d others wait for theirs already", rule.MaxHeld))
	}
	held.For(number.Number, done)
	if !c.proxy.lanes.Reserve(c.place.Bytes) {
		held.Leave()
		return overloaded.because("the node's limit of waiting requests or their bytes is reached")
	}
	c.turn = false
	c.endTurn()
	var problem *problem
	if !c.proxy.lanes.IsSealed(c.place.Partition) {
		if problem = c.awaitNews(held.News); problem == errNoNews {
			problem = c.gap(verdict, done, fmt.Sprintf("they have not come in %s", rule.GapWait))
		}
	}
	held.Leave()
	c.proxy.lanes.Free(c.place.Bytes)
	if problem != nil {
		return problem
	}
	c.place.ID = queue.ID{}
	if c.from != nil {
		return c.turnAgain()
	}
	return c.takeTurns()
}

// errNoNews is that of awaitNews when the time is up.
var errNoNews = sequenceGap.because("")

// awaitNews returns nil if there is any in time, and while the client is there.
func (c *call) awaitNews(news <-chan struct{}) *problem {
	skips := c.from == nil && c.lane.ClientGone == Skip
	for look := firstLook; ; look = min(2*look, lastLook) {
		until := c.sequence.until
		if skips {
			until = earlier(until, time.Now().Add(look))
		}
		timer := time.NewTimer(time.Until(until))
		select {
		case <-news:
			timer.Stop()
			return nil
		case <-c.proxy.stopping:
			timer.Stop()
			return draining.because(ErrStopping.Error())
		case <-timer.C:
		}
		if skips && hungUp(c.ctx.Conn()) {
			return clientGone.because("")
		}
		if !time.Now().Before(c.sequence.until) {
			return errNoNews
		}
	}
}

// turnAgain takes a new place for a request that another node accepted. It keeps its
// name, and waits here.
func (c *call) turnAgain() *problem {
	c.ticket, c.place.ID = &c.own, c.id
	err := c.proxy.lanes.Admit(c.ticket, &c.place)
	switch {
	case errors.Is(err, queue.ErrSealed):
		return ownershipMoved.because("its key has another owner")
	case err != nil:
		return c.notAdmitted(err)
	}
	deadline := c.arrived.Add(c.patience)
	for {
		switch err := c.ticket.Wait(deadline); {
		case err == nil:
			c.turn = true
			return nil
		case !errors.Is(err, queue.ErrNotYet):
			return c.ended(err)
		case c.ticket.Leave():
			return laneTimeout.because(fmt.Sprintf("it waited %s", c.patience))
		}
	}
}

// gap answers a request before which others are missing.
func (c *call) gap(verdict sequence.Verdict, done uint64, why string) *problem {
	n := c.sequence
	if verdict == sequence.Unknown {
		c.numbered("unknown")
		return sequenceUnknown.because(fmt.Sprintf("nothing is known of producer %s for this key, and it begins with 1: number %d came first, or the marks were lost", n.Producer, n.Seq))
	}
	c.numbered("gap")
	missing := fmt.Sprintf("number %d is", done+1)
	if done+2 < n.Seq {
		missing = fmt.Sprintf("numbers %d to %d are", done+1, n.Seq-1)
	}
	return sequenceGap.because(fmt.Sprintf("%s missing before number %d of producer %s, and %s", missing, n.Seq, n.Producer, why))
}

// numbered counts what a request's number led to.
func (c *call) numbered(result string) {
	c.proxy.metrics.sequence.WithLabelValues(c.route.Name, result).Inc()
}
