package ownership

import (
	"testing"

	"lanekeeper/ring"
)

// foreign is a bench in whose view b should own the partitions, and which has heard
// that b owns the first one.
func foreign(t *testing.T) *bench {
	b := newBench(t, nil)
	b.sees(mb, mb, mc)
	b.reads(mb, Held{Partition: 0, Epoch: 1, Number: 1})
	b.reads(mc)
	b.said()
	return b
}

func (b *bench) help(owner string) bool {
	return b.Help(0, []byte("x"), map[string]ring.Member{"b": mb, "c": mc}[owner])
}

// TestHelp: a turn counts for as long as it lasts, and who was told of it, or asks, is
// told of its end. Two owners after a split may have lent one each: then that is the end
// of the last.
//
// Mutants: "a new owner is told of no lent turns", "turns are taken from the dead".
func TestHelp(t *testing.T) {
	b := foreign(t)
	b.want("from who does not own it", b.help("c"), false)
	b.want("from the owner", b.help("b"), true)
	b.reads(mc, Held{Partition: 0, Epoch: 2, Number: 1})
	b.want("to another owner", b.said(), "c:Answer")
	b.want("from the owner before", b.help("b"), false)
	b.want("from the other", b.help("c"), true)
	b.want("counts", b.Counts(), Counts{Helping: 2})
	b.reads(mb, Ask{Partition: 0, Keys: []string{"x", "y"}})
	b.want("y does not run", b.said(), "b:KeyDone")
	b.Helped(0, []byte("x"))
	b.want("one has ended", b.said(), "")
	b.want("state", b.State(0).Helping, 1)
	b.Helped(0, []byte("x"))
	b.want("both have ended", b.said(), "b:KeyDone c:KeyDone")
	b.want("idle", b.Counts().Idle(), true)
	b.Helped(0, []byte("x"))
	b.want("ended once more", b.said(), "")

	b = foreign(t)
	b.sees(mc, mc)
	b.want("from the dead", b.help("b"), false)
}

// TestTheHelperIsGivenThePartition: what it helps with waits for itself, and it does not
// give the partition on before that has ended. Others may wait for that as well.
//
// Mutant: "a tenure forgets who waits for a lent turn".
func TestTheHelperIsGivenThePartition(t *testing.T) {
	b := foreign(t)
	b.help("b")
	b.reads(mc, Ask{Partition: 0, Keys: []string{"x"}})
	b.reads(mb, Give{Partition: 0, Number: 1, Claim: 1, Epoch: 2, Keys: []string{"x"}})
	b.want("role", b.State(0).Role, Owned)
	b.sees(mc, mb, mc)
	b.reads(mc, Claim{Partition: 0, Number: 1})
	b.said()
	b.reads(mb, KeyDone{Partition: 0, Key: "x"})
	b.want("waits for itself", b.lanes.lanes[0].blocked, true)
	b.want("from itself", b.Help(0, []byte("x"), ma), false)
	b.want("gives nothing", b.said(), "")
	b.Helped(0, []byte("x"))
	b.want("goes on", b.lanes.lanes[0].blocked, false)
	b.want("tells, and gives", b.said(), "c:KeyDone c:Give")
}

// TestRefusedTurns: who has stood back for a claim that was given up since would take
// no turn any more. It asks for its release, once: a claim that lives begins anew, and
// is answered anew.
//
// Mutant: "turns are refused for ever".
func TestRefusedTurns(t *testing.T) {
	b := foreign(t)
	b.sees(mc, mb, mc)
	b.reads(mc, Claim{Partition: 0, Number: 7})
	b.want("stands back", b.said(), "c:Answer")
	b.Retry()
	b.want("nothing was refused", b.said(), "")
	b.want("is lent a turn", b.help("b"), false)
	b.want("asks", b.said(), "c:Release")
	b.want("is lent another", b.help("b"), false)
	b.want("asks once", b.said(), "")
	b.reads(mc, Released{Partition: 0, Number: 7})
	b.want("released", b.help("b"), true)
	b.Retry()
	b.want("nothing is open", b.said(), "")
}

// TestTheDeadMayHaveLent: when a member dies for whose key this node waits, all others
// may have been lent the turn. They hear first that it is the owner, and are asked again
// like anybody who is waited for. If nobody is left, nobody was lent anything.
//
// Mutant: "the dead have lent nothing".
func TestTheDeadMayHaveLent(t *testing.T) {
	dead := func(others ...ring.Member) *bench {
		b := claiming(t)
		b.reads(mb, Give{Partition: 0, Number: 1, Claim: 1, Epoch: 9, Keys: []string{"x"}})
		b.reads(mc, Answer{Partition: 0, Number: 1, Keys: []string{"y"}})
		b.said()
		b.sees(ma, others...)
		return b
	}
	b := dead(mc)
	b.want("asks", b.said(), "c:Held c:Ask")
	b.want("waits", b.Counts().Waits, 2)
	b.Up(mc)
	b.want("asks again", b.said(), "c:Again c:Held c:Ask")
	b.reads(mc, KeyDone{Partition: 0, Key: "x"})
	b.want("x was not lent", []bool{b.lanes.lanes[0].blocked, b.lanes.lanes[1].blocked}, []bool{false, true})
	b = dead()
	b.want("nobody is left", b.Counts().Waits, 0)
}
