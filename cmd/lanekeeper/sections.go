package main

import (
	"log/slog"

	"lanekeeper/ownership"
	"lanekeeper/queue"
)

// keyState is one kind of what is known of keys, and has to be where the keys are.
type keyState interface {
	Export(partition int, except []string) []byte
	ExportKey(partition int, key string) []byte
	Import(partition int, data []byte) error
}

// section is how a keyState travels: kinds and versions that another node does not know
// are left out there.
type section struct {
	kind    uint16
	version uint8
	state   keyState
}

// The kinds of sections.
const (
	sectionRecords uint16 = 1 + iota
	sectionHalts
	sectionMarks
)

// sections implements ownership.Sections.
type sections struct {
	all []section
	log *slog.Logger
}

func (s *sections) Export(partition int, except []string) []ownership.Section {
	return s.export(func(state keyState) []byte { return state.Export(partition, except) })
}

func (s *sections) ExportKey(partition int, key string) []ownership.Section {
	return s.export(func(state keyState) []byte { return state.ExportKey(partition, key) })
}

func (s *sections) export(of func(keyState) []byte) (out []ownership.Section) {
	for _, section := range s.all {
		if data := of(section.state); len(data) > 0 {
			out = append(out, ownership.Section{Kind: section.kind, Version: section.version, Data: data})
		}
	}
	return out
}

func (s *sections) Import(partition int, in []ownership.Section) {
	for _, section := range s.all {
		for _, i := range in {
			if i.Kind != section.kind || i.Version != section.version {
				continue
			}
			if err := section.state.Import(partition, i.Data); err != nil {
				s.log.Error("what another node knew of a partition's keys is lost", "event", "section-lost", "partition", partition, "kind", i.Kind, "err", err)
			}
		}
	}
}

// sealingLanes are lanes of which somebody is told when a partition was sealed.
type sealingLanes struct {
	*queue.Lanes
	sealed func(partition int)
}

// Seal implements ownership.Lanes.
func (l sealingLanes) Seal(partition int) [][]byte {
	keys := l.Lanes.Seal(partition)
	l.sealed(partition)
	return keys
}
