//go:build linux

package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"lanekeeper/loadtest"
)

// life is a process of a campaign, from its start to its end.
type life struct {
	*process
	node  int
	ended int64 // 0: it goes on
}

// belief is that a node took another one for dead, which was not. Times are of the
// history's clock.
type belief struct {
	by, of      int
	from, until int64
}

// begun and over keep the lives. Only one of a node's is open at a time.
func (k *episode) begun(i int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lives = append(k.lives, &life{process: k.nodes[i], node: i})
}

func (k *episode) over(i int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, l := range k.lives {
		if l.node == i && l.ended == 0 {
			l.ended = k.history.Clock().Now()
		}
	}
}

// beliefs are read from what the nodes logged. That a node died that had been stopped, or
// had just gone on, is none: it must find out for itself.
func (k *episode) beliefs() (all []belief) {
	offset := k.history.Clock().Now() - time.Now().UnixNano()
	members := make(map[string]*life) // by how logs call them
	logs := make(map[*life][]map[string]any)
	for _, l := range k.lives {
		l.mu.Lock()
		logs[l] = slices.Clone(l.rest)
		l.mu.Unlock()
		for _, line := range logs[l] {
			if member, _ := line["member"].(string); line["event"] == "member-joined" && strings.HasPrefix(member, nodeName(l.node)+"/") {
				members[member] = l
				break
			}
		}
	}
	for l, lines := range logs {
		for n, line := range lines {
			name, _ := line["member"].(string)
			of := members[name]
			if line["event"] != "member-died" || of == nil {
				continue
			}
			b := belief{by: l.node, of: of.node, from: at(line) + offset, until: math.MaxInt64}
			if of.ended != 0 && of.ended <= b.from || k.stood(b.of, b.from) {
				continue
			}
			if i := slices.IndexFunc(lines[n:], func(later map[string]any) bool { return later["member"] == name && later["event"] == "member-joined" }); i >= 0 {
				b.until = at(lines[n+i]) + offset
			}
			all = append(all, b)
		}
	}
	return all
}

// at is when a line was logged.
func at(line map[string]any) int64 {
	text, _ := line["time"].(string)
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		panic(fmt.Sprintf("a line of a log without a time: %v", line))
	}
	return t.UnixNano()
}

// stood is whether a node was stopped at a time, or shortly before.
func (k *episode) stood(node int, when int64) bool {
	return slices.ContainsFunc(k.diary, func(e *entry) bool {
		return e.name == "stop" && e.nodes[0] == node && when >= e.began && when <= e.end+int64(onItsWay)
	})
}

// unexplained are those beliefs for which nothing that the diary tells of is the reason: the
// machine was too busy, or the node was starved.
func (k *episode) unexplained(all []belief) []belief {
	return slices.DeleteFunc(slices.Clone(all), func(b belief) bool {
		return slices.ContainsFunc(k.diary, func(e *entry) bool {
			return e.splits() && slices.Contains(e.nodes, b.by) != slices.Contains(e.nodes, b.of) && e.during(b.from)
		})
	})
}

// logged is how late a line may be in the log, on a busy machine.
const logged = time.Second

// parted is whether one node took the other for dead: then both may run, until they have
// found out, as after a split.
func (b belief) parted(late, early *loadtest.Execution) bool {
	of := func(by, of *loadtest.Execution) bool {
		return by.Witness == nodeName(b.by) && of.Witness == nodeName(b.of)
	}
	return (of(late, early) || of(early, late)) && late.Start >= b.from-int64(logged) && late.Start-int64(healing) <= b.until
}
