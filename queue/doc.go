// Package queue orders requests that share a key.
//
// Each key has a lane: a first-in, first-out line of tickets. A ticket is taken
// with [Lanes.Admit], which never blocks and which alone decides the order;
// [Ticket.Wait] blocks until the ticket's turn; [Ticket.Done] ends the turn and
// passes it on. Admit and Wait are two calls because a call that both took the
// place and blocked would leave the order to the scheduler.
//
// Promises, numbered once and cited by number:
//
//  1. Exclusion. A turn of class Exclusive is the only turn of its lane. Turns
//     of class Shared run together, up to the limit of the one to be granted.
//  2. Order. Turns are granted in the order of Admit: no ticket gets its turn
//     while an earlier one of its lane still waits.
//  3. Leaving. A ticket that leaves while it waits removes itself and nothing
//     else. It passes no turn on, for it held none.
//  4. Progress. A ticket at the head of its lane that may run has its turn.
//     None may while its lane is halted or paused.
//  5. Bounds. Waiting tickets are bounded per lane and per node, in number and
//     in bytes, and so is the number of lanes. A refused ticket changes nothing.
//  6. Idle keys are free. A lane exists while a ticket of it waits or runs, and
//     until it cools if it is hot, or goes on if it is halted or paused.
//  7. Superseding. A request that has to wait may take the place of those directly
//     before it, as far as its [Effect] makes them needless: in one step with its
//     Admit, so that none of them gets a turn meanwhile. It takes none away that
//     has its turn, and none at all if it is refused.
//
// A key is hot when its backlog is large and dominant for long enough: see
// [HotRule]. Only a lane with a backlog is watched for it. [Lanes.Top] counts
// admissions instead, for display; it decides nothing.
//
// Not promised: persistence, retries, fairness between lanes, or any clock but
// Wait's own. The package does no I/O and starts no goroutine; whoever waits
// runs its own work when its turn comes.
//
// Locks: lanes are spread over shards, each with one mutex that guards its
// lanes and their tickets. No two shards are ever locked at once, nothing
// blocks and no waiter is woken under one.
package queue
