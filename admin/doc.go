// Package admin lets people and machines look at a node, and operators drain
// it.
//
// Observe is the handler of the observe port: health and metrics. It may be open
// to a whole network because nothing can be changed through it and nothing it
// shows names a key.
//
// Handler is the handler of the admin port: who the members are, who holds
// which partition, where a key belongs, which keys are hot, which lanes are deep or
// stopped and why, what has happened, and what operators do about it. It is meant for
// loopback; a node that opens it to others asks for a token. Any node answers for its
// cluster: see ask.go. openapi.json describes it all.
//
// Journal keeps what has happened: the lines of the log that are events. Ledger keeps
// the requests whose outcome nobody can say.
//
// Both serve net/http, apart from the port that carries traffic, so that a node
// in trouble still answers. The package starts no goroutine but those in which
// it asks other members, which end before the answer.
package admin
