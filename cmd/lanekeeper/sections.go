package main

import (
	"slices"

	"lanekeeper/ownership"
)

// What travels with a partition, by the kinds of its sections. A number, once used, means the same for
// ever: nodes of different versions speak to each other.
const (
	sectionRecords uint16 = 1 + iota // of Idempotency-Keys
	sectionHalts                     // lanes that are halted
	sectionMarks                     // of client sequence numbers
)

// traveller is the state of one kind: see ownership.Sections for what its methods mean. They are called
// one at a time, under the lock of the ownership, and must neither block nor call it.
type traveller interface {
	// export returns the state of a partition but for some keys; nil: there is nothing to be said.
	export(partition int, except []string) []byte
	// exportKey returns the state of one key; nil: it has none.
	exportKey(partition int, key string) []byte
	// accept takes what either of another node returned. It cannot refuse it: what it does not
	// understand it tells the log.
	accept(partition int, version uint8, data []byte)
	// lasts reports whether it stays true, whatever has happened since to the partition elsewhere.
	lasts() bool
	// version is that of what it exports.
	version() uint8
}

// sections hands each kind of state to who knows it. It implements ownership.Sections.
type sections map[uint16]traveller

var _ ownership.Sections = sections{}

// Export implements ownership.Sections.
func (s sections) Export(partition int, except []string) []ownership.Section {
	return s.each(func(t traveller) []byte { return t.export(partition, except) })
}

// ExportKey implements ownership.Sections.
func (s sections) ExportKey(partition int, key string) []ownership.Section {
	return s.each(func(t traveller) []byte { return t.exportKey(partition, key) })
}

// Import implements ownership.Sections.
func (s sections) Import(partition int, from []ownership.Section, older bool) {
	for _, section := range from {
		if t := s[section.Kind]; t != nil && (t.lasts() || !older) {
			t.accept(partition, section.Version, section.Data)
		}
	}
}

// each asks every kind, in the order of their numbers.
func (s sections) each(ask func(traveller) []byte) (all []ownership.Section) {
	for kind, t := range s {
		if data := ask(t); data != nil {
			all = append(all, ownership.Section{Kind: kind, Version: t.version(), Data: data})
		}
	}
	slices.SortFunc(all, func(a, b ownership.Section) int { return int(a.Kind) - int(b.Kind) })
	return all
}
