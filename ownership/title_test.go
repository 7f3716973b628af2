package ownership

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"lanekeeper/lock"
	"lanekeeper/ring"
)

// arbitrated is a bench whose node has a lease, A, and a store that answers when told
// to.
type arbitrated struct {
	*bench
	records []lock.Record
	over    map[string]bool // leases that have ended
	evicted error           // the cause of the last eviction
}

func newArbitrated(t *testing.T) *arbitrated {
	b := &arbitrated{bench: newBench(t, nil), over: map[string]bool{}, records: []lock.Record{{Partition: 0}, {Partition: 1}}}
	b.Table.lanes = evictingLanes{b.lanes, &b.evicted}
	b.arbiter.present = true
	b.Begin("A")
	return b
}

// titled is one that owns both partitions, and knows b and c, which have heard of it.
func titled(t *testing.T) *arbitrated {
	b := newArbitrated(t)
	b.sees(ma)
	b.want("takes", b.takes(), "0 1")
	b.sees(ma, mb, mc)
	b.said()
	b.Titles()
	return b
}

// pursuing is one in its first round of claims for partition 0.
func pursuing(t *testing.T) *arbitrated {
	b := newArbitrated(t)
	b.View(View{Live: []ring.Member{ma, mb, mc}, Targets: []ring.Member{ma, {}}, Enough: true})
	b.reads(mb)
	b.reads(mc)
	b.want("claims", b.said(), "b:Claim c:Claim")
	return b
}

// takes has the store answer until nothing is asked any more, and returns what was
// asked: the partition, then who is known to hold it, and "given" and "draining".
func (b *arbitrated) takes() string {
	b.t.Helper()
	var asked []string
	for takes := b.Table.Takes(); len(takes) > 0; takes = b.Table.Takes() {
		for _, k := range takes {
			asked = append(asked, describeTake(k))
		}
		if len(asked) > 20 {
			b.t.Fatalf("asks without end: %v", asked)
		}
		b.Took(b.arbiter.lease, takes, b.answer(takes))
	}
	return strings.Join(asked, " ")
}

func describeTake(k lock.Take) string {
	s := fmt.Sprint(k.Partition)
	if k.Holder != "" {
		s += fmt.Sprintf(":%s/%d", k.Holder, k.Tenure)
	}
	if k.Given {
		s += ":given"
	}
	if k.Draining {
		s += ":draining"
	}
	return s
}

// answer is what the store makes of takes.
func (b *arbitrated) answer(takes []lock.Take) (taken []lock.Taken) {
	for _, k := range takes {
		next, ok := b.records[k.Partition].Decide(k, b.arbiter.lease, func(id string) bool { return !b.over[id] }, time.Unix(0, 0))
		if ok {
			b.records[k.Partition] = next
		}
		taken = append(taken, lock.Taken{OK: ok, Record: next})
	}
	return taken
}

// has sets the record of partition 0.
func (b *arbitrated) has(holder string, tenure uint64, prev string) {
	b.records[0] = lock.Record{Holder: holder, Tenure: tenure, Stamp: b.records[0].Stamp + 10, Prev: prev, PrevTenure: tenure - 1}
}

// blocked are the keys of partition 0 that wait for others.
func (b *arbitrated) blocked() string {
	s := ""
	for k, ln := range b.lanes.lanes {
		if ln.blocked {
			s += testKeys[k].name
		}
	}
	return s
}

// consent returns the lease and the tenure in the last Answer or Give about partition 0
// since what was said was last read.
func (b *arbitrated) consent() (consent string) {
	for _, out := range b.Take() {
		for _, e := range out.Message.Entries {
			switch e := e.(type) {
			case Answer:
				consent = fmt.Sprintf("Answer %s/%d", e.Lease, e.Tenure)
			case Give:
				if e.Partition == 0 {
					consent = fmt.Sprintf("Give %s/%d", e.Lease, e.Tenure)
				}
			}
		}
	}
	return consent
}

// TestTitleComesBeforeOwning: what all members let a node own it owns when the record
// is its own, and not before; in the order of the store's answers.
//
// Mutants: a node owns before the store has answered; one take is asked twice.
func TestTitleComesBeforeOwning(t *testing.T) {
	b := newArbitrated(t)
	b.sees(ma)
	b.want("before", b.Counts(), Counts{Claiming: 2})
	b.want("asks", b.Asks(), true)
	takes := b.Table.Takes()
	b.want("takes", takes, []lock.Take{{Partition: 0}, {Partition: 1}})
	b.sees(ma)
	b.Retry()
	b.want("asks again", b.Asks(), false)
	b.want("role", b.State(0).Role, Claiming)
	b.Took("A", takes, b.answer(takes))
	b.want("after", b.Counts(), Counts{Owned: 2})
	b.want("titles", b.Titles(), []int{0, 1})
	b.want("titles again", b.Titles(), []int(nil))
	b.want("title", b.Title(1), Title{Tenure: 1, Stamp: 1})
}

// TestTitleOfALease: a tenure is of one incarnation of a lease. Under the next one the
// node has none, goes on owning by what the members say, and takes the record again;
// what the store had answered to the last one is void.
//
// Mutants: another lease keeps the tenures of the last; answers under the last lease
// count, and stamps drawn under it.
func TestTitleOfALease(t *testing.T) {
	b := titled(t)
	b.Begin("A")
	b.want("the same lease", b.Title(0), Title{1, 1})
	b.want("asks", b.Asks(), false)
	b.Begin("A2")
	b.want("another", b.Title(0), Title{})
	b.want("changed", b.Titles(), []int{0, 1})
	b.want("owned", b.Counts().Owned, 2)
	late := lock.Record{Partition: 0, Holder: "A", Tenure: 1, Stamp: 77}
	b.Took("A", []lock.Take{{Partition: 0}}, []lock.Taken{{OK: true, Record: late}})
	b.want("answered too late", b.Title(0), Title{})
	b.over["A"] = true
	b.want("takes", b.takes(), "0:A/1 1:A/1")
	b.want("title", b.Title(0), Title{2, 2})
	b.Drew("A", lock.Tenure{Partition: 0, Tenure: 2}, 99)
	b.want("drawn under the last", b.Title(0), Title{2, 2})
	b.Drew("A2", lock.Tenure{Partition: 0, Tenure: 1}, 99)
	b.want("drawn for the last tenure", b.Title(0), Title{2, 2})
	b.Drew("A2", lock.Tenure{Partition: 0, Tenure: 2}, 1)
	b.want("drawn before", b.Title(0), Title{2, 2})
	b.Drew("A2", lock.Tenure{Partition: 0, Tenure: 2}, 99)
	b.want("drawn", b.Title(0), Title{2, 99})
}

// TestTitleThatWasCeded: whoever says that it doesn't own a partition, or
// gives it away, lets others take what it has of it, and what it may yet get by what it
// asked for. So under that it owns nothing any more, even if nobody has taken it.
//
// Mutants: what was ceded stands; nothing is ceded; what is on its way is not ceded.
func TestTitleThatWasCeded(t *testing.T) {
	b := titled(t)
	b.sees(mb, mb, mc)
	b.reads(mb, Claim{0, 1})
	b.want("given", b.consent(), "Give A/1")
	b.reads(mb, Taken{Partition: 0, Number: 1, Returned: true})
	b.want("returned", b.State(0).Role, Claiming)
	b.want("title of what drains", b.Title(0), Title{1, 1})
	b.want("takes", b.takes(), "0:A/1")
	b.want("role", b.State(0).Role, Owned)
	b.want("title", b.Title(0), Title{2, 2})

	b = newArbitrated(t)
	b.sees(ma)
	takes := b.Table.Takes()
	b.sees(mb, mb, mc)
	b.reads(mc)
	b.reads(mb, Claim{0, 1})
	b.want("answered while a take is on its way", b.consent(), "Answer A/1")
	b.Took("A", takes, b.answer(takes))
	b.want("it was taken", b.records[0].Holder, "A")
	b.sees(ma)
	b.want("role", b.State(0).Role, Claiming)
	b.want("takes", b.takes(), "0:A/1")
	b.want("title", b.Title(0), Title{2, 2})

	b = newArbitrated(t)
	b.sees(mb, mb, mc)
	b.reads(mc)
	b.reads(mb, Claim{0, 1})
	b.want("who has nothing", b.consent(), "Answer /0")
}

// TestTitleByConsent: a member's word that its tenures up to one may be taken is
// none about a later one, or about another's lease.
//
// Mutants: any consent counts for any tenure; it counts for any lease.
func TestTitleByConsent(t *testing.T) {
	for _, test := range []struct {
		lease  string
		tenure uint64
		want   string
		waits  string
	}{
		{"B", 3, "0 0:B/3:given", ""},
		{"B", 4, "0 0:B/3:given", ""},
		{"B", 2, "0 0:B/3", "B"},
		{"B2", 3, "0 0:B/3", "B"},
		{"", 0, "0 0:B/3", "B"},
	} {
		b := pursuing(t)
		b.has("B", 3, "")
		b.reads(mb, Answer{Partition: 0, Number: 1, Lease: test.lease, Tenure: test.tenure})
		b.reads(mc, Answer{Partition: 0, Number: 1})
		what := fmt.Sprintf("consent to %s/%d", test.lease, test.tenure)
		b.want(what, b.takes(), test.want)
		b.want(what+", waits", b.parts[0].title.wait, test.waits)
		b.want(what+", owned", b.State(0).Role == Owned, test.waits == "")
		if test.waits == "" {
			continue
		}
		b.want("watched", b.Watched(), []string{"B"})
		b.want("watched once", len(b.Watched()), 0)
		b.Retry()
		b.want("asks before that has ended", b.takes(), "")
		b.Unwatched("B")
		b.want("watched again", b.Watched(), []string{"B"})
		b.over["B"] = true
		b.Ended("B")
		b.want("when it has ended", b.takes(), "0:B/3")
		b.want("role", b.State(0).Role, Owned)
	}
}

// TestTitleEndEvictsWhatDrains: who follows waits for what drains under a lease no longer
// than for the lease. What is owned goes on to wait for its turn: the members say that
// it is this node's. So does what drains of a time without a store.
//
// Mutants: what drains stays; what is owned is sent away; what had no title is sent away.
func TestTitleEndEvictsWhatDrains(t *testing.T) {
	b := titled(t)
	b.lanes.admit(0, 1)
	b.lanes.admit(0, 2)
	b.lanes.admit(2, 1)
	b.lanes.admit(2, 2)
	b.View(View{Live: []ring.Member{ma, mb, mc}, Targets: []ring.Member{mb, ma}, Enough: true})
	b.reads(mb, Claim{0, 1})
	b.want("draining", b.lanes.lanes[0].queue, []int{1, 2})
	b.End()
	b.want("sent away because", b.evicted, ErrLeaseEnded)
	b.want("draining after the end", b.lanes.lanes[0].queue, []int{1})
	b.want("owned after the end", b.lanes.lanes[2].queue, []int{1, 2})
	b.want("owned", b.State(1).Role, Owned)
	b.want("title", b.Title(0), Title{})
	b.want("asks", b.Asks(), false)

	b = newArbitrated(t)
	b.Away()
	b.sees(ma)
	b.want("owned by what the members say", b.Counts().Owned, 2)
	b.lanes.admit(0, 1)
	b.lanes.admit(0, 2)
	b.sees(mb, mb, mc)
	b.reads(mc)
	b.reads(mb, Claim{0, 1})
	b.End()
	b.want("without a title", b.lanes.lanes[0].queue, []int{1, 2})
}

// drained is a bench that owns partition 0 by the consent of b, which listed x. Its
// record names b's lease.
func drained(t *testing.T) *arbitrated {
	b := pursuing(t)
	b.has("B", 1, "")
	b.reads(mb, Answer{Partition: 0, Number: 1, Keys: []string{"x"}, Lease: "B", Tenure: 1})
	b.reads(mc, Answer{Partition: 0, Number: 1})
	b.want("takes", b.takes(), "0 0:B/1:given:draining")
	b.want("role", b.State(0).Role, Owned)
	b.want("prev", b.records[0].Prev, "B")
	b.want("watched", b.Watched(), []string{"B"})
	b.want("waits", b.blocked(), "x")
	return b
}

// TestTitlePrevIsWaitedFor: what a lease may still run is waited for until its member says
// that it doesn't, the record does, or the lease has ended. That members take the member
// for dead says nothing about its lease.
//
// Mutants: a member's death ends the wait for its lease; Ended does not; the records do
// not; Records are not wanted; the end of this node's lease leaves the wait for the dead.
func TestTitlePrevIsWaitedFor(t *testing.T) {
	b := drained(t)
	b.want("records are wanted while b is there", b.WantsRecords(), false)
	b.reads(mb, KeyDone{Partition: 0, Key: "x"})
	b.want("after KeyDone", b.blocked(), "")

	b = drained(t)
	b.sees(ma, mc)
	b.want("after a death", b.blocked(), "x")
	b.Retry()
	b.want("after a retry", b.blocked(), "x")
	b.Ended("C")
	b.want("after the end of another lease", b.blocked(), "x")
	b.Ended("B")
	b.want("after its end", b.blocked(), "")

	b = drained(t)
	b.sees(ma, mc)
	b.want("records are wanted", b.WantsRecords(), true)
	b.Records(b.records)
	b.want("the record still names it", b.blocked(), "x")
	other := b.records[0]
	other.Prev, other.Holder = "", "C"
	b.Records([]lock.Record{other, {Partition: 7}, {Partition: -1}})
	b.want("another's record", b.blocked(), "x")
	b.records[0], _ = b.records[0].Clear("B", 1)
	b.Records(b.records)
	b.want("the record is cleared", b.blocked(), "")
	b.want("records are still wanted", b.WantsRecords(), false)

	b = drained(t)
	b.End()
	b.want("without a lease, and b there", b.blocked(), "x")
	b.sees(ma, mc)
	b.reads(mc, KeyDone{Partition: 0, Key: "x"}) // it is asked whether b had lent it the turn
	b.want("without a lease, and b dead", b.blocked(), "")
	b = drained(t)
	b.sees(ma, mc)
	b.End()
	b.reads(mc, KeyDone{Partition: 0, Key: "x"})
	b.want("b dead, then without a lease", b.blocked(), "")
}

// TestTitlePrevIsUnknown: the record names a lease that may still run keys,
// and nobody has listed them: all keys wait, for the list or for the end of the lease.
//
// Mutants: what nobody has listed does not run; the list of another lease counts; the
// list in an Answer to an owner does not count.
func TestTitlePrevIsUnknown(t *testing.T) {
	unlisted := func(t *testing.T) *arbitrated {
		b := pursuing(t)
		b.has("C", 4, "B")
		b.over["C"] = true
		b.reads(mb, Answer{Partition: 0, Number: 1, Keys: []string{"y"}, Lease: "B2", Tenure: 1})
		b.reads(mc, Answer{Partition: 0, Number: 1})
		b.want("takes", b.takes(), "0 0:C/4")
		b.want("holder", b.records[0].Holder, "A")
		b.want("role", b.State(0).Role, Claiming)
		b.want("open", b.lanes.open[0], false)
		b.want("watched", b.Watched(), []string{"B"})
		b.want("records are wanted", b.WantsRecords(), true)
		return b
	}
	b := unlisted(t)
	b.Ended("B")
	b.want("after its end", b.State(0).Role, Owned)

	b = unlisted(t)
	b.records[0], _ = b.records[0].Clear("B", 3)
	b.Records(b.records)
	b.want("the record is cleared", b.State(0).Role, Owned)

	b = unlisted(t)
	b.reads(mb, Answer{Partition: 0, Number: 1, Keys: []string{"x"}, Lease: "B", Tenure: 3})
	b.want("listed", b.State(0).Role, Owned)
	b.want("waits", b.blocked(), "x")

	// An owner without a store takes the title, and the record names somebody.
	b = newArbitrated(t)
	b.Away()
	b.sees(ma)
	b.sees(ma, mb, mc)
	b.said()
	b.has("C", 4, "B")
	b.over["C"] = true
	b.Begin("A")
	b.want("takes", b.takes(), "0 1 0:C/4")
	b.want("role", b.State(0).Role, Owned)
	b.want("title", b.Title(0), Title{})
	b.Titles()
	b.reads(mb, Answer{Partition: 0, Number: b.parts[0].number, Keys: []string{"x"}, Lease: "B", Tenure: 3})
	b.want("listed to the owner", b.Title(0).Tenure, uint64(5))
	b.want("changed", b.Titles(), []int{0})
	b.want("waits", b.blocked(), "x")
}

// TestTitleGiftToTheLapsed: whoever gives a partition to a node that takes itself for its
// owner, but has lost its title, has run later requests meanwhile. What waits there may
// not run behind them.
//
// Mutant: what was given to the lapsed merges with what waits there.
func TestTitleGiftToTheLapsed(t *testing.T) {
	gift := Give{Partition: 0, Number: 1, Epoch: 9, Keys: []string{"y"}, Lease: "C", Tenure: 5}
	b := titled(t)
	b.lanes.admit(0, 1)
	b.lanes.admit(0, 2)
	b.End()
	b.reads(mc, gift)
	b.want("sent away because", b.evicted, ErrTakenOver)
	b.want("lane", b.lanes.lanes[0].queue, []int{1})
	b.want("role", b.State(0).Role, Claiming)
	b.has("C", 5, "")
	b.Begin("A2")
	b.want("takes", b.takes(), "0:C/5:given:draining 1:A/1")
	b.want("after it was taken", b.State(0).Role, Owned)
	b.want("waits", b.blocked(), "y")

	// Two that own by what the members say are one again, as without a store.
	b = titled(t)
	b.lanes.admit(0, 1)
	b.lanes.admit(0, 2)
	b.End()
	gift.Lease, gift.Tenure = "", 0
	b.reads(mc, gift)
	b.want("given without a title", b.lanes.lanes[0].queue, []int{1, 2})
	b.want("role", b.State(0).Role, Owned)
}

// TestTitleTakenFromTheLapsed: if another had the record of what this node goes on owning
// after its lease, what waited meanwhile is sent away, even if the other's lease has
// ended too: it had run later requests. Otherwise everything stays in its lanes, also
// if the store has lost its data.
//
// Mutants: what waited stays if the other's lease has ended; it is sent away if the store
// has lost its data; what had never had a title is sent away.
func TestTitleTakenFromTheLapsed(t *testing.T) {
	lapsed := func(t *testing.T) *arbitrated {
		b := titled(t)
		b.lanes.admit(0, 1)
		b.lanes.admit(0, 2)
		b.over["A"] = true
		b.End()
		return b
	}
	b := lapsed(t)
	b.Begin("A2")
	b.want("nobody had it", b.takes(), "0:A/1 1:A/1")
	b.want("lane", b.lanes.lanes[0].queue, []int{1, 2})
	b.want("role", b.State(0).Role, Owned)

	b = lapsed(t)
	b.records[0] = lock.Record{}
	b.Begin("A2")
	b.want("it is forgotten", b.takes(), "0:A/1 1:A/1 0")
	b.want("lane", b.lanes.lanes[0].queue, []int{1, 2})
	b.want("role", b.State(0).Role, Owned)

	for _, over := range []bool{false, true} {
		b = lapsed(t)
		b.has("C", 2, "")
		b.over["C"] = over
		b.Begin("A2")
		what := fmt.Sprintf("another had it, whose lease has ended: %v", over)
		b.want(what, b.takes(), "0:A/1 1:A/1")
		b.want(what+", cause", b.evicted, ErrTakenOver)
		b.want(what+", lane", b.lanes.lanes[0].queue, []int{1})
		b.want(what+", role", b.State(0).Role, Claiming)
		b.want(what+", the rest", b.State(1).Role, Owned)
	}

	// Lapsed twice, and the store was away in between.
	b = lapsed(t)
	b.Begin("A2")
	b.End()
	b.has("C", 2, "")
	b.over["C"] = true
	b.Begin("A3")
	b.takes()
	b.want("lapsed twice", b.lanes.lanes[0].queue, []int{1})

	b = newArbitrated(t)
	b.Away()
	b.sees(ma)
	b.lanes.admit(0, 1)
	b.lanes.admit(0, 2)
	b.has("C", 2, "")
	b.over["C"] = true
	b.Begin("A")
	b.want("it never had a title", b.takes(), "0 1 0:C/2")
	b.want("lane of the untitled", b.lanes.lanes[0].queue, []int{1, 2})
}

// TestTitleOutranksTheMembers: who owns by what the members say drops what another
// holds under a lease that lives, and claims it again.
//
// Mutants: an owner stays beside the holder of the record; a gift of which the record
// says that it was not the giver's is owned when that one's lease has ended.
func TestTitleOutranksTheMembers(t *testing.T) {
	b := newArbitrated(t)
	b.Away()
	b.sees(ma)
	b.sees(ma, mb, mc)
	b.lanes.admit(0, 1)
	b.lanes.admit(0, 2)
	b.said()
	b.has("C", 2, "")
	b.Begin("A")
	b.want("takes", b.takes(), "0 1 0:C/2")
	b.want("sent away because", b.evicted, ErrTakenOver)
	b.want("lane", b.lanes.lanes[0].queue, []int{1})
	b.want("claims", strings.HasPrefix(b.said(), "b:Claim c:Claim"), true)
	b.reads(mb, Answer{Partition: 0, Number: b.parts[0].number})
	b.reads(mc, Answer{Partition: 0, Number: b.parts[0].number, Lease: "C", Tenure: 2})
	b.want("c consents", strings.HasPrefix(b.takes(), "0:C/2:given"), true)
	b.want("role", b.State(0).Role, Owned)

	b = pursuing(t)
	b.has("C", 2, "")
	b.reads(mb, Give{Partition: 0, Number: 1, Claim: 1, Epoch: 3, Lease: "B", Tenure: 1})
	b.want("given by who has it no more", b.takes(), "0:B/1:given 0:C/2")
	b.want("asks all again", b.said(), "b:Taken b:Claim c:Claim")
}

// TestTitleStoreAway: without a store and a valid lease partitions are owned as the members say,
// and nothing has a title. When the store is back titles are taken.
//
// Mutants: Away changes nothing; who owns without a title does not ask for one.
func TestTitleStoreAway(t *testing.T) {
	b := newArbitrated(t)
	b.sees(ma)
	takes := b.Table.Takes()
	b.want("role", b.State(0).Role, Claiming)
	b.Away()
	b.want("away", b.Counts().Owned, 2)
	b.want("title", b.Title(0), Title{})
	b.NotTaken("A", takes)
	b.want("asks at once", b.Asks(), false)
	b.Later()
	b.want("asks while it is away", b.Asks(), false)
	b.Begin("A")
	b.want("takes", b.takes(), "0 1")
	b.want("title", b.Title(0), Title{1, 1})
	b.want("owned", b.Counts().Owned, 2)

	b = titled(t)
	b.Away()
	b.want("its lease may be valid again", b.Title(0), Title{1, 1})
	b.Begin("A")
	b.want("asks", b.Asks(), false)
}

// TestTitleNotTaken: what became of a take is not known, so it is asked again after a while,
// as it would be asked then, and only if the partition is still wanted. Whatever it may
// have brought is ceded with everything else.
//
// Mutants: it is asked again at once; it is never asked again; what is not wanted any
// more is asked for.
func TestTitleNotTaken(t *testing.T) {
	b := newArbitrated(t)
	b.sees(ma)
	takes := b.Table.Takes()
	b.answer(takes) // which is lost
	b.NotTaken("A", takes)
	b.Retry()
	b.want("asks at once", b.Asks(), false)
	b.Later()
	b.want("takes", b.takes(), "0 1 0:A/1 1:A/1")
	b.want("title", b.Title(0), Title{2, 2})

	b = newArbitrated(t)
	b.sees(ma)
	takes = b.Table.Takes()
	b.answer(takes)
	b.NotTaken("A", takes)
	b.sees(mb, mb, mc)
	b.reads(mc)
	b.reads(mb, Claim{0, 1})
	b.want("ceded", b.consent(), "Answer A/1")
	b.Later()
	b.want("not wanted", b.takes(), "")

	b = newArbitrated(t)
	b.sees(ma)
	b.sees(mb, mb)
	b.want("not wanted before it was asked", b.takes(), "")
	b.sees(ma)
	b.want("wanted again", b.takes(), "0 1")

	b = newArbitrated(t)
	b.sees(ma)
	takes = b.Table.Takes()
	b.Begin("A2")
	b.NotTaken("A", takes)
	b.Later()
	b.want("asked under another lease", b.takes(), "0 1")
}

// TestTitleOneMoveAtATime: the store has room for one lease that may still run something.
// A take that it refuses for that is asked again after a while, and nothing is dropped.
//
// Mutants: it is waited for the end of the giver's lease; it is asked again at once.
func TestTitleOneMoveAtATime(t *testing.T) {
	b := pursuing(t)
	b.has("B", 3, "C")
	b.reads(mc, Answer{Partition: 0, Number: 1})
	b.reads(mb, Give{Partition: 0, Number: 1, Claim: 1, Epoch: 3, Keys: []string{"x"}, Lease: "B", Tenure: 3})
	b.want("takes", b.takes(), "0:B/3:given:draining")
	b.want("watched", len(b.Watched()), 0)
	b.Retry()
	b.want("at once", b.Asks(), false)
	b.Later()
	b.want("after a while", b.takes(), "0:B/3:given:draining")
	b.records[0], _ = b.records[0].Clear("C", 2)
	b.Later()
	b.want("when the last move is over", b.takes(), "0:B/3:given:draining")
	b.want("role", b.State(0).Role, Owned)
	b.want("waits", b.blocked(), "x")

	// The giver's keys may have ended meanwhile: then there is room.
	b = pursuing(t)
	b.has("B", 3, "C")
	b.reads(mc, Answer{Partition: 0, Number: 1, Lease: "C", Tenure: 2})
	b.reads(mb, Give{Partition: 0, Number: 1, Claim: 1, Epoch: 3, Keys: []string{"x"}, Lease: "B", Tenure: 3})
	b.takes()
	b.reads(mb, KeyDone{Partition: 0, Key: "x"})
	b.Later()
	b.want("nothing drains", b.takes(), "0:B/3:given")
	b.want("role", b.State(0).Role, Owned)
}

// TestTitleClears: the store is told when the last key has gone of what was given away, and
// once more when the next owner is heard of, whose take may have come after that.
//
// Mutants: it is told of each key; not when the last one has gone; not once more; each
// time that the owner is heard of; not of a tenure that was asked for.
func TestTitleClears(t *testing.T) {
	b := titled(t)
	b.lanes.admit(0, 1)
	b.lanes.admit(1, 1)
	b.sees(mb, mb, mc)
	b.reads(mb, Claim{0, 1})
	end := func(k int) {
		b.lanes.finish(k, testKeys[k])
		b.Drained(0, []byte(testKeys[k].name))
	}
	b.want("at the start", b.Drops(), []lock.Tenure(nil))
	end(0)
	b.want("after one of two", b.Drops(), []lock.Tenure(nil))
	b.reads(mb, Held{Partition: 0, Epoch: 2, Number: 1})
	b.want("heard of too early", b.Drops(), []lock.Tenure(nil))
	end(1)
	b.want("after the last", b.Drops(), []lock.Tenure{{Partition: 0, Tenure: 1}})
	b.want("told", b.Drops(), []lock.Tenure(nil))
	b.reads(mb, Held{Partition: 0, Epoch: 2, Number: 1})
	b.want("heard of", b.Drops(), []lock.Tenure{{Partition: 0, Tenure: 1}})
	b.reads(mb, Held{Partition: 0, Epoch: 2, Number: 1})
	b.want("heard of again", b.Drops(), []lock.Tenure(nil))

	// It has a tenure, asks for another, and is lent neither: both may be named.
	b = titled(t)
	b.lanes.admit(0, 1)
	b.sees(mb, mb, mc)
	b.reads(mb, Claim{0, 1}, Taken{Partition: 0, Number: 1, Returned: true})
	b.Table.Takes() // on its way
	b.Away()        // so it owns it without
	b.want("role", b.State(0).Role, Owned)
	b.said()
	b.reads(mb, Claim{0, 2})
	b.want("given", b.consent(), "Give A/2")
	end(0)
	b.want("both", b.Drops(), []lock.Tenure{{Partition: 0, Tenure: 1}, {Partition: 0, Tenure: 2}})
}

// TestTitleOfAHelper: a node lets go what it has had, and lists what it was lent since:
// the record may come to say that something of it runs on under its lease. So the store
// is told of the end of that as well.
//
// Mutants: "a helper clears nothing", "what is lent is over when nothing drains".
func TestTitleOfAHelper(t *testing.T) {
	b := titled(t)
	b.lanes.admit(1, 1)
	b.sees(mb, mb, mc)
	b.reads(mb, Claim{0, 1}, Taken{Partition: 0, Number: 1}, Held{Partition: 0, Epoch: 2, Number: 1})
	b.want("is lent a turn", b.help("b"), true)
	b.lanes.finish(1, testKeys[1])
	b.Drained(0, []byte("y"))
	b.want("nothing drains", b.Drops(), []lock.Tenure(nil))
	b.sees(mc, mc)
	b.said()
	b.reads(mc, Claim{0, 1})
	b.want("stands back", b.consent(), "Answer A/1")
	b.Helped(0, []byte("x"))
	b.want("the turn is over", b.Drops(), []lock.Tenure{{Partition: 0, Tenure: 1}})

	b = titled(t)
	b.sees(mb, mb, mc)
	b.reads(mb, Claim{0, 1}, Taken{Partition: 0, Number: 1}, Held{Partition: 0, Epoch: 2, Number: 1})
	b.help("b")
	b.reads(mc, Held{Partition: 0, Epoch: 3, Number: 1})
	b.Helped(0, []byte("x"))
	b.want("nothing drained before", b.Drops(), []lock.Tenure{{Partition: 0, Tenure: 1}})
}

// TestTitleConsentTravels: the lease and the tenure in Answer and Give are written and read.
//
// Mutants: Answer's lease is not written; Give's tenure is not read.
func TestTitleConsentTravels(t *testing.T) {
	for _, e := range []Entry{
		Answer{Partition: 1, Number: 2, Heard: 3, Keys: []string{"x"}, Lease: "a#7", Tenure: 300},
		Answer{Partition: 1, Tenure: 1},
		Give{Partition: 1, Number: 2, Claim: 3, Epoch: 4, Keys: []string{"x"}, Sections: []Section{{Kind: 1, Version: 1, Data: []byte{0}}}, Lease: "a#7", Tenure: 1 << 40},
		Give{Partition: 1, Lease: strings.Repeat("lease", 100)},
	} {
		checkRoundTrip(t, Message{Entries: []Entry{e, Again{}}})
	}
}

// still is a session that lasts, and is asked for nothing.
type still struct {
	lock.Session
	id string
}

func (s still) ID() string              { return s.id }
func (s still) ValidFor() time.Duration { return time.Second }

type noCoordinator struct{ lock.Coordinator }

// TestStrictCountsOn: a title under the same stamp goes on counting, whatever became of
// the partition meanwhile; a new stamp begins anew, above.
//
// Mutant: each publication begins anew.
func TestStrictCountsOn(t *testing.T) {
	b := &arbitrated{records: []lock.Record{{Partition: 0}, {Partition: 1}}, bench: &bench{t: t, lanes: newTestLanes(2)}}
	o, err := New(Config{
		Self: ma, Partitions: 2, Lanes: b.lanes, Send: func(ring.Member, []byte) {}, Log: slog.New(slog.DiscardHandler),
		Coordinator: noCoordinator{}, AcquireTimeout: time.Second, HandoffTimeout: time.Second, Suspicion: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	b.Table = o.table
	fence := func() string {
		t.Helper()
		f, left, err := o.Strict(0)
		if err != nil {
			return err.Error()
		}
		if left != time.Second {
			t.Errorf("valid for %v", left)
		}
		return fmt.Sprintf("%d+%d", f>>fenceBits, f&fenceMost)
	}
	b.want("without a title", fence(), ErrNoTitle.Error())
	o.registrar.session = still{id: "A"}
	v := View{Live: []ring.Member{ma}, Targets: []ring.Member{ma, ma}, Enough: true}
	o.SetView(v)
	o.do(func(t *Table) { t.Begin("A") })
	b.want("before it is taken", fence(), ErrNoTitle.Error())
	o.do(func(*Table) { b.takes() })
	b.want("taken", fence(), "1+1")
	v.Enough = false
	o.SetView(v)
	b.want("owned", o.Owned(), 0)
	v.Enough = true
	o.SetView(v)
	b.want("owned again", o.Owned(), 2)
	b.want("under the same stamp", fence(), "1+2")
	o.do(func(t *Table) { t.Drew("A", lock.Tenure{Partition: 0, Tenure: 1}, 5) })
	b.want("under a new stamp", fence(), "5+1")
	o.do(func(t *Table) {
		o.registrar.session = still{id: "A2"}
		t.Begin("A2")
	})
	b.want("under a new lease", fence(), ErrNoTitle.Error())
	b.over = map[string]bool{"A": true}
	b.records[0].Stamp = 5
	o.do(func(*Table) { b.takes() })
	b.want("taken again", fence(), "6+1")
	o.grants[0].Load().used.Store(fenceMost - 1)
	b.want("the last one", fence(), fmt.Sprintf("6+%d", fenceMost))
	if _, _, err := o.Strict(0); !errors.Is(err, ErrNoFences) {
		t.Errorf("after the last one: %v", err)
	}
}
