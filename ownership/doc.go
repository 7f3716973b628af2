// Package ownership decides which node owns a partition, and moves partitions
// between nodes so that no two of them ever run the same key at once.
//
// The ring says who should own a partition, its target. This package says who
// does. A [Table] is what one node knows and does about it: events go in, and
// messages, calls of its lanes and routes come out. It has no clock, no goroutine
// and no I/O, so every order of events can be tried, and the tests do try them.
// [Ownership] is a Table with a lock, a timer and an encoding around it.
//
// # States
//
// For each partition, at each node:
//
//	         the view makes this          everybody stood back,
//	         node the target              or the owner gave
//	foreign ----------------> claiming ----------------------> owned
//	 ^ ^                         |                               |
//	 | |   no longer the target  |                               |
//	 | +-------------------------+                               |
//	 |   the target has claimed it, or too few members are alive |
//	 +-----------------------------------------------------------+
//
// A node that has given a partition away is foreign to it, and its draining keys
// go on: those that had tickets, which run to their end where they are. It says
// KeyDone to the new owner when a key has none left. The new owner runs all other
// keys at once. So the pause of a key is the rest of its own backlog, nothing is
// dropped, and nobody else notices.
//
// A move, in messages: the target sends Claim to everybody; the owner answers
// Give, with the draining keys; the target says Taken, and Held to everybody. Who
// doesn't own the partition answers Answer. To be silent is to say "not yet".
//
// # Who is authoritative for what
//
// Membership for who is alive, and the ring for targets: both come with [View],
// and may differ between nodes at any moment. The owner for its partition, until
// it has given it away. Without one, all live members together: the target becomes
// the owner when each of them has stood back. Routes are hearsay, good enough to
// send a request somewhere: only the owner takes its ticket. Epochs rise with each
// change of owner and order that hearsay; they decide nothing else.
//
// A member is an incarnation. A restarted node is another member, and what its
// predecessor said, held or ran is over.
//
// # Rules
//
// Each with what happens without it. A test explores all futures of a small
// cluster for each, and another takes each rule away and expects that to be
// noticed.
//
//  1. Everybody alive is asked, draining members too: who left the ring may still
//     be the owner.
//  2. Nobody is overlooked. A round of claims without an owner is complete when
//     every live member has answered, and nobody else is known to exist: answers
//     name whom their sender sees, and a message is a sign of its sender. And a
//     newcomer claims nothing before every member has sent it something, for from
//     then on they know that it exists; a member that stays mute is given up on
//     after two retries. Whom nobody sees any more who told of it is gone: those who
//     stood back say when they lose sight of somebody.
//     Without: b comes by one door and c by another; a gives to c; b, who does
//     not see c yet, hears from all others that they do not own it. Or: a gives to
//     c, who has just come, and dies; b never heard of c, is alone, and owns.
//  3. To stand back binds. Who has answered a round does not claim before that
//     round is over by its claimant's word, or the claimant is dead; and a claimant
//     that gives such word forgets the answer.
//     Without: b answers c; then b becomes the target, claims, and a gives to it
//     and dies; c has b's answer, sees a dead, and owns it too.
//  4. To stand back gives up all earlier claims. What is given in answer to one of
//     those is returned, and its giver is the owner again.
//     Without: b claims, a gives; before that arrives b sees that c should have the
//     partition and stands back for it; a dies; c owns it; b reads what a gave.
//  5. One move at a time. An owner that still waits for a KeyDone doesn't give.
//     Without: a runs x and gives to b, b gives to c with an empty list, c runs x.
//     Or a gives to b and b to a, and each waits for the other.
//  6. Answers list what may still run at the one who answers, whatever it is, and
//     its newest list counts. A wait ends with KeyDone, or with that incarnation's
//     death, but for what it may have lent (rule 15).
//     Without: a runs x and gave to b; b dies; c claims, a answers, c runs x.
//  7. What a member gives that is not in view is not believed: it would list keys
//     whose end nobody tells any more. If it lives, it says it again.
//  8. Nothing that matters is lost. A Give is numbered and kept until its receipt,
//     and lists what runs now each time it is sent; a number that was taken is not
//     taken again. When a connection is made, claims, Gives, questions and waits are
//     said again, and the other side is asked to do the same. A Retry now and then
//     is a net under that, nothing more.
//     Without numbers: b takes, its receipt is lost, b gives to c, and takes the
//     repeated Give again.
//  9. Who stood still is not believed before it is confirmed. It asks one member
//     after the other of those that were there before, and until one has said that its
//     tenure stands, gives nothing and runs nothing. Whoever has heard of a later tenure
//     denies it, or has stood back for one, or stood still itself; if nobody is left of
//     those that were there, it is denied. If it has lost sight of all others it
//     waits for a while: it may have taken them for dead because it could not hear
//     them. What such a node is given is a new tenure: all that waited in the old one
//     is sent away. It is a newcomer: its rounds are over, it does not say that it holds
//     anything, and what had been sent to it before it noticed is thrown away.
//     Without: b stands still, a takes over and runs; b wakes and gives what it no
//     longer has. Or c, who came meanwhile and has heard of no owner, confirms b; or
//     c, who stood still itself; or c, whom b told that it holds it. Or a gives to b,
//     and b runs what it had before that in front of it. Or a stood back for b, who
//     reads that only now, when a has taken b for dead and the partition for itself.
//  10. Two owners become one. Each says Held to everybody who comes into view or
//     into reach; the one that isn't the target gives to the other, which merges:
//     the higher epoch and one more, the waits of both.
//
// # Failures
//
// In what follows a node is falsely dead if it was declared dead and was not.
//
//   - A member dies: its partitions are taken over when the survivors' views say
//     so. What it ran is unknown and may overlap with what comes next. Waits for it
//     end when all others have answered whether it has lent them anything (rule 15).
//   - A live member doesn't answer: a Give needs nobody's answer but the owner's.
//     Partitions without an owner wait for it until it is declared dead. [State]
//     names it.
//   - A split, or a false death: both sides may own and run, unless View.Enough
//     stops one of them, and then until it has noticed. After it, rule 10. Order and
//     exclusion are promised again when that is over, not during it.
//   - A node stands still: [Ownership.Guard] stops it before it runs anything, until
//     a member has said what became of its partitions (rule 9). Others may have taken
//     them over; those it gives up.
//   - A node claims, and dies before some member ever saw it, while that one takes
//     over from another dead member: if all that had seen it are dead as well, or it
//     had spoken for itself, it is waited for until two retries have passed without
//     a sign of it.
//
// Not covered by any rule, since nobody can know of it: a node that owns a
// partition or was lent a turn of it, and another that has heard nothing of it, when all those are gone by
// which it could. That is a split, if a short one. It takes a join, the end of the
// member that knew both, and messages that are later than the verdict on that.
//
// # Helpers
//
// An owner may lend the turn of a key to the member where requests of it came in.
//
//  15. Who was lent a turn may still run that key, and lists it like a draining one
//     until it doesn't. It takes no turn from whom it does not take for the owner, or
//     when it has stood back for somebody, or has heard from somebody out of its view
//     that it is a later owner. If it becomes the owner itself, it waits for itself. And
//     a wait for a member that dies (rule 6) goes on until each of the others has said
//     that it was not lent this turn; they hear first who is the owner.
//     Without: a lends b the turn of x0 and dies; c claims, b answers that it runs
//     nothing, and c runs x1. Or c claims and b stands back, and only then reads that a has
//     lent it a turn. Or b takes over itself. Or a gives to c, lends b the turn of x0,
//     which drains, before b has heard of c, and dies; for c, which waited for a, that is
//     the end of x0, and it runs x1.
//
// The rest is the lender's and the helper's to keep. A lender's ticket ends when the
// helper has said so, or when its time is over, and nothing that the helper has begun
// may be at work then; with a coordinator it is over before the lender's lease is. A
// helper reads of its turn and takes it in one step, and from nobody who has left its
// view.
//
// # The coordinator
//
// With one, members still agree on who should own a partition, but its record in the
// store says who does (title.go). A tenure begins when the members let it, and the
// record is the node's own, by compare-and-set, under the node's lease: that is its
// title. Strict requests run under a title alone, and while the lease is certainly
// valid ([Ownership.Strict]); they carry a fence, which rises from one to the next and
// from title to title, so that a resource can refuse whatever comes late all the same.
//
//  11. A title is bound to the lease that it was taken under. When the lease ends, what
//     drains under it is sent away; what the node goes on owning needs a new title, and
//     if the record has been another's meanwhile, what waited is sent away as well.
//     Without: x0 drains at a, whose lease ends; b waits for that and runs x1; a gets
//     another lease, looks at it, and runs x0.
//  12. A live holder is followed with its consent alone. Every word that a member does not
//     own a partition, or gives it, says up to which tenure it lets go; and it begins
//     nothing under those any more, also if a take of its own is still on its way.
//     Without: a gives to b, and takes it for dead; it goes on under its old tenure
//     while b, which lives, takes what was given.
//  13. Who gave a partition away, and still runs keys of it, stays in the record as prev
//     until it has said there that it doesn't, or its lease has ended: its death by gossip
//     ends nothing. Keys wait that it has listed, and all of them as long as it has listed
//     none. It says so when its last key is gone, and once more when it hears of the
//     next owner, whose take may have named it after that.
//     Without: a runs x0 and gave to b; b dies; c takes b for dead as well as a, and
//     runs x1.
//  14. What is cut off at its lease's end holds its lane: a call that was given up has
//     not stopped, and the lease may yet be renewed. This is the caller's to keep.
//
// A fence is drawn when its request is sent, or, for those of a lent turn, when that is
// lent. That makes it rise for each key: a lane lets one after the other run, and who
// gets a title gets a higher stamp. (It would rise as well if it were drawn when the
// ticket is taken, for tickets run in their order, and rule 11 sends away what waited
// while another had the title. So no scenario tells the two apart.)
//
// If the store cannot be reached and the lease is not valid any more, the members' word
// is enough again: what is not strict goes on. When the store is back, titles are taken
// for what is owned; who finds another's record there gives way.
//
// A node that sees too few members, and runs nothing, gives its lease up: those who are
// more may have what it had.
//
// A node that alone cannot reach the store keeps its share, and refuses what is strict
// there. Nobody takes it over, for the members see it alive.
//
// # Seams
//
// State that has to travel with keys goes through [Sections].
package ownership
