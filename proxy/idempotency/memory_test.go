package idempotency_test

import (
	"testing"
	"time"

	"lanekeeper/proxy/idempotency"
	"lanekeeper/proxy/idempotency/idempotencytest"
)

// TestMemory: the suite.
//
// Mutants: Again takes whatever print, or is ignored; an ended Run ends again; Forget
// makes unknown; Lose forgets; MaxEntry is one less, or for the body alone; the reply
// is not copied; Close leaves what runs; Begin goes on after Close; the context isn't
// looked at; a Run that is nil isn't.
func TestMemory(t *testing.T) {
	idempotencytest.Run(t, &idempotencytest.Place{
		Lease: 200 * time.Millisecond, Timeout: time.Second,
		Open: func(testing.TB) *idempotencytest.Node {
			return &idempotencytest.Node{Store: idempotency.NewMemory(idempotency.MemoryConfig{MaxRecords: 1000, MaxBytes: 100 << 20})}
		},
	})
}

func BenchmarkMemory(b *testing.B) {
	idempotencytest.Bench(b, idempotency.NewMemory(idempotency.MemoryConfig{}))
}
