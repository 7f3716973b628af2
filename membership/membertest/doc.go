// Package membertest is a network in memory for tests of several nodes in one
// process: packets for gossip, and streams that behave like TCP.
//
// It delays, loses, duplicates and reorders packets, delays streams (a lost
// segment is a retransmission, so a delay), cuts links one way or both, resets
// streams, kills processes and unplugs machines. Everything random comes from a
// seed. Nothing blocks for ever on a peer that is gone, and everything works in
// a testing/synctest bubble, on its virtual time: the network must be made in
// the bubble then. It uses no goroutine but one for each [Transport].
//
// A host is an IP address, and runs one process:
//
//	Kill    the process ends: the kernel closes its sockets, answers new
//	        connects with a refusal, and drops packets.
//	Unplug  the machine is gone: silence, on open streams too.
//	Boot    after either, the host is up again and empty. What comes over a
//	        stream of before is answered with a reset.
//
// In both cases what the dead process still calls fails at once, so that its
// goroutines end.
//
// Locks: a stream's, then the network's. Nothing is called back under either.
package membertest
