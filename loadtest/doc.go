// Package loadtest finds out whether requests with the same key really ran one
// at a time and in order. It looks from the two ends only, never from inside a
// proxy, so it judges any proxy, or none, by the same measure.
//
//	Traffic ──────────────► whatever is under test ──────────────► Witness
//	what each client saw    (lanekeeper, Plain, nothing)           what ran, and when
//	        └──────────────────────► Check ◄──────────────────────────┘
//
// A Witness is an upstream that records each request's execution in a History;
// replicas share one. Traffic sends numbered requests and notes what came back.
// Check is pure: it takes both accounts and names every pair that breaks a
// promise. Plain is an ordinary round-robin proxy, for the comparison.
//
// One Clock serves a process. It never gives the same reading twice, so what
// was measured in one process is totally ordered, also in virtual time. Check
// compares readings of the clients' clock only with each other, and the
// witness's only with each other: the two may be different machines.
//
// The package imports nothing else of ours; any test may import it.
package loadtest
