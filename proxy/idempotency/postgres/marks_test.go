package postgres

import (
	"testing"

	"lanekeeper/lock/locktest"
	"lanekeeper/proxy/sequence/sequencetest"
)

// marks is the suite of marks.
//
// Mutants: a mark falls; epochs are ignored; a time is shortened, or not prolonged; what
// has expired is read, or stands.
func marks(t *testing.T, server *locktest.Server) {
	sequencetest.Run(t, &sequencetest.Place{
		Timeout: testTimeout, Kill: server.Kill, Start: server.Start,
		Open: func(t testing.TB) *sequencetest.Node {
			relay := locktest.NewRelay(t, server.Address)
			store := openStore(t, Config{DSN: dsn(relay.Address()), Table: "Marked", CreateTable: true, Timeout: testTimeout})
			return &sequencetest.Node{Store: store, Close: store.Close, LoseReply: func() { relay.CutAt(1) }}
		},
	})
}
