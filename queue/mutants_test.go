package queue

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var allMutants = flag.Bool("mutants", false, "plant all mutants, not every other one each day")

// mutants are the classic mistakes, each as one edit of the source. A name
// here is the name other tests cite.
var mutants = []struct{ name, file, from, to string }{
	{"last in, first out", "lane.go",
		"for t := ln.waiting.head; t != nil && ln.admits(t); t = ln.waiting.head {",
		"for t := ln.waiting.tail; t != nil && ln.admits(t); t = ln.waiting.tail {"},
	{"leaving pops the front", "lane.go",
		"	l.unqueue(t)\n	t.state, t.lane, t.parked = outside, nil, false",
		"	l.unqueue(ln.waiting.head)\n	t.state, t.lane, t.parked = outside, nil, false"},
	{"leaving passes the turn on", "lane.go",
		"	woken := l.advance(ln, now) // shared",
		"	var woken wakes\n	if next := ln.waiting.head; next != nil {\n		l.unqueue(next)\n		ln.start(next, now)\n		woken.add(next)\n	}\n	// shared"},
	{"leaving does not unlink", "lane.go",
		"	l.unqueue(t)\n	t.state, t.lane, t.parked = outside, nil, false",
		"	t.state, t.lane, t.parked = outside, nil, false"},
	{"leaving does not look behind", "lane.go",
		"	woken := l.advance(ln, now) // shared",
		"	_ = now\n	var woken wakes // shared"},
	{"an idle lane leaks", "shard.go",
		"	if ln.busy() {\n		return",
		"	if true {\n		return"},
	{"a newcomer overtakes", "lane.go",
		"free := ln.waiting.head == nil && ln.admits(t)",
		"free := ln.admits(t)"},
	{"shared runs beside exclusive", "lane.go",
		"return ln.exclusives == 0 && ",
		"return "},
	{"one shared too many", "lane.go",
		"ln.running.len < max(t.maxShared, 1)",
		"ln.running.len <= max(t.maxShared, 1)"},
	{"one lane for equal hashes", "shard.go",
		"(!bytes.Equal(ln.key, key) ||",
		"(!bytes.Equal(ln.key[:0], key[:0]) ||"},
	{"bytes are not given back", "lane.go",
		"	t.lane.bytes -= t.bytes\n",
		""},
	{"the node's count is not given back", "limit.go",
		"		l.bytes.Add(-int64(bytes))\n		l.queued.Add(-1)\n",
		"		l.bytes.Add(-int64(bytes))\n"},
	{"a sealed partition admits", "partition.go",
		"	return s.open != nil && ",
		"	return false && "},
	{"Seal forgets who waits", "partition.go",
		"		if ln.busy() {\n			keys",
		"		if ln.running.len == 0 {\n			keys"},
	{"a blocked lane runs", "lane.go",
		"	if ln.blocked || ln.halt",
		"	if ln.halt"},
	{"a halted lane runs", "lane.go",
		"	if ln.blocked || ln.halt != nil || ln.pause != nil {",
		"	if ln.blocked || ln.pause != nil {"},
	{"a paused lane runs", "lane.go",
		"	if ln.blocked || ln.halt != nil || ln.pause != nil {",
		"	if ln.blocked || ln.halt != nil {"},
	{"a paused lane closes", "shard.go",
		"	if !ln.blocked && ln.halt == nil && ln.pause == nil && !ln.hot() {",
		"	if !ln.blocked && ln.halt == nil && !ln.hot() {"},
	{"the end of a pause grants nothing", "pause.go",
		"	ln.pause = nil\n	granted := l.advance(ln, l.now())",
		"	ln.pause = nil\n	var granted wakes"},
	{"the end of a pause ends the halt", "pause.go",
		"	ln.pause = nil\n",
		"	ln.pause, ln.halt = nil, nil\n"},
	{"the end of a halt ends the pause", "halt.go",
		"	ln.halt = nil\n	var woken wakes",
		"	ln.halt, ln.pause = nil, nil\n	var woken wakes"},
	{"a lane goes on and stays", "pause.go",
		"	granted := l.advance(ln, l.now())\n	l.haltChanged(ln)\n	emptied := l.closeIfEmpty(s, ln)",
		"	granted := l.advance(ln, l.now())\n	l.haltChanged(ln)\n	var emptied emptied"},
	{"cancelling pops the front", "pause.go",
		"	l.evictTicket(t, ErrWithdrawn, &woken)",
		"	l.evictTicket(ln.waiting.head, ErrWithdrawn, &woken)"},
	{"cancelling passes the turn on", "pause.go",
		"	granted := l.advance(ln, l.now()) // shared",
		"	var granted wakes\n	if next := ln.waiting.head; next != nil {\n		l.unqueue(next)\n		ln.start(next, l.now())\n		granted.add(next)\n	}\n	// shared"},
	{"cancelling does not look behind", "pause.go",
		"	granted := l.advance(ln, l.now()) // shared",
		"	var granted wakes // shared"},
	{"a running ticket is cancelled", "pause.go",
		"		if t = ln.waiting.find(ticket); t == nil && ln.running.has(ticket) {\n			err = ErrRuns",
		"		if t = ln.waiting.find(ticket); t == nil && ln.running.has(ticket) {\n			err = nil"},
	{"unblocking grants nothing", "partition.go",
		"	woken := l.advance(ln, now)\n	if ln.heat",
		"	var woken wakes\n	if ln.heat"},
	{"hot at once", "hot.go",
		"now-h.doubt >= patience",
		"now-h.doubt >= min(patience, 0)"},
	{"no hysteresis", "hot.go",
		"ease, patience = halved,",
		"ease, patience = whole,"},
	{"doubt is not forgotten", "hot.go",
		"== h.hot {\n		h.doubt = never\n",
		"== h.hot {\n"},
	{"bytes alone are not large", "hot.go",
		"		r.Bytes > 0 && ",
		"		false && "},
	{"no share of bytes", "hot.go",
		"return max(tickets, bytes)",
		"return tickets + 0*bytes"},
	{"a turn that ends is not looked at", "lane.go",
		"	t.state, t.lane = outside, nil\n	woken := l.advance(ln, now)\n	if ln.heat != nil {",
		"	t.state, t.lane = outside, nil\n	woken := l.advance(ln, now)\n	if false {"},
	{"a ticket that leaves is not looked at", "lane.go",
		"an exclusive one\n	if ln.heat != nil {",
		"an exclusive one\n	if false {"},
	{"unblocking is not looked at", "partition.go",
		"	if ln.heat != nil {\n		l.look",
		"	if false {\n		l.look"},
	{"a hot lane closes", "shard.go",
		"	if !ln.blocked && ln.halt == nil && ln.pause == nil && !ln.hot() {",
		"	if !ln.blocked && ln.halt == nil && ln.pause == nil {"},
	{"a halted lane closes", "shard.go",
		"	if !ln.blocked && ln.halt == nil && ln.pause == nil && !ln.hot() {",
		"	if !ln.blocked && ln.pause == nil && !ln.hot() {"},
	{"what is to be refused waits on", "halt.go",
		"			if w.refuseHalted {",
		"			if false {"},
	{"skipping skips nobody", "halt.go",
		"return l.lift(partition, key, ticket, 1)",
		"return l.lift(partition, key, ticket, 0)"},
	{"failing fails one", "halt.go",
		"return l.lift(partition, key, ticket, -1)",
		"return l.lift(partition, key, ticket, 1)"},
	{"resuming grants nothing", "halt.go",
		"	granted := l.advance(ln, l.now())",
		"	var granted wakes"},
	{"any ticket ends a halt", "halt.go",
		"!ticket.IsZero() && ticket != ln.halt.Ticket",
		"false"},
	{"a lane that goes on stays", "halt.go",
		"	emptied := l.closeIfEmpty(s, ln)",
		"	var emptied emptied"},
	{"the next one begins before the halt", "halt.go",
		"	ln.halt = &h\n	var woken wakes",
		"	var woken wakes\n	ln.running.remove(t)\n	ln.exclusives--\n	woken = l.advance(ln, l.now())\n	ln.exclusives++\n	ln.running.push(t)\n	ln.halt = &h"},
	{"a watch outlives its lane", "shard.go",
		"	if ln.heat != nil {\n		l.unwatch(s, ln.heat)",
		"	if ln.heat != nil && ln.heat.hot {\n		l.unwatch(s, ln.heat)"},
	{"a sealed partition stays hot", "partition.go",
		"	l.forgetHeats(s, ",
		"	_ = (func(*lane) bool)("},
	{"a cool lane is watched on", "hot.go",
		"return !ln.heat.hot && !",
		"return false && !ln.heat.hot && !"},
	{"a refused request is counted", "lane.go",
		"	if ln.sheds(r, needless) {\n		return",
		"	if ln.sheds(r, needless) {\n		ln.heat.admit(1)\n		return"},
	{"a cool lane sheds", "hot.go",
		"return ln.hot() && r.ShedDepth > 0",
		"return r.ShedDepth > 0"},
	{"what could run is refused", "limit.go",
		"return ln.waiting.head != nil || !ln.admits(&t)",
		"return ln.waiting.head != nil || !ln.admits(&t) || true"},
	{"full lanes are not foreseen", "limit.go",
		"	case ln.full(r, needless):\n		return ErrLaneFull",
		"	case false:\n		return ErrLaneFull"},
	{"a window never forgets", "window.go",
		"			*w.current() = slot{} // it",
		"			// it"},
	{"a window remembers before a long pause", "window.go",
		"		w.slots = [windowSlots + 1]slot{}\n",
		""},
	{"a window forgets too early", "window.go",
		"const windowSlots = 8",
		"const windowSlots = 7"},
	{"an old counter's error is lost", "topk.go",
		"	c.errors[i] = c.counts[i]\n",
		""},
	{"a new key begins at one", "topk.go",
		"	c.counts[i]++\n	c.hashes[i]",
		"	c.counts[i] = 1\n	c.hashes[i]"},
	{"any counter is taken over", "topk.go",
		"	i := c.least()\n",
		"	i := int(hash % topCounters)\n"},
	{"equal hashes are counted as one", "topk.go",
		"return k.partition == partition && bytes.Equal(k.key, key)",
		"return k.partition == partition && bytes.Equal(k.key[:0], key[:0])"},
	{"what a window did not see is not added", "topk.go",
		"			sum.Count += other.unseen()\n",
		""},
	{"yesterday's keys stay", "topk.go",
		"		c.windows[c.current].clear() // it",
		"		// it"},
	{"nobody hears of an emptied key", "shard.go",
		"l.config.Emptied != nil {",
		"false {"},
	{"depth is judged before superseding", "limit.go",
		"return ln.waiting.len-needless.Depth >= r.MaxDepth",
		"return ln.waiting.len >= r.MaxDepth"},
	{"bytes are judged before superseding", "limit.go",
		"ln.bytes-needless.Bytes+r.Bytes > r.MaxBytes",
		"ln.bytes+r.Bytes > r.MaxBytes"},
	{"the node's count is judged before superseding", "limit.go",
		"l.queued.Add(1)-int64(needless.Depth) >",
		"l.queued.Add(1) >"},
	{"the node's bytes are judged before superseding", "limit.go",
		"l.bytes.Add(int64(bytes))-int64(needless.Bytes) >",
		"l.bytes.Add(int64(bytes)) >"},
	{"a refused request supersedes", "lane.go",
		"	needless := ln.surplus(r)\n",
		"	needless := ln.surplus(r)\n	superseded = l.supersede(ln, r, t.ID, needless.Depth)\n	needless = Load{}\n"},
	{"the superseded are not woken", "lane.go",
		"	superseded.wake()\n",
		"	_ = superseded\n"},
	{"what is on something else is superseded", "supersede.go",
		"(o.Anything || e.On == t.effect.On)",
		"(true || o.Anything || e.On == t.effect.On)"},
	{"another kind is superseded", "supersede.go",
		"if o.Kind == t.effect.Kind && ",
		"if "},
	{"a shared ticket is superseded", "supersede.go",
		"if t.effect == nil || t.class != Exclusive {",
		"if t.effect == nil {"},
	{"a shared newcomer supersedes", "supersede.go",
		"if r.Effect == nil || r.Class != Exclusive {",
		"if r.Effect == nil {"},
	{"the front of the line is superseded", "supersede.go",
		"		t := ln.waiting.tail\n		if status",
		"		t := ln.waiting.head\n		if status"},
	{"the last rule counts", "supersede.go",
		"	for i := range e.Over {\n		o := &e.Over[i]",
		"	for i := range e.Over {\n		o := &e.Over[len(e.Over)-1-i]"},
}

// TestMutantsAreCaught plants each mutant and expects TestRandomHistories,
// TestPartitionsChangeHands, TestHeatOfRandomHistories or FuzzTop to go red.
func TestMutantsAreCaught(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles and runs the package once per mutant")
	}
	if output, err := testWith(t, "lane.go", sourceFile(t, "lane.go")); err != nil {
		t.Fatalf("red without a mutant:\n%s", output)
	}
	day := time.Now().YearDay()
	for i, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			source := sourceFile(t, m.file)
			if strings.Count(source, m.from) != 1 {
				t.Fatalf("%s has %d places to plant it", m.file, strings.Count(source, m.from))
			}
			if !*allMutants && i%4 != day%4 {
				t.Skip("only with -mutants, or on another day: most of the time goes into compiling")
			}
			output, err := testWith(t, m.file, strings.Replace(source, m.from, m.to, 1))
			if err == nil {
				t.Fatal("not caught")
			}
			if strings.Contains(output, "[build failed]") {
				t.Fatalf("does not compile:\n%s", output)
			}
		})
	}
}

// testWith runs them with other contents for one file.
func testWith(t *testing.T, file, contents string) (output string, err error) {
	t.Helper()
	path, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	mutant := filepath.Join(dir, file)
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{path: mutant}})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{mutant: []byte(contents), filepath.Join(dir, "overlay.json"): overlay} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "-vet=off", "-timeout=60s", "-overlay="+filepath.Join(dir, "overlay.json"),
		"-run=^(TestRandomHistories|TestPartitionsChangeHands|TestHeatOfRandomHistories|FuzzTop)$", ".")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func sourceFile(t *testing.T, name string) string {
	t.Helper()
	source, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(source)
}
