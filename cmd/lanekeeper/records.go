package main

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"lanekeeper/proxy/idempotency"
	"lanekeeper/proxy/sequence"
	"lanekeeper/queue"
)

// keyRecords is what a node remembers of requests: in its memory, and in stores.
type keyRecords struct {
	memory  *idempotency.Memory
	marks   *sequence.Marks
	stores  map[string]idempotency.Store // by what a route calls them; the memory is among them
	lasting map[string]sequence.Store    // those that also keep marks

	owned atomic.Pointer[func(partition int) bool] // nil: all are
}

// recordsConfig is what a node needs for it.
type recordsConfig struct {
	alone    bool // there is no cluster
	max      int
	maxBytes int64
	stores   map[string]recordStore // which the node closes
}

// storeOwner is what routes call the memory.
const storeOwner = "owner"

func newKeyRecords(config recordsConfig) *keyRecords {
	r := &keyRecords{marks: sequence.New(sequence.Config{MaxMarks: config.max}), stores: make(map[string]idempotency.Store), lasting: make(map[string]sequence.Store)}
	r.memory = idempotency.NewMemory(idempotency.MemoryConfig{
		MaxRecords: config.max, MaxBytes: config.maxBytes, Alone: config.alone,
		Owned: func(partition int) bool {
			owned := r.owned.Load()
			return owned == nil || (*owned)(partition)
		},
	})
	r.stores[storeOwner] = r.memory
	for name, store := range config.stores {
		r.stores[name], r.lasting[name] = store, store
	}
	return r
}

// travellers are what travels with the node's partitions.
func (n *node) travellers() sections {
	return sections{sectionRecords: recordsState{n.records.memory}, sectionHalts: halts{n}, sectionMarks: marksState{n}}
}

// recordsState implements traveller. The memory has a version of its own in what it
// exports, and ignores what it can't read.
type recordsState struct{ *idempotency.Memory }

func (recordsState) version() uint8 { return 1 }

// lasts: what has run has run.
func (recordsState) lasts() bool { return true }

func (s recordsState) export(partition int, except []string) []byte {
	return s.Export(partition, except)
}
func (s recordsState) exportKey(partition int, key string) []byte { return s.ExportKey(partition, key) }

func (s recordsState) accept(partition int, version uint8, data []byte) {
	if version == s.version() {
		s.Import(partition, data)
	}
}

// marksState implements traveller.
type marksState struct{ *node }

func (marksState) version() uint8 { return 1 }

// lasts: a number that comes next may have been run elsewhere.
func (marksState) lasts() bool { return false }

func (s marksState) export(partition int, except []string) []byte {
	return s.records.marks.Export(partition, except)
}

func (s marksState) exportKey(partition int, key string) []byte {
	return s.records.marks.ExportKey(partition, key)
}

func (s marksState) accept(partition int, version uint8, data []byte) {
	err := errUnknownVersion
	if version == s.version() {
		err = s.records.marks.Import(partition, data)
	}
	if err != nil {
		s.log.Error("what another node knew of producers' numbers is lost", "partition", partition, "version", version, "err", err)
	}
}

var errUnknownVersion = errors.New("its version is not known here")

// markedLanes are lanes whose tenures the marks know of.
type markedLanes struct {
	*queue.Lanes
	marks *sequence.Marks
}

// Open implements ownership.Lanes.
func (l markedLanes) Open(partition int) {
	l.marks.Open(partition) // first: a request may be judged at once
	l.Lanes.Open(partition)
}

// Seal implements ownership.Lanes.
func (l markedLanes) Seal(partition int) [][]byte {
	keys := l.Lanes.Seal(partition)
	l.marks.Seal(partition) // last: who was held takes its place anew, and finds none
	return keys
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
