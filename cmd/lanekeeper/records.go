package main

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"lanekeeper/proxy/idempotency"
	"lanekeeper/proxy/sequence"
)

// keyRecords is what a node remembers of requests: in its memory, and in stores.
type keyRecords struct {
	memory *idempotency.Memory
	marks  *sequence.Marks
	stores map[string]idempotency.Store // by what a route calls them; the memory is among them

	owned atomic.Pointer[func(partition int) bool] // nil: all are
}

// recordsConfig is what a node needs for it.
type recordsConfig struct {
	max      int
	maxBytes int64
	stores   map[string]idempotency.Store // which the node closes
}

// storeOwner is what routes call the memory.
const storeOwner = "owner"

func newKeyRecords(config recordsConfig) *keyRecords {
	r := &keyRecords{marks: sequence.New(sequence.Config{MaxMarks: config.max}), stores: make(map[string]idempotency.Store)}
	r.memory = idempotency.NewMemory(idempotency.MemoryConfig{
		MaxRecords: config.max, MaxBytes: config.maxBytes,
		Owned: func(partition int) bool {
			owned := r.owned.Load()
			return owned == nil || (*owned)(partition)
		},
	})
	r.stores[storeOwner] = r.memory
	for name, store := range config.stores {
		r.stores[name] = store
	}
	return r
}

// sections are what travels of it.
func (r *keyRecords) sections() []section {
	return []section{{sectionRecords, 1, recordsState{r.memory}}, {sectionMarks, 1, r.marks}}
}

// recordsState implements keyState. The memory says itself what it can't read.
type recordsState struct{ *idempotency.Memory }

func (s recordsState) Import(partition int, data []byte) error {
	s.Memory.Import(partition, data)
	return nil
}

func (r *keyRecords) close() error {
	var errs []error
	for name, store := range r.stores {
		if err := store.Close(); err != nil {
			errs = append(errs, fmt.Errorf("stores.%s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// Collectors of the node's figures.
func (r *keyRecords) collectors() []prometheus.Collector {
	return []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "lanekeeper_idempotency_entries", Help: "Requests that are remembered in this node's memory, copies of what has moved away included.",
			ConstLabels: prometheus.Labels{"store": storeOwner},
		}, func() float64 { n, _ := r.memory.Entries(); return float64(n) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "lanekeeper_idempotency_bytes", Help: "Memory of these.", ConstLabels: prometheus.Labels{"store": storeOwner},
		}, func() float64 { _, bytes := r.memory.Entries(); return float64(bytes) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "lanekeeper_sequence_entries", Help: "Producers of keys whose numbers are remembered, copies of what has moved away included.",
		}, func() float64 { return float64(r.marks.Len()) }),
	}
}
