package ownership

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// mutants take away one rule or one step each, as one edit of the source, and
// name the test, or the scenario of TestScenarios, that goes red. A name here is
// the name that tests cite.
var mutants = []struct{ name, file, from, to, test string }{
	// Rule 1.
	{"nobody is asked", "table.go",
		"func(m ring.Member) bool { return s.answer(m) == nil })", "func(m ring.Member) bool { return false })",
		"scenario:two joins"},
	{"newcomers are not asked", "table.go",
		"	case s.role == Claiming:\n		t.send(m, Claim{", "	case false:\n		t.send(m, Claim{",
		"scenario:newcomer"},
	// Rule 2.
	{"strangers are overlooked", "table.go",
		"if !s.won && (len(t.strangers) > 0 || slices", "if !s.won && (slices",
		"scenario:two doors"},
	{"whom others see does not count", "table.go",
		"	fewer := t.sights(from, m.Sees)\n", "	fewer := false\n",
		"scenario:two doors"},
	{"a stranger outlives those who saw it", "presence.go",
		"len(s.by) == 1 && s.by[0] == from\n", "false\n",
		"TestStrangersOutOfSight"},
	{"one who loses sight speaks for all", "presence.go",
		"len(s.by) == 1 && s.by[0] == from\n", "true\n",
		"TestStrangersOutOfSight"},
	{"who loses sight is silent", "table.go",
		"	if len(left) > 0 {\n		t.loseSight()\n	}\n", "",
		"TestStrangersOutOfSight"},
	{"messages of strangers are no sign", "table.go",
		"	t.sign(from, from)\n", "",
		"TestStrangersAreWaitedFor"},
	{"strangers are waited for without end", "presence.go",
		" || s.age > patience\n", "\n",
		"TestStrangersAreWaitedFor"},
	{"unknown nodes claim", "table.go",
		"t.view.Targets[p] == t.self && t.known\n", "t.view.Targets[p] == t.self\n",
		"scenario:stranger"},
	{"a mute member is waited for without end", "presence.go",
		" || t.waited > patience) {", ") {",
		"TestNewcomerWaitsToBeKnown"},
	{"only what is claimed already counts", "state.go",
		"s.role == Claiming, t.view.Enough && t.view.Targets[p] == t.self:", "s.role == Claiming:",
		"TestWhoWillClaimIsNotIdle"},
	{"known before a view", "presence.go",
		"!t.check.lonely && t.view.Live != nil &&", "!t.check.lonely &&",
		"TestNobodyIsKnownBeforeAView"},
	{"waits count before a view", "repeat.go",
		"	if !t.known && t.view.Live != nil {", "	if !t.known {",
		"TestNobodyIsKnownBeforeAView"},
	// Rule 3.
	{"standing back is forgotten", "claim.go",
		"	s.stoodBack = append(slices.Clip(s.stoodBack), round{c.from, c.number})\n", "",
		"scenario:standing back"},
	{"who is released stands back", "claim.go",
		"	if s.role == Claiming && s.number <= r.Number {\n		t.begin(p, s)\n	}\n	t.send(from, Released", "	t.send(from, Released",
		"scenario:standing back"},
	{"who claims stands back", "claim.go",
		"		t.begin(p, s) // who claims does not stand back\n", "",
		"TestAnswersCountForTheirRound"},
	{"who wants it stands back", "claim.go",
		"t.isLive(s.given.to), t.wants(p):", "t.isLive(s.given.to):",
		"scenario:two claims"},
	{"any round releases", "claim.go",
		"if i >= 0 && s.stoodBack[i].number <= r.number {", "if i >= 0 {",
		"TestStandingBackBinds"},
	{"Held does not release", "claim.go",
		"	t.over(s, round{from, h.Number})\n	t.keep", "	t.keep",
		"TestStandingBackBinds"},
	{"death does not release", "table.go",
		"	t.over(s, round{m, math.MaxUint64})\n", "	_ = uint64(math.MaxUint64)\n",
		"scenario:death of the claimant"},
	{"answers of other rounds count", "claim.go",
		"if !t.isLive(from) || a.Number != s.number {", "if !t.isLive(from) {",
		"TestAnswersCountForTheirRound"},
	{"a claim outlives its reason", "table.go",
		"	case s.role == Claiming && !t.wants(p) && !(s.won && t.view.Enough):\n", "	case false:\n",
		"scenario:two claims"},
	// Rule 4.
	{"old claims still take", "handoff.go",
		" || g.Claim <= s.floor) {", ") {",
		"scenario:death of the giver"},
	{"standing back keeps old claims", "claim.go",
		"s.asked, s.floor, s.given = false, s.number, nil", "s.asked, s.given = false, nil",
		"scenario:death of the giver"},
	{"a Give outlives standing back", "claim.go",
		"s.asked, s.floor, s.given = false, s.number, nil", "s.asked, s.floor = false, s.number",
		"TestKeptGiveEndsWhenStandingBack"},
	{"a returned partition stays away", "handoff.go",
		"	case t.view.Enough:\n		t.win", "	case false:\n		t.win",
		"TestReturnedGive"},
	{"a giver answers at once", "claim.go",
		"	case s.given != nil && t.isLive(s.given.to), t.wants(p):", "	case t.wants(p):",
		"TestGiveWaits"},
	{"anybody is given", "claim.go",
		"s.role == Owned && t.view.Targets[p] == c.from && len", "s.role == Owned && len",
		"TestGiveWaits"},
	// Rule 5.
	{"moves while it waits", "claim.go",
		"== c.from && len(s.waits) == 0 &&", "== c.from &&",
		"scenario:join and leave"},
	// Rule 6.
	{"answers list nothing", "claim.go",
		"Heard: s.heard, Keys: s.listed(), Lease", "Heard: s.heard, Lease",
		"scenario:death of the taker"},
	{"Gives list nothing", "handoff.go",
		"		Keys: s.listed(), Sections", "		Sections",
		"scenario:join"},
	{"only the taker is told", "helping.go",
		"	for _, m := range s.told {\n		t.send(m, done)", "	for _, m := range s.told[:1] {\n		t.send(m, done)",
		"scenario:death of the taker, a third"},
	{"a late word is believed", "handoff.go",
		" || t.lanes.Busy(p, key) {\n		return", " {\n		return",
		"scenario:late word of an empty lane"},
	{"a wait survives its member", "table.go",
		"		t.bury(p, s, m) // else", "		// else",
		"scenario:death of the taker and the giver"},
	{"answers survive their member", "table.go",
		"	s.answers = slices.DeleteFunc(s.answers, func(a answer) bool { return a.from == m })\n", "",
		"scenario:death of the taker and the giver"},
	{"old tickets of one's own are in the way", "table.go",
		"	s.forgetDraining() // they", "	// they",
		"scenario:death of the taker"},
	{"lists add up", "handoff.go",
		"slices.Contains(w.on, m) && !slices.Contains(keys, w.key) {", "slices.Contains(w.on, m) && !slices.Contains(keys, w.key) && keys == nil {",
		"TestNewestListCounts"},
	{"a key that two run waits for one", "handoff.go",
		"		if len(w.on) == 0 {\n", "		if len(w.on) <= 1 && w.on != nil && !slices.Contains(keys, w.key) {\n",
		"TestNewestListCounts"},
	{"opens before it blocks", "table.go",
		"	for _, a := range answers {\n", "	t.lanes.Open(p)\n	for _, a := range answers {\n", // and more, below
		"TestBlocksBeforeItOpens"},
	{"who asks is not told", "handoff.go",
		"			s.told = insert(s.told, from)\n		case", "			_ = from\n		case",
		"TestAskedForDraining"},
	// Rule 7.
	{"the dead are believed", "handoff.go",
		"	if !t.isLive(from) {\n		return //", "	if false {\n		return //",
		"scenario:gift of a dead node"},
	// Rule 8.
	{"Gives are not repeated", "repeat.go",
		"		if s.given != nil && s.given.to == m {\n			t.send(m, t.giveOf(p, s))\n		}\n		if !t.isLive", "		if !t.isLive",
		"scenario:join"},
	{"Gives are taken twice", "handoff.go",
		"if i >= 0 && g.Number <= s.taken[i].number {", "if false {",
		"scenario:two joins"},
	{"a lost receipt is a return", "handoff.go",
		"t.send(from, Taken{Partition: p, Number: g.Number}) // the", "t.send(from, Taken{Partition: p, Number: g.Number, Returned: true}) // the",
		"scenario:join"},
	{"a Give repeats its first list", "handoff.go",
		"	return Give{\n", "	if s.given.first == nil {\n		s.given.first = append([]string{}, s.draining...)\n	}\n	return Give{\n", // and more, below
		"TestRandomHistories"},
	{"claims are not repeated", "repeat.go",
		"	} else if s.role == Claiming {\n		t.send", "	} else if false {\n		t.send",
		"scenario:join"},
	{"waits are not asked again", "repeat.go",
		"	if keys != nil {\n		t.send", "	if false {\n		t.send",
		"scenario:join"},
	{"waits to come are not asked again", "repeat.go",
		"		keys = slices.Clone(a.keys)\n", "		_ = a\n",
		"scenario:two moves"},
	{"nobody asks the other side to repeat", "repeat.go",
		"	t.send(m, Again{})\n	t.repeat", "	t.repeat",
		"scenario:join"},
	{"Ask is not answered", "handoff.go",
		"		default:\n			t.send(from, KeyDone", "		case false:\n			t.send(from, KeyDone",
		"scenario:join"},
	// Rule 9.
	{"what waited through a standstill runs", "handoff.go",
		"	if s.unconfirmed || s.role", "	if s.role",
		"TestTheUnconfirmedIsGivenItsPartition"},
	{"who asked too early is forgotten", "presence.go",
		"		for _, m := range t.asking {\n			t.send(m, Again{})\n		}\n", "",
		"TestNewcomersConfirmNothing"},
	{"newcomers confirm", "confirm.go",
		"	if !t.known {\n		t.asking", "	if false {\n		t.asking",
		"TestNewcomersConfirmNothing"},
	{"who stood still is no newcomer", "confirm.go",
		"	t.known, t.met, t.waited = false, nil, 0\n", "",
		"TestWhoStoodStillIsANewcomer"},
	{"whoever has come confirms", "confirm.go",
		"return !slices.Contains(t.check.among, m)", "return false",
		"TestOnlyOldMembersConfirm"},
	{"what was known before a standstill confirms", "confirm.go",
		" || s.blind >= c.Epoch ||", " ||",
		"TestNobodyConfirmsWhatItDoesNotKnow"},
	{"who stood back for the dead confirms", "claim.go",
		"		s.heard++ // the", "		_ = again // the",
		"TestNobodyConfirmsWhatItDoesNotKnow"},
	{"what was on its way is received", "ownership.go",
		"		if complete && !o.deaf {", "		if complete {",
		"TestWhatWasOnItsWay"},
	{"the unconfirmed say that they hold it", "repeat.go",
		"		if s.role == Owned && !s.unconfirmed {", "		if s.role == Owned {",
		"TestTheUnconfirmedIsSilent"},
	{"the unconfirmed give", "claim.go",
		" && !s.unconfirmed: // rules 5 and 9", ": // rules 5 and 9",
		"TestTheUnconfirmedGivesNothing"},
	// Rule 10.
	{"who was taken for dead does not repeat", "table.go",
		"			t.send(m, Again{}) // what", "			_ = m // what",
		"scenario:false death, connections stay"},
	{"who came second is forgotten", "claim.go",
		"		return s.holder == c.from || c.epoch < s.epoch\n", "		return true\n",
		"TestTwoOfOneEpoch"},
	{"two owners do not merge", "handoff.go",
		"	if s.role != Owned && (!t", "	if (!t",
		"TestNewestListCounts"},
	{"two owners wait for each other", "claim.go",
		"	t.await(p, s, c.from, nil)\n	if t.wants", "	if t.wants",
		"TestOwnersDoNotWaitForEachOther"},
	{"an owner does not demand", "claim.go",
		"	if t.wants(p) && !c.reply {", "	if false {",
		"TestOwnersDoNotWaitForEachOther"},
	{"what an owner hears is forgotten", "claim.go",
		"		t.hear(p, s, c.from, c.epoch) // again", "		// again",
		"TestTheDeniedKnowsTheOwner"},
	{"an owner stays behind", "claim.go",
		"		case a.Heard <= s.epoch:\n", "		case true:\n",
		"TestEpochsAfterASplit"},
	// Too few, and standing still.
	{"too few own", "table.go",
		"	case s.role == Owned && !t.view.Enough:\n", "	case false:\n",
		"TestTooFew"},
	{"too few take", "handoff.go",
		"(!t.view.Enough || g.Claim", "(g.Claim",
		"TestTooFew"},
	{"what runs is forgotten", "table.go",
		"			s.draining = append(s.draining, string(key))\n", "			_ = key\n",
		"TestTooFew"},
	{"old news deny", "confirm.go",
		"route.Owner != from && route.Epoch >= c.Epoch ||", "route.Owner != from ||",
		"TestStoodStill"},
	{"who lost it does not deny", "confirm.go",
		" || s.heard > c.Epoch || s.blind", " || s.blind",
		"TestStoodStill"},
	{"the lonely are confirmed", "confirm.go",
		"len(t.gone) > 0 && t.check.alone <= lonelyMost {", "false {",
		"TestStoodStill"},
	{"the dead are confirmed", "confirm.go",
		"!t.isLive(from) || route", "route",
		"TestStoodStill"},
	{"Emptied is lost", "ownership.go",
		"			o.table.Drained(e.partition, e.key)\n", "			_ = e\n",
		"TestRollingRestart"},
	{"Guard does not look at the clock", "ownership.go",
		"	if o.now()-time.Duration(o.beat.Load()) > o.config.Suspicion {\n		return ErrFrozen", "	if o.beat.Load() < 0 {\n		return ErrFrozen",
		"TestStandingStill"},
	{"the watchdog forgives", "ownership.go",
		"		case !o.frozen:\n			o.beat.Store", "		case true:\n			o.beat.Store",
		"TestStandingStill"},
	{"Emptied takes the lock", "ownership.go",
		"	o.emptiedMu.Lock()\n	o.emptied = append", "	o.mu.Lock()\n	defer o.mu.Unlock()\n	o.emptiedMu.Lock()\n	o.emptied = append",
		"TestTooFewSendsAway"},
	// Rule 15.
	{"answers list no lent turns", "claim.go",
		"Heard: s.heard, Keys: s.listed(), Lease", "Heard: s.heard, Keys: s.draining, Lease",
		"scenario:death of the lender"},
	{"a new owner is told of no lent turns", "claim.go",
		"		if len(s.listed()) > 0 || c.epoch", "		if len(s.draining) > 0 || c.epoch",
		"TestHelp"},
	{"a helper does not wait for itself", "table.go",
		"	t.await(p, s, t.self, s.helping)\n", "",
		"scenario:death of the lender, the helper takes over"},
	{"turns are taken from anybody", "helping.go",
		"	if s.holder != owner || !t", "	if !t",
		"scenario:death of the lender and giver"},
	{"turns are taken by who stood back", "helping.go",
		"	if len(s.stoodBack) > 0 {", "	if false {",
		"scenario:death of the lender"},
	{"turns are taken from the dead", "helping.go",
		" || !t.isLive(owner) ||", " ||",
		"TestHelp"},
	{"turns are taken beside a later owner out of view", "helping.go",
		" || s.toldOfLater() {", " {",
		"scenario:the new owner is out of sight"},
	{"the end of a lent turn is told to nobody", "helping.go",
		"	t.ran(p, s, string(key))\n	t.finish", "	t.finish",
		"scenario:death of the lender"},
	{"a helper waits for itself for ever", "helping.go",
		"		t.await(p, s, t.self, s.helping)\n", "		_ = s.helping\n",
		"scenario:death of the lender, the helper takes over"},
	{"who helps may go", "state.go",
		"		c.Helping += len(s.helping)\n", "",
		"scenario:departure of the helper"},
	{"the dead have lent nothing", "helping.go",
		"	for _, o := range t.live {\n		if len(keys) == 0 {", "	for _, o := range t.live[:0] {\n		if len(keys) == 0 {",
		"scenario:death of the lender and giver"},
	{"who is asked for lent turns is not told who owns", "helping.go",
		"		if !s.unconfirmed {\n			t.send(o, Held", "		if false {\n			t.send(o, Held",
		"scenario:the word of the new owner is lost"},
	{"a tenure forgets who waits for a lent turn", "helping.go",
		"	if s.draining = nil; len(s.helping) == 0 {", "	if s.draining = nil; true {",
		"TestTheHelperIsGivenThePartition"},
	{"turns are refused for ever", "helping.go",
		"		t.askRelease(p, s) // it", "		// it",
		"TestRefusedTurns"},
	// Bounds and the encoding.
	{"the gone are remembered", "table.go",
		"	t.gone = slices.Clone(t.gone[max(0, len(t.gone)-goneMax):])\n", "",
		"TestMemoryIsBounded"},
	{"their claims are remembered", "repeat.go",
		"return c.age > memory && !t.isLive(c.from)", "return false && !t.isLive(c.from)",
		"TestMemoryIsBounded"},
	{"one entry for each payload", "frame.go",
		"		} else if len(b) > payloadMax {", "		} else {",
		"TestPayloads"},
	{"payloads without bounds", "frame.go",
		"		} else if len(b) > payloadMax {", "		} else if len(b) < 0 {",
		"TestPayloads"},
	{"parts of two messages are one", "frame.go",
		"p == nil || p.number != number || int", "p == nil || int",
		"TestLostParts"},
	{"a gap is closed", "frame.go",
		" || int(offset) != len(p.bytes) {", " {",
		"TestLostParts"},
	{"the reply bit is lost", "encode.go",
		"e.Epoch, e.Number), bit(e.Reply, 1))", "e.Epoch, e.Number), 0)",
		"TestMessageRoundTrip"},
	// The coordinator's.
	{"a title survives its lease", "title.go",
		"		s.title = title{known: s.title.known, lapsed: held && s.role == Owned && s.title.stands() || s.title.lapsed}\n", "",
		"scenario:the lease of the giver ends"},
	{"a live holder is robbed", "title.go",
		"lock.Take{Partition: p, Holder: known.Holder, Tenure: known.Tenure}", "lock.Take{Partition: p, Holder: known.Holder, Tenure: known.Tenure, Given: true}",
		"scenario:strict false death"},
	{"consent covers later tenures", "title.go",
		" && known.Tenure <= a.tenure {", " {",
		"scenario:false death of the taker"},
	{"a tenure goes on that was given away", "title.go",
		"return s.tenure > s.ceded", "return s.tenure > 0",
		"scenario:strict join and leave"},
	{"takes on their way are not given away", "title.go",
		"return max(s.tenure, s.asked)", "return s.tenure",
		"scenario:strict false death of three"},
	{"nobody waits for the holder before", "title.go",
		"	if s.title.prev == \"\" || s.title.prevMember != (ring.Member{}) {\n		return true", "	if true {\n		return true",
		"scenario:unseen by the heir"},
	{"the holder before dies by gossip", "table.go",
		"	if s.title.prev == \"\" || s.title.prevMember != m {\n", "	if true {\n",
		"scenario:unseen by the heir"},
	{"nobody is told what drains", "title.go",
		"= true, len(a.keys) > 0", "= true, false",
		"scenario:unseen by the heir"},
	{"the store is not told of the end of draining", "title.go",
		"	for _, tenure := range s.title.clears {\n", "	for _, tenure := range s.title.clears[:0] {\n",
		"scenario:strict join"},
	{"it is told before it knows of it", "claim.go",
		"			t.clear(p, s, true)\n", "",
		"scenario:strict join"},
	{"what was let go on its way clears nothing", "title.go",
		"bool { return tenure < r.Tenure })", "bool { return true })",
		"scenario:the taker is back"},
	{"what is listed again clears nothing", "title.go",
		"	t.drains(s)\n	return t.arbiter.lease", "	return t.arbiter.lease",
		"scenario:the taker is back"},
	{"a helper clears nothing", "helping.go",
		"		t.clear(p, s, false)\n", "		_ = p\n",
		"TestTitleOfAHelper"},
	{"what is lent is over when nothing drains", "title.go",
		"	if len(s.listed()) > 0 {\n		return\n	}\n	for _, tenure", "	if len(s.draining) > 0 {\n		return\n	}\n	for _, tenure",
		"TestTitleOfAHelper"},
	{"an outranked owner goes on", "title.go",
		"	case s.role == Owned:\n		t.drop(p, s, ErrTakenOver)", "	case false:\n		t.drop(p, s, ErrTakenOver)",
		"scenario:strict false death of three"},
	{"the end of a lease is not heard", "title.go",
		"			s.title.wait = \"\"\n		}\n		t.passed", "		}\n		t.passed",
		"scenario:strict death of the taker"},
	{"who waits for the title stands back", "claim.go",
		"	case s.won:\n		return false", "	case false:\n		return false",
		"scenario:strict false death of three"},
}

// also are further edits that some mutants need.
var also = map[string][][3]string{
	"opens before it blocks": {
		{"table.go", "	t.lanes.Open(p)\n	t.announce", "	t.announce"},
	},
	"a Give repeats its first list": {
		{"handoff.go", "		Keys: s.listed(), Sections", "		Keys: s.given.first, Sections"},
		{"table.go", "	claim  uint64\n	epoch  uint64\n}", "	claim  uint64\n	epoch  uint64\n	first  []string\n}"},
	},
}

// deadlocks are the mutants for which to hang is the verdict. For all others it is
// none: it may be the machine.
var deadlocks = map[string]bool{"Emptied takes the lock": true}

// TestMutantsAreCaught plants each mutant and expects its test to go red. Without
// -mutants it plants those that take a rule away, a sixth of them each day. First it runs
// everything without one and without the race detector.
func TestMutantsAreCaught(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles and runs the package once per mutant")
	}
	if output, err := testWith(t, nil, "3m", ".*", "-short"); err != nil {
		t.Fatalf("red without a mutant:\n%s", output)
	}
	day := time.Now().YearDay()
	for i, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			if !*allMutants && (!strings.HasPrefix(m.test, "scenario:") || i%6 != day%6) {
				t.Skip("only with -mutants, or on another day: most of the time goes into compiling")
			}
			sources := map[string]string{}
			for _, edit := range append([][3]string{{m.file, m.from, m.to}}, also[m.name]...) {
				if sources[edit[0]] == "" {
					sources[edit[0]] = sourceFile(t, edit[0])
				}
				if n := strings.Count(sources[edit[0]], edit[1]); n != 1 {
					t.Fatalf("%s has %d places to plant it", edit[0], n)
				}
				sources[edit[0]] = strings.Replace(sources[edit[0]], edit[1], edit[2], 1)
			}
			test := "^" + m.test + "$"
			if scenario, ok := strings.CutPrefix(m.test, "scenario:"); ok {
				test = "^TestScenarios$/^" + strings.ReplaceAll(scenario, " ", "_") + "$"
			}
			output, err := testWith(t, sources, "40s", test)
			switch {
			case err == nil:
				t.Fatalf("not caught by %s:\n%s", m.test, output)
			case strings.Contains(output, "[build failed]"):
				t.Fatalf("does not compile:\n%s", output)
			case strings.Contains(output, "test timed out") != deadlocks[m.name]:
				t.Fatalf("%s hangs, or should and does not:\n%s", m.test, output)
			case strings.Contains(output, "no tests to run"):
				t.Fatalf("there is no %s", m.test)
			}
		})
	}
}

// testWith runs tests of the package with other contents for some files.
func testWith(t *testing.T, sources map[string]string, timeout, test string, flags ...string) (output string, err error) {
	t.Helper()
	dir := t.TempDir()
	replace := map[string]string{}
	for file, contents := range sources {
		path, err := filepath.Abs(file)
		if err != nil {
			t.Fatal(err)
		}
		replace[path] = filepath.Join(dir, file)
		if err := os.WriteFile(replace[path], []byte(contents), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"test", "-timeout=" + timeout, "-vet=off", "-ldflags=-s -w", "-overlay=" + filepath.Join(dir, "overlay.json"), "-run=" + test, "."}
	out, err := exec.CommandContext(t.Context(), "go", append(args, flags...)...).CombinedOutput()
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
