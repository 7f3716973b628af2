// Package membership knows who is alive. It gossips with the other members of a
// cluster and publishes a [View]: the live members, and the ring over those
// that take partitions.
//
// Promises:
//
//  1. A View is whole and immutable; views of one node have rising versions.
//     There is none (version 0, no members) before a seed was joined, or
//     the join timeout passed without one.
//  2. One node is one member, whatever number of its incarnations gossip still
//     believes in: the highest is in the view.
//  3. A change is published at most Settle after it became known, in one view
//     with everything else that became known in the meantime.
//  4. A node of another layout, key or cluster is never a member, on neither
//     side, and never the reason for a cluster of its own: who is refused stays
//     out and says why.
//  5. Seeds are joined again for ever, resolved anew each time, and so are
//     members that died: a split that heals becomes one view again.
//  6. Start either runs or has released everything. Stop returns when nothing
//     of this package runs any more.
//
// Not promised: agreement. Two nodes may see different members for as long as
// gossip needs, and both sides of a split see each other dead. Whoever builds
// on a View must be right while views differ.
//
// Gossip is hashicorp/memberlist, whose callbacks run under its own lock: they
// copy what they are told, kick a goroutine and return. That goroutine alone
// publishes; another joins; a third writes the log, so that a log device that
// blocks stops no gossip. Lock order: memberlist's, then Membership.mu; nothing
// is called under mu.
//
// After Stop a probe of memberlist's that is waiting for an answer may outlive
// it by a few probe intervals. It can reach neither the network nor this package.
package membership
