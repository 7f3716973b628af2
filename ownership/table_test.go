package ownership

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"lanekeeper/ring"
)

// These tests look at single transitions, above all at those whose absence would
// cost time but no promise, so that no exploration can miss them.

var (
	ma = ring.Member{Name: "a", Incarnation: 1}
	mb = ring.Member{Name: "b", Incarnation: 2}
	mc = ring.Member{Name: "c", Incarnation: 3}
)

// bench is one table of member a, with the lanes of three keys: x and y in
// partition 0, z in partition 1.
type bench struct {
	*Table
	t     *testing.T
	lanes *testLanes
}

func newBench(t *testing.T, state Sections) *bench {
	l := newTestLanes(2)
	return &bench{Table: NewTable(ma, 2, l, state), t: t, lanes: l}
}

// sees gives the table a view in which everybody lives, and who should own both
// partitions.
func (b *bench) sees(target ring.Member, others ...ring.Member) {
	b.View(View{Live: append([]ring.Member{ma}, others...), Targets: []ring.Member{target, target}, Enough: true})
}

// meets has it hear of others, and claim both partitions.
func (b *bench) meets(others ...ring.Member) {
	b.sees(ma, others...)
	for _, m := range others {
		b.reads(m)
	}
}

// reads gives it a message.
func (b *bench) reads(from ring.Member, entries ...Entry) { b.Receive(from, Message{Entries: entries}) }

// said returns what it has said about partition 0 since it was last asked, as
// "b:Claim".
func (b *bench) said() string {
	var said []string
	for _, out := range b.Take() {
		for _, e := range out.Message.Entries {
			if partitionOf(e) <= 0 {
				said = append(said, fmt.Sprintf("%s:%s", out.To.Name, strings.TrimPrefix(fmt.Sprintf("%T", e), "ownership.")))
			}
		}
	}
	return strings.Join(said, " ")
}

// give returns the last Give that it has said.
func (b *bench) give() (give Give) {
	for _, out := range b.Take() {
		for _, e := range out.Message.Entries {
			if g, ok := e.(Give); ok {
				give = g
			}
		}
	}
	return give
}

// owning is a bench that owns both partitions, and knows b and c, which have
// heard of it.
func owning(t *testing.T) *bench {
	b := newBench(t, nil)
	b.sees(ma)
	b.sees(ma, mb, mc)
	b.said()
	return b
}

func (b *bench) want(what, got, want any) {
	b.t.Helper()
	if !reflect.DeepEqual(got, want) {
		b.t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// TestAlone: a node that sees nobody else owns what it should at once.
func TestAlone(t *testing.T) {
	b := newBench(t, nil)
	b.want("before a view", b.Counts(), Counts{})
	b.sees(ma)
	b.want("owned", b.Counts().Owned, 2)
	b.want("open", b.lanes.open, []bool{true, true})
	b.want("changes", b.Changed(), []Change{{0, Owned, Route{ma, 1}}, {1, Owned, Route{ma, 1}}})
	b.want("changes again", b.Changed(), []Change(nil))
	b.want("idle", b.Counts().Idle(), false)
}

// TestNewcomerWaitsToBeKnown: a node claims nothing before everybody it sees has
// sent it something, or has had the time to.
//
// Mutants: "unknown nodes claim", "a mute member is waited for without end".
func TestNewcomerWaitsToBeKnown(t *testing.T) {
	b := newBench(t, nil)
	b.sees(ma, mb, mc)
	b.want("unknown", b.said(), "")
	b.want("silent", b.State(0).Silent, []ring.Member{mb, mc})
	b.reads(mb)
	b.want("known to one", b.said(), "")
	b.reads(mc)
	b.want("known to all", b.said(), "b:Claim c:Claim")

	b = newBench(t, nil)
	b.sees(ma, mb, mc)
	b.reads(mb)
	for range patience {
		b.Retry()
		b.want("before patience ends", b.said(), "")
	}
	b.Retry()
	b.want("after patience ended", b.said(), "b:Claim c:Claim")
}

// TestGiveWaits: while a partition is on its way to a live member, the claim of a
// third is not answered: the taker can give it on, and needs nobody's answer.
//
// Mutants: "a giver answers at once", "anybody is given".
func TestGiveWaits(t *testing.T) {
	b := owning(t)
	b.sees(mb, mb, mc)
	b.reads(mc, Claim{0, 1})
	b.want("to who is not the target", b.said(), "")
	b.reads(mb, Claim{0, 1})
	b.want("to the target", b.said(), "b:Give")
	b.reads(mc, Claim{0, 1})
	b.want("to a third", b.said(), "")
	b.want("giving", b.Counts().Giving, 1)
	b.reads(mb, Taken{Partition: 0, Number: 1})
	b.want("after the receipt", b.said(), "c:Answer")
}

// TestReturnedGive: a partition that was not taken is the giver's again, in a
// higher epoch, with its old tickets first.
//
// Mutant: "a returned partition stays away".
func TestReturnedGive(t *testing.T) {
	b := owning(t)
	b.lanes.admit(0, 1)
	b.lanes.admit(0, 2)
	b.sees(mb, mb, mc)
	b.reads(mb, Claim{0, 1})
	b.want("draining", b.Counts().Draining, 1)
	b.want("route", b.State(0).Route, Route{mb, 2})
	b.said()
	b.reads(mb, Taken{Partition: 0, Number: 99, Returned: true})
	b.want("another number", b.State(0).Role, Foreign)
	b.reads(mb, Taken{Partition: 0, Number: 1, Returned: true})
	b.want("role", b.State(0).Role, Owned)
	b.want("route", b.State(0).Route, Route{ma, 3})
	b.want("said", b.said(), "b:Held c:Held")
	b.want("draining", b.Counts().Draining, 0)
	b.want("lane", b.lanes.lanes[0].queue, []int{1, 2})
	b.reads(mb, Claim{0, 2})
	b.want("claimed again", b.said(), "b:Give")
}

// TestKeptGiveEndsWhenStandingBack: what was given to a member that died is not
// given to it again once another has been answered.
//
// Mutant: "a Give outlives standing back".
func TestKeptGiveEndsWhenStandingBack(t *testing.T) {
	b := owning(t)
	b.sees(mb, mb, mc)
	b.reads(mb, Claim{0, 1})
	b.sees(mc, mc)
	b.reads(mc, Claim{0, 1})
	b.want("said", b.said(), "b:Give c:Answer")
	b.sees(mb, mb, mc) // it was not dead
	b.said()
	b.Up(mb)
	b.want("after it is back", b.said(), "b:Again")
}

// TestStandingBackBinds: who has stood back asks to be released before it claims;
// word of the claimant, its ownership and its death release as well.
//
// Mutants: "Held does not release", "death does not release", "any round
// releases".
func TestStandingBackBinds(t *testing.T) {
	stoodBack := func(t *testing.T) *bench {
		b := newBench(t, nil)
		b.sees(mb, mb, mc)
		b.reads(mb, Claim{0, 7})
		b.want("answer", b.said(), "b:Answer")
		b.reads(mc)
		return b
	}
	b := stoodBack(t)
	b.sees(ma, mb, mc)
	b.want("asks", b.said(), "b:Release")
	b.want("silent", b.State(0).Silent, []ring.Member{mb})
	b.Up(mb)
	b.want("asks again", b.said(), "b:Again b:Release")
	b.Up(mc)
	b.want("asks nobody else", b.said(), "c:Again")
	b.reads(mb, Released{0, 6})
	b.want("another round", b.said(), "")
	b.reads(mb, Released{0, 7})
	b.want("claims", b.said(), "b:Claim c:Claim")

	b = stoodBack(t)
	b.reads(mb, Held{Partition: 0, Epoch: 1, Number: 7})
	b.sees(ma, mb, mc)
	b.want("after Held", b.said(), "b:Claim c:Claim")

	b = stoodBack(t)
	b.sees(ma, mc)
	b.want("after its death", b.said(), "c:Claim")

	b = stoodBack(t)
	b.reads(mb, Claim{0, 8}) // its next round
	b.sees(ma, mb, mc)
	b.said()
	b.reads(mb, Released{0, 7})
	b.want("released from a round before", b.said(), "")
}

// claiming is a bench in its first round of claims for partition 0.
func claiming(t *testing.T) *bench {
	b := newBench(t, nil)
	b.View(View{Live: []ring.Member{ma, mb, mc}, Targets: []ring.Member{ma, {}}, Enough: true})
	b.reads(mb)
	b.reads(mc)
	b.want("claims", b.said(), "b:Claim c:Claim")
	return b
}

// TestAnswersCountForTheirRound: an answer counts in the round that it answers,
// and no longer when its sender claims or asks to be released.
//
// Mutants: "answers of other rounds count", "who claims stands back", "who is
// released stands back".
func TestAnswersCountForTheirRound(t *testing.T) {
	b := claiming(t)
	b.reads(mb, Answer{Partition: 0, Number: 1})
	b.reads(mc, Answer{Partition: 0, Number: 2})
	b.want("another round", b.State(0).Role, Claiming)
	b.reads(mb, Claim{0, 1})
	b.want("b claims", b.said(), "b:Claim c:Claim")
	b.reads(mc, Answer{Partition: 0, Number: 2})
	b.want("c in the second round", b.State(0).Silent, []ring.Member{mb})
	b.reads(mc, Release{0, 2})
	b.want("c is released", b.said(), "b:Claim c:Claim c:Released")
	b.reads(mc, Release{0, 1})
	b.want("c is released once more", b.said(), "c:Released")
	b.reads(mb, Answer{Partition: 0, Number: 3, Heard: 41})
	b.reads(mc, Answer{Partition: 0, Number: 3, Heard: 12})
	b.want("all in one round", b.State(0).Route, Route{ma, 42})
}

// TestStrangersAreWaitedFor: nobody completes a round as long as there is a sign
// of a member that it can't ask, unless there is none any more for some retries.
func TestStrangersAreWaitedFor(t *testing.T) {
	md := ring.Member{Name: "d", Incarnation: 4}
	b := claiming(t)
	b.reads(mc, Answer{Partition: 0, Number: 1})
	b.Receive(mb, Message{Sees: []ring.Member{ma, mb, md, {Name: "a", Incarnation: 0}}, Entries: []Entry{Answer{Partition: 0, Number: 1}}})
	b.want("b sees a stranger", b.State(0).Silent, []ring.Member{md})
	for range patience {
		b.Retry()
		b.want("asks for fresh signs", b.said(), "b:Claim c:Claim")
		b.Receive(mb, Message{Sees: []ring.Member{md}, Entries: []Entry{Answer{Partition: 0, Number: 1}}})
	}
	b.Retry()
	b.want("a sign since", b.State(0).Role, Claiming)
	for range patience {
		b.Retry()
	}
	b.want("no sign for long", b.State(0).Role, Owned)

	b = claiming(t)
	b.reads(md, Again{})
	b.reads(mb, Answer{Partition: 0, Number: 1})
	b.reads(mc, Answer{Partition: 0, Number: 1})
	b.want("a message of a stranger", b.State(0).Role, Claiming)
	b.said()
	b.View(View{Live: []ring.Member{ma, mb, mc, md}, Targets: []ring.Member{ma, {}}, Enough: true})
	b.want("it comes into view", b.said(), "d:Claim")
	b.reads(md, Answer{Partition: 0, Number: 1})
	b.want("and answers", b.State(0).Role, Owned)
}

// TestStrangersOutOfSight: a stranger is gone when all who told of it have lost
// sight of it, and they say so at once to those who wait.
//
// Mutants: "a stranger outlives those who saw it", "one who loses sight speaks for
// all", "who loses sight is silent".
func TestStrangersOutOfSight(t *testing.T) {
	md := ring.Member{Name: "d", Incarnation: 4}
	answer := func(sees ...ring.Member) Message {
		return Message{Sees: append(sees, ma, mb, mc), Entries: []Entry{Answer{Partition: 0, Number: 1}}}
	}
	b := claiming(t)
	b.Receive(mb, answer(md))
	b.Receive(mc, answer(md))
	b.Receive(mb, answer())
	b.want("c sees it still", b.State(0).Silent, []ring.Member{md})
	b.Receive(mb, Message{Entries: []Entry{Again{}}})
	b.Receive(mc, answer())
	b.want("nobody sees it", b.State(0).Role, Owned)

	b = claiming(t)
	b.Receive(mb, answer(md))
	b.reads(md, Again{})
	b.Receive(mb, answer())
	b.Receive(mc, answer())
	b.want("it has spoken for itself", b.State(0).Silent, []ring.Member{md})

	b = newBench(t, nil)
	b.sees(mb, mb, mc, md)
	b.reads(mb, Claim{0, 7}, Claim{1, 8})
	b.want("stands back", b.said(), "b:Answer")
	b.sees(mb, mb, mc)
	b.want("says for one of them whom it sees", b.Take(), []Outgoing{{mb, Message{
		Sees: []ring.Member{ma, mb, mc}, Entries: []Entry{Answer{Partition: 0, Number: 7, Heard: 1}},
	}}})
}

// TestNewestListCounts: what a member lists replaces what it had listed before.
//
// Mutants: "lists add up", "a key that two run waits for one".
func TestNewestListCounts(t *testing.T) {
	b := claiming(t)
	b.reads(mb, Answer{Partition: 0, Number: 1, Keys: []string{"x"}})
	b.reads(mc, Answer{Partition: 0, Number: 1, Keys: []string{"x", "y"}})
	blocked := func() string {
		s := ""
		for k, ln := range b.lanes.lanes {
			if ln.blocked {
				s += testKeys[k].name
			}
		}
		return s
	}
	b.want("both listed", blocked(), "xy")
	b.reads(mc, Answer{Partition: 0, Number: 1, Keys: []string{"x"}})
	b.want("c lists less", blocked(), "x")
	b.reads(mc, KeyDone{Partition: 0, Key: "y"})
	b.reads(mc, KeyDone{Partition: 0, Key: "x"})
	b.want("c is done", blocked(), "x")
	b.reads(mc, KeyDone{Partition: 0, Key: "x"})
	b.want("c is done twice", blocked(), "x")
	b.reads(mb, Give{Partition: 0, Number: 1, Claim: 1, Epoch: 9, Keys: []string{"y"}})
	b.want("b was an owner too", blocked(), "y")
	b.sees(ma)
	b.want("both are dead", blocked(), "")
}

// TestBlocksBeforeItOpens: no request of a key that may run elsewhere gets in
// before it is blocked.
//
// Mutant: "opens before it blocks".
func TestBlocksBeforeItOpens(t *testing.T) {
	b := newBench(t, nil)
	b.Table.lanes = orderedLanes{b.lanes, func(open bool) {
		if open {
			t.Error("blocked after it was opened")
		}
	}}
	b.View(View{Live: []ring.Member{ma, mb}, Targets: []ring.Member{ma, {}}, Enough: true})
	b.reads(mb, Give{Partition: 0, Number: 1, Claim: 1, Epoch: 1, Keys: []string{"x"}})
	b.want("role", b.State(0).Role, Owned)
	b.want("waits", b.Counts().Waits, 1)
}

type orderedLanes struct {
	*testLanes
	block func(open bool)
}

func (l orderedLanes) Block(p int, key []byte) {
	l.block(l.open[p])
	l.testLanes.Block(p, key)
}

// TestAskedForDraining: whoever asks for a key that drains here will be told,
// also one that was told nothing before.
//
// Mutant: "who asks is not told".
func TestAskedForDraining(t *testing.T) {
	b := owning(t)
	b.lanes.admit(0, 1)
	b.sees(mb, mb, mc)
	b.reads(mb, Claim{0, 1})
	b.said()
	b.reads(mc, Ask{Partition: 0, Keys: []string{"x", "y"}})
	b.want("y does not run", b.said(), "c:KeyDone")
	b.lanes.finish(0, testKeys[0])
	b.Drained(0, []byte("x"))
	b.want("x has ended", b.said(), "b:KeyDone c:KeyDone")
	b.Drained(0, []byte("x"))
	b.want("told again", b.said(), "")
}

// TestTooFew: below the minimum a node owns nothing: what waits is sent away,
// what runs is listed in answers, and it claims anew when there are enough.
//
// Mutants: "too few own", "what runs is forgotten", "too few take".
func TestTooFew(t *testing.T) {
	b := owning(t)
	var cause error
	b.Table.lanes = evictingLanes{b.lanes, &cause}
	b.lanes.admit(0, 1)
	b.lanes.admit(0, 2)
	few := View{Live: []ring.Member{ma, mb}, Targets: []ring.Member{ma, ma}}
	b.View(few)
	b.want("owned", b.Counts(), Counts{Draining: 1})
	b.want("cause", cause, ErrTooFew)
	b.want("lane", b.lanes.lanes[0].queue, []int{1})
	b.want("said", b.said(), "")
	b.reads(mb, Give{Partition: 0, Number: 1, Claim: 100, Epoch: 9})
	b.want("is given", b.said(), "b:Taken")
	b.want("returned", b.Counts().Owned, 0)
	b.reads(mb, Claim{0, 1})
	for _, out := range b.Take() {
		b.want("answer", out.Message.Entries, []Entry{Answer{Partition: 0, Number: 1, Heard: 1, Keys: []string{"x"}, Begun: 1, Last: 1}})
		b.want("sees", out.Message.Sees, []ring.Member{ma, mb})
	}
	few.Enough = true
	b.View(few)
	b.want("enough again", b.said(), "b:Release")
	b.reads(mb, Released{0, 1})
	b.want("released", b.said(), "b:Claim")
}

type evictingLanes struct {
	*testLanes
	cause *error
}

func (l evictingLanes) EvictPartition(p int, cause error) int {
	*l.cause = cause
	return l.testLanes.EvictPartition(p, cause)
}

// TestStoodStill: a node that stood still gives up what another holds by now, and
// everything if it was taken for dead.
//
// Mutants: "old news deny", "who lost it does not deny", "the dead are confirmed", "the lonely are confirmed".
func TestStoodStill(t *testing.T) {
	b := owning(t)
	b.Confirm()
	b.want("asks one", b.said(), "b:Confirm")
	b.want("confirmed", b.Confirmed(), false)
	b.reads(mb, Confirmed{Partition: 0, Number: 9})
	b.reads(mc, Confirmed{Partition: 0, Number: 1, Denied: true})
	b.want("other answers", b.State(0).Role, Owned)
	b.AskAgain()
	b.want("asks the next", b.said(), "c:Confirm")
	b.sees(ma, mb)
	b.want("the next is gone", b.said(), "b:Confirm")
	b.reads(mb, Confirmed{Partition: 0, Number: 1, Denied: true}, Confirmed{Partition: 1, Number: 1})
	b.want("confirmed", b.Confirmed(), true)
	b.want("claims what it gave up", b.said(), "b:Claim")
	b.want("owned", b.Counts(), Counts{Owned: 1, Claiming: 1})
	b.sees(ma)
	b.Confirm()
	for range lonelyMost - 1 {
		b.AskAgain()
	}
	b.want("alone, and others were there", b.Confirmed(), false)
	b.said()
	b.sees(ma, mc)
	b.want("one is back", b.said(), "c:Again c:Confirm")
	b.sees(ma)
	b.AskAgain()
	b.want("alone for long", b.Confirmed(), true)

	b = newBench(t, nil)
	b.sees(ma)
	b.Confirm()
	b.want("alone, as ever", b.Confirmed(), true)

	for _, test := range []struct {
		what   string
		before func(b *bench)
		epoch  uint64
		denied bool
	}{
		{"knows no other", func(b *bench) { b.sees(mb, mb, mc) }, 1, false},
		{"knows the asker", func(b *bench) { b.sees(mb, mb, mc); b.reads(mb, Held{Partition: 0, Epoch: 3}) }, 3, false},
		{"knows another, later", func(b *bench) { b.sees(mb, mb, mc); b.reads(mc, Held{Partition: 0, Epoch: 3}) }, 2, true},
		{"knows another, earlier", func(b *bench) { b.sees(mb, mb, mc); b.reads(mc, Held{Partition: 0, Epoch: 3}) }, 4, false},
		{"owns it", func(b *bench) { b.sees(ma); b.sees(ma, mb) }, 1, true},
		{"has lost it", func(b *bench) {
			b.sees(mb, mb, mc)
			b.reads(mb, Held{Partition: 0, Epoch: 1, Number: 1})
			b.sees(ma)
			b.View(View{Targets: []ring.Member{ma, ma, ma}})
			b.sees(mb, mb, mc)
		}, 1, true},
		{"takes the asker for dead", func(b *bench) { b.sees(mc, mc) }, 1, true},
		{"has stood back for another", func(b *bench) { b.sees(mc, mb, mc); b.reads(mc, Claim{0, 1}) }, 1, true},
		{"has stood back for the asker", func(b *bench) { b.sees(mb, mb, mc); b.reads(mb, Claim{0, 1}) }, 1, false},
	} {
		b := newBench(t, nil)
		test.before(b)
		b.reads(mb) // now everybody has spoken to it
		b.reads(mc)
		b.Take()
		b.reads(mb, Confirm{Partition: 0, Number: 5, Epoch: test.epoch})
		var got []Entry
		for _, out := range b.Take() {
			got = append(got, out.Message.Entries...)
		}
		b.want(test.what, got, []Entry{Confirmed{Partition: 0, Number: 5, Denied: test.denied}})
	}
}

// TestEpochsAfterASplit: an owner that hears of a higher epoch than its own takes
// a higher one, since requests follow the highest.
//
// Mutant: "an owner stays behind".
func TestEpochsAfterASplit(t *testing.T) {
	b := newBench(t, nil)
	b.sees(mb, mb, mc)
	b.reads(mc, Held{Partition: 0, Epoch: 8})
	b.reads(mb, Held{Partition: 0, Epoch: 3, Number: 4})
	for _, out := range b.Take() {
		b.want("who knows better", out, Outgoing{mb, Message{Sees: []ring.Member{ma, mb, mc}, Entries: []Entry{Answer{Partition: 0, Number: 4, Heard: 8, Begun: 8}}}})
	}
	b = owning(t)
	b.reads(mb, Answer{Partition: 0, Number: b.parts[0].number, Heard: 8})
	b.want("route", b.State(0).Route, Route{ma, 9})
	b.want("said", b.said(), "b:Held c:Held")
}

// TestOwnersDoNotWaitForEachOther: what another owner still runs of an earlier
// tenure it has put into its present one, so nobody waits for that to end: the one
// that isn't the target gives at once, and the target demands it.
//
// Mutants: "two owners wait for each other", "an owner does not demand".
func TestOwnersDoNotWaitForEachOther(t *testing.T) {
	b := claiming(t)
	b.reads(mb, Answer{Partition: 0, Number: 1, Keys: []string{"x"}})
	b.reads(mc, Answer{Partition: 0, Number: 1})
	b.want("waits for b", b.Counts().Waits, 1)
	b.sees(mb, mb, mc)
	b.said()
	b.reads(mb, Claim{0, 1})
	b.want("b claims", b.said(), "")
	b.reads(mb, Held{Partition: 0, Epoch: 7, Number: 2})
	b.want("b owns it", b.said(), "b:Give")

	b = owning(t)
	b.reads(mb, Held{Partition: 0, Epoch: 7, Number: 2})
	b.want("the target says so", b.said(), "b:Held")
	b.reads(mb, Held{Partition: 0, Epoch: 7, Number: 2, Reply: true})
	b.want("and not for ever", b.said(), "")
}

// TestTheUnconfirmedGivesNothing: what a node that stood still takes for its own
// may be another's by now. If it gave it on there would be two owners.
//
// Mutant: "the unconfirmed give".
func TestTheUnconfirmedGivesNothing(t *testing.T) {
	b := owning(t)
	b.Confirm()
	b.sees(mb, mb, mc)
	b.said()
	b.reads(mb, Claim{0, 1})
	b.want("b claims", b.said(), "")
	b.reads(mb, Confirmed{Partition: 0, Number: 1})
	b.want("it is this node's", b.said(), "b:Held b:Give c:Held")
}

// TestTheUnconfirmedIsGivenItsPartition: whoever gives a partition to a node that
// stood still, and takes it for its own, has run later requests meanwhile. What
// waits there from before may not run behind them.
//
// Mutant: "what waited through a standstill runs".
func TestTheUnconfirmedIsGivenItsPartition(t *testing.T) {
	b := owning(t)
	var cause error
	b.Table.lanes = evictingLanes{b.lanes, &cause}
	b.Confirm()
	b.reads(mc, Give{Partition: 0, Number: 1, Epoch: 9})
	b.want("sent away because", cause, ErrTakenOver)
	b.want("route", b.State(0).Route, Route{ma, 9})
}

// TestNobodyIsKnownBeforeAView: a node that has been waiting for its first view, and
// has had messages, is as new as any when the view comes.
//
// Mutants: "known before a view", "waits count before a view".
func TestNobodyIsKnownBeforeAView(t *testing.T) {
	b := newBench(t, nil)
	for range patience + 1 {
		b.Retry()
	}
	b.reads(mb)
	b.sees(ma, ma, mb, mc)
	b.want("c has said nothing yet", b.said(), "")
	b.Retry()
	b.want("nor had the time to", b.said(), "")
	b.reads(mc)
	b.want("c has", b.said(), "b:Claim c:Claim")
}

// TestNewcomersConfirmNothing: a node that has just come has heard of no owner. If
// it took that for there being none, a node that stood still would run beside the
// one that has taken its partitions over.
//
// Mutant: "newcomers confirm".
func TestNewcomersConfirmNothing(t *testing.T) {
	b := newBench(t, nil)
	b.sees(mb, mb, mc)
	b.reads(mb, Confirm{Partition: 0, Number: 1, Epoch: 3})
	b.want("c has said nothing yet", b.said(), "")
	b.reads(mc, Held{Partition: 0, Epoch: 4, Number: 1})
	b.want("now that it has", b.said(), "b:Again")
	b.reads(mb, Confirm{Partition: 0, Number: 1, Epoch: 3})
	var got []Entry
	for _, out := range b.Take() {
		got = append(got, out.Message.Entries...)
	}
	b.want("c has", got, []Entry{Confirmed{Partition: 0, Number: 1, Denied: true}})
}

// TestWhoStoodStillIsANewcomer: the round of a node that stood still is over, since
// others may have ended it for themselves; and what such a node knows of owners is
// old, so it confirms nobody.
//
// Mutant: "who stood still is no newcomer".
func TestWhoStoodStillIsANewcomer(t *testing.T) {
	b := claiming(t)
	b.reads(mb, Answer{Partition: 0, Number: 1})
	b.Confirm()
	b.Listen()
	b.want("asks all to repeat", b.said(), "b:Again c:Again")
	b.reads(mb, Confirm{Partition: 1, Number: 1, Epoch: 3})
	b.reads(mc, Answer{Partition: 0, Number: 1})
	b.want("an answer of before", b.Counts().Owned, 0)
	b.want("all have spoken to it", b.said(), "b:Again b:Claim c:Claim")
}

// TestOnlyOldMembersConfirm: who has come since a node stood still cannot know what
// became of its partitions meanwhile. If nobody else is left, they may have been
// another's.
//
// Mutant: "whoever has come confirms".
func TestOnlyOldMembersConfirm(t *testing.T) {
	md := ring.Member{Name: "d", Incarnation: 4}
	b := owning(t)
	b.Confirm()
	b.want("asks one", b.said(), "b:Confirm")
	b.sees(ma, mc, md)
	b.want("asks who was there", strings.Contains(b.said(), "d:Confirm"), false)
	b.sees(ma, md)
	b.want("nobody is left who was", b.Counts().Owned, 0)
	b.want("confirmed", b.Confirmed(), true)
}

// TestNobodyConfirmsWhatItDoesNotKnow: a node that stood still itself may have missed
// that a tenure ended; and one that stood back for somebody who has died since, and
// told nobody of its tenure, knows that there may have been one.
//
// Mutants: "what was known before a standstill confirms", "who stood back for the dead
// confirms".
func TestNobodyConfirmsWhatItDoesNotKnow(t *testing.T) {
	answers := func(b *bench) (denied []bool) {
		for _, out := range b.Take() {
			for _, e := range out.Message.Entries {
				if c, ok := e.(Confirmed); ok {
					denied = append(denied, c.Denied)
				}
			}
		}
		return denied
	}
	b := newBench(t, nil)
	b.sees(mb, mb, mc)
	b.reads(mb, Held{Partition: 0, Epoch: 3, Number: 1})
	b.Confirm()
	b.reads(mb, Again{})
	b.reads(mc, Again{})
	b.Take()
	b.reads(mb, Confirm{Partition: 0, Number: 1, Epoch: 3}, Confirm{Partition: 0, Number: 1, Epoch: 4})
	b.want("who stood still", answers(b), []bool{true, false})

	b = newBench(t, nil)
	b.sees(mb, mb, mc)
	b.reads(mb, Held{Partition: 0, Epoch: 3, Number: 1})
	b.sees(mc, mc)
	b.reads(mc, Claim{0, 9})
	b.sees(mb, mb)
	b.Take()
	b.reads(mb, Confirm{Partition: 0, Number: 1, Epoch: 3})
	b.want("who stood back for the dead", answers(b), []bool{true})
}

// TestTheUnconfirmedIsSilent: what it says to hold may be another's, and others would
// confirm it by its own word.
//
// Mutant: "the unconfirmed say that they hold it".
func TestTheUnconfirmedIsSilent(t *testing.T) {
	b := owning(t)
	b.Confirm()
	b.said()
	b.reads(mb, Again{})
	b.reads(mc, Again{})
	b.want("repeats its question alone", b.said(), "b:Confirm")
	b.reads(mb, Confirmed{Partition: 0, Number: 1}, Confirmed{Partition: 1, Number: 1})
	b.want("confirmed", b.said(), "b:Held c:Held")
}

// TestTwoOfOneEpoch: of two that name the same epoch the one that should own it is
// believed, and the other one when the first is gone.
//
// Mutant: "who came second is forgotten".
func TestTwoOfOneEpoch(t *testing.T) {
	b := newBench(t, nil)
	b.sees(mb, mb, mc)
	b.reads(mb, Held{Partition: 0, Epoch: 3, Number: 1})
	b.reads(mc, Held{Partition: 0, Epoch: 3, Number: 1})
	b.want("the target", b.State(0).Route, Route{mb, 3})
	b.sees(mc, mc)
	b.want("the other", b.State(0).Route, Route{mc, 3})
}

// TestTheDeniedKnowsTheOwner: a node that stood still hears who has its partition
// while it still takes itself for the owner. When it is denied, it knows.
//
// Mutant: "what an owner hears is forgotten".
func TestTheDeniedKnowsTheOwner(t *testing.T) {
	b := owning(t)
	b.Confirm()
	b.reads(mc, Held{Partition: 0, Epoch: 7, Number: 2})
	b.want("takes itself for the owner", b.State(0).Route.Owner, ma)
	b.reads(mb, Confirmed{Partition: 0, Number: 1, Denied: true})
	b.want("route", b.State(0).Route, Route{mc, 7})
}

// TestStateTravels: the state of a partition goes with it, that of a key that
// still runs with its end, and both as often as they are asked for.
func TestStateTravels(t *testing.T) {
	b := newBench(t, notes{"x": "1", "y": "2", "z": "3"})
	b.sees(ma)
	b.lanes.admit(0, 1)
	b.sees(mb, mb)
	b.reads(mb, Claim{0, 1})
	given := b.give()
	b.want("given", given.Sections, []Section{{Kind: 7, Version: 1, Data: []byte("y2")}})
	b.lanes.finish(0, testKeys[0])
	b.Drained(0, []byte("x"))
	done := b.Take()[0].Message.Entries[0].(KeyDone)
	b.want("done", done.Sections, []Section{{Kind: 7, Version: 1, Data: []byte("x1")}})
	b.Up(mb)
	b.want("given again", b.give().Sections, []Section{{Kind: 7, Version: 1, Data: []byte("x1y2")}})
	b.reads(mb, Ask{Partition: 0, Keys: []string{"x"}})
	b.want("done again", b.Take()[0].Message.Entries[0].(KeyDone), done)

	taker := notes{"y": "old"}
	b = newBench(t, taker)
	b.sees(ma, mb)
	b.reads(mb)
	given.Keys, given.Claim = []string{"x"}, b.parts[0].number
	given.Sections = append(given.Sections, Section{Kind: 99, Data: []byte("of a later version")})
	b.reads(mb, given)
	b.want("taken", taker, notes{"y": "2"})
	b.reads(mb, done)
	b.want("taken with the key", taker, notes{"x": "1", "y": "2"})
	delete(taker, "x")
	b.reads(mb, done)
	b.want("told again", taker, notes{"y": "2"})
}

// TestReturnedStateIsWhole: who gets back what it gave is told that it knows all of it, and
// not left to guess whether somebody else had it meanwhile.
//
// Mutants: nothing is imported; what still runs is left out.
func TestReturnedStateIsWhole(t *testing.T) {
	state := &importing{notes: notes{"x": "1", "y": "2"}}
	b := newBench(t, state)
	b.sees(ma)
	b.lanes.admit(0, 1)
	b.sees(mb, mb)
	b.reads(mb, Claim{0, 1})
	b.reads(mb, Taken{Partition: 0, Number: b.give().Number, Returned: true})
	b.want("imported", state.imported, []string{"x1y2"})
}

// TestWhatIsLeftIsPassedOn: who had to let a partition go that nobody took says with its
// answers what it knows of it, and that nobody has had it since, as far as it knows; to an
// owner only once, and not if that has had the answer to its claim.
//
// Mutants: it says nothing; all is said to be known although the tenure was taken over, or another is heard of, or is
// dead that may have had it; it goes on for ever, or when it was taken after all; it is left
// out when it is asked again; what was given, or came back, and cannot be had, is forgotten.
func TestWhatIsLeftIsPassedOn(t *testing.T) {
	few := func() *bench {
		b := newBench(t, notes{"x": "1", "y": "2"})
		b.meets(mb, mc)
		for _, m := range []ring.Member{mb, mc} {
			b.reads(m, Answer{Partition: 0, Number: b.parts[0].number}, Answer{Partition: 1, Number: b.parts[1].number})
		}
		b.want("owned", b.Counts().Owned, 2)
		b.View(View{Live: []ring.Member{ma, mb, mc}, Targets: []ring.Member{mb, mb}})
		b.said()
		return b
	}
	answered := func(b *bench) string {
		var said []string
		for _, out := range b.Take() {
			for _, e := range out.Message.Entries {
				if a, ok := e.(Answer); ok && a.Partition == 0 {
					data := "nothing"
					if len(a.Sections) > 0 {
						data = string(a.Sections[0].Data)
					}
					said = append(said, fmt.Sprintf("%s %s of %d", out.To.Name, data, a.Last))
				}
			}
		}
		return strings.Join(said, ", ")
	}

	b := few()
	b.want("keeps", b.State(0).Keeps, true)
	b.reads(mb, Claim{0, 7})
	b.want("to a claim", answered(b), "b x1y2 of 1")
	b.reads(mb, Claim{0, 7})
	b.want("again", answered(b), "b x1y2 of 1")
	b.reads(mb, Released{0, 7})
	b.reads(mc, Claim{0, 3})
	b.want("to another claim", answered(b), "c x1y2 of 1")
	b.reads(mc, Held{Partition: 0, Epoch: 9, Number: 3})
	b.want("to who knows it by now", answered(b), "")
	b.want("keeps", b.State(0).Keeps, false)

	b = few()
	b.reads(mc, Held{Partition: 0, Epoch: 2, Number: 3})
	b.want("to an owner", answered(b), "c x1y2 of 0")
	b.reads(mc, Held{Partition: 0, Epoch: 2, Number: 3})
	b.reads(mb, Claim{0, 7})
	b.want("said once", answered(b), "b nothing of 0")

	b = few()
	b.reads(mb, Claim{0, 7})
	b.View(View{Live: []ring.Member{ma, mc}, Targets: []ring.Member{mc, mc}})
	answered(b)
	b.reads(mc, Claim{0, 3})
	b.want("when the claimant is dead", answered(b), "c x1y2 of 0")

	b = newBench(t, notes{"x": "1", "y": "2"})
	b.sees(ma)
	b.sees(mb, mb, mc)
	b.reads(mb, Claim{0, 1})
	b.sees(mc, mc)
	answered(b)
	b.reads(mc, Claim{0, 3})
	b.want("when who was given it is dead", answered(b), "c x1y2 of 0")

	b = newBench(t, notes{"x": "1", "y": "2"})
	b.sees(ma)
	b.sees(mb, mb, mc)
	b.Confirm()
	b.reads(mb, Confirmed{Partition: 0, Number: 1, Denied: true})
	b.reads(mc, Claim{0, 3})
	b.want("when it was taken over", answered(b), "c x1y2 of 0")

	// What a node was given, or gets back, when it sees too few by now.
	b = newBench(t, notes{"x": "1", "y": "2"})
	b.sees(ma)
	b.sees(mb, mb, mc)
	b.reads(mb, Claim{0, 1})
	number := b.give().Number
	b.sees(mc, mc)
	b.sees(mb, mb, mc)
	b.want("keeps what it gave to one who was dead", b.State(0).Keeps, true)
	b.reads(mb, Taken{Partition: 0, Number: number})
	b.want("keeps what that one has", b.State(0).Keeps, false)

	b = newBench(t, notes{"x": "1", "y": "2"})
	b.sees(ma)
	b.sees(mb, mb, mc)
	b.reads(mb, Claim{0, 1})
	number = b.give().Number
	b.View(View{Live: []ring.Member{ma, mb, mc}, Targets: []ring.Member{mc, mc}})
	b.reads(mb, Taken{Partition: 0, Number: number, Returned: true})
	b.reads(mc, Claim{0, 3})
	b.want("what it got back", answered(b), "c x1y2 of 2")

	b = newBench(t, notes{"x": "1", "y": "2"})
	b.arbiter.present = true // which has to agree
	b.Begin("A")
	b.meets(mb, mc)
	b.reads(mb, Give{Partition: 0, Number: 1, Claim: b.parts[0].number, Epoch: 5})
	b.want("claims still", b.State(0).Role, Claiming)
	b.View(View{Live: []ring.Member{ma, mb, mc}, Targets: []ring.Member{mc, mc}})
	b.reads(mc, Claim{0, 3})
	b.want("what it was given", answered(b), "c x1y2 of 4")
}

// TestLastTenureCounts: of what others are left with all is taken from who had the
// partition last, and from the rest what is true for ever. A node that is left with it
// itself is told so.
//
// Mutants: whoever claims to be the last is believed; the older is not taken; what came with the
// partition is not the last; what comes to an owner is taken for all there is.
func TestLastTenureCounts(t *testing.T) {
	left := func(last, begun uint64, text string) Answer {
		return Answer{Partition: 0, Heard: 9, Last: last, Begun: begun, Sections: []Section{{Kind: 7, Version: 1, Data: []byte(text)}}}
	}
	for _, test := range []struct {
		what string
		b, c Answer
		want []string
	}{
		{"one", left(3, 3, "x1"), Answer{Begun: 2}, []string{"x1"}},
		{"two", left(3, 3, "x1"), left(4, 4, "x2"), []string{"older:x1", "x2"}},
		{"one who is outdated", left(0, 4, "x1"), Answer{Begun: 4}, []string{"older:x1"}},
		{"one who does not know of a later tenure", left(3, 3, "x1"), Answer{Begun: 4}, []string{"older:x1"}},
	} {
		state := &importing{notes: notes{}}
		b := newBench(t, state)
		b.meets(mb, mc)
		test.b.Number, test.c.Number = b.parts[0].number, b.parts[0].number
		b.reads(mb, test.b)
		b.reads(mc, test.c)
		b.want(test.what+": owned", b.Counts().Owned, 1)
		b.want(test.what, state.imported, test.want)
		state.imported = nil
		b.reads(mb, test.b)
		if len(test.b.Sections) > 0 {
			b.want(test.what+", told late", state.imported, []string{"older:x1"})
		}
	}

	state := &importing{notes: notes{"x": "1", "y": "2"}}
	b := newBench(t, state)
	b.meets(mb, mc)
	late := left(9, 9, "x8")
	late.Number = b.parts[0].number
	b.reads(mc, late)
	b.reads(mb, Give{Partition: 0, Number: 1, Claim: b.parts[0].number, Epoch: 5, Sections: left(0, 0, "x3").Sections})
	b.want("what was given", state.imported, []string{"x3", "older:x8"})
	state.imported = nil
	b.View(View{Live: []ring.Member{ma, mb}, Targets: []ring.Member{ma, ma}})
	b.View(View{Live: []ring.Member{ma, mb}, Targets: []ring.Member{ma, ma}, Enough: true})
	b.reads(mb, Answer{Partition: 0, Number: b.parts[0].number, Heard: 10, Begun: 10})
	b.want("its own", state.imported, []string{"x8y2"})
}

// importing is state that remembers what was imported.
type importing struct {
	notes
	imported []string
}

func (i *importing) Import(partition int, sections []Section, older bool) {
	i.notes.Import(partition, sections, older)
	for _, s := range sections {
		data := string(s.Data)
		if older {
			data = "older:" + data
		}
		i.imported = append(i.imported, data)
	}
}

// notes is state of keys: a letter and its value.
type notes map[string]string

func (n notes) Export(p int, except []string) []Section {
	var data string
	for _, key := range testKeys {
		if key.partition == p && !slices.Contains(except, key.name) {
			data += key.name + n[key.name]
		}
	}
	return []Section{{Kind: 7, Version: 1, Data: []byte(data)}}
}

func (n notes) ExportKey(_ int, key string) []Section {
	return []Section{{Kind: 7, Version: 1, Data: []byte(key + n[key])}}
}

func (n notes) Import(_ int, sections []Section, _ bool) {
	for _, s := range sections {
		for i := 0; s.Kind == 7 && i < len(s.Data); i += 2 {
			n[string(s.Data[i])] = string(s.Data[i+1])
		}
	}
}

// TestNonsenseIsIgnored: partitions that there are not, and receipts of nothing.
func TestNonsenseIsIgnored(t *testing.T) {
	b := owning(t)
	b.reads(mb, Claim{2, 1}, Claim{-1, 1}, Give{Partition: 1 << 20}, Taken{Partition: 0, Number: 5, Returned: true},
		KeyDone{Partition: 0, Key: "never"}, Confirmed{Partition: 0, Denied: true}, Released{0, 3}, Answer{Partition: 1, Number: 77, Keys: []string{"z"}})
	b.want("said", b.said(), "")
	b.want("counts", b.Counts(), Counts{Owned: 2})
}

// TestMemoryIsBounded: what a table remembers of members that are gone does not
// grow with how many there were.
//
// Mutants: "the gone are remembered", "their claims are remembered".
func TestMemoryIsBounded(t *testing.T) {
	b := newBench(t, nil)
	b.sees(ma)
	for i := range uint64(goneMax + 300) {
		m := ring.Member{Name: fmt.Sprint("pod-", i), Incarnation: i + 10}
		b.sees(ma, m)
		b.reads(m, Held{Partition: 0, Epoch: 1}, Give{Partition: 0, Number: 1, Claim: 1})
		b.Take()
		b.Changed()
	}
	b.sees(ma)
	if n := len(b.gone); n != goneMax {
		t.Errorf("%d members that are gone", n)
	}
	if n := len(b.parts[0].taken); n > goneMax+2 {
		t.Errorf("receipts of %d members", n)
	}
	for range memory + 1 {
		b.Retry()
	}
	if n := len(b.parts[0].pending); n != 0 {
		t.Errorf("%d claims of members that are gone", n)
	}
	if n := len(b.strangers); n != 0 {
		t.Errorf("%d strangers", n)
	}
}

// TestCloneKnowsAllFields holds the copies and the fingerprints that the explorer
// makes against what there is to copy. A new field belongs into clone and
// appendState, both in world_test.go.
func TestCloneKnowsAllFields(t *testing.T) {
	for _, test := range []struct {
		what any
		want int
	}{
		{Table{}, 19}, {partition{}, 24}, {answer{}, 7}, {arbiter{}, 9}, {title{}, 11}, {petition{}, 7}, {given{}, 4}, {wait{}, 2},
		{round{}, 2}, {stranger{}, 3}, {confirmation{}, 6}, {Change{}, 3},
	} {
		if got := reflect.TypeOf(test.what).NumField(); got != test.want {
			t.Errorf("%T has %d fields, %d are known", test.what, got, test.want)
		}
	}
}
