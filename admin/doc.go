// Package admin lets people and machines look at a node, and operators drain
// it.
//
// Observe is the handler of the observe port: health and metrics. It may be open
// to a whole network because nothing can be changed through it and nothing it
// shows names a key.
//
// Handler is the handler of the admin port: who the members are, who holds
// which partition, where a key belongs, which keys are hot, what has happened, and
// draining. It is meant for loopback; a node that opens it to others asks for a token.
//
// Journal keeps what has happened: the lines of the log that are events. Ledger keeps
// the requests whose outcome nobody can say.
//
// Both serve net/http, apart from the port that carries traffic, so that a node
// in trouble still answers. The package starts no goroutine.
package admin
