package membership

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var plant = flag.Bool("mutants", false, "plant each mutant and expect its test to go red; takes minutes")

// mutants are mistakes that somebody could make here, each as one edit of the
// source, with the test that must go red.
var mutants = []struct{ name, test, file, from, to string }{
	{"nothing is announced before the good-bye", "TestJoinLeaveCrashRestart", "membership.go",
		"err := m.announce(ctx, func(a *announcement) { a.intent = leaving })",
		"err := m.announce(ctx, func(a *announcement) {})"},
	{"the dead are never forgotten", "TestJoinLeaveCrashRestart", "table.go",
		"		if !n.Since.After(until) {",
		"		if n.Name == \"\" {"},
	{"forgetting is a new version", "TestJoinLeaveCrashRestart", "publish.go",
		"	changed := before.Version == 0 || ",
		"	changed := len(dead) < len(before.Dead) || before.Version == 0 || "},
	{"a view before a seed was joined", "TestFirstView", "publish.go",
		"			changed = ready",
		"			changed = ready || true"},
	{"the join timeout has no effect", "TestFirstView", "join.go",
		"			close(m.alone)",
		"			_ = m.alone"},
	{"who is alone stops looking", "TestFirstView", "join.go",
		"			close(m.alone)\n",
		"			close(m.alone)\n			return\n"},
	{"the lowest incarnation wins", "TestRestartBeforeTheDeathIsKnown", "table.go",
		"cmp.Compare(b.Incarnation, a.Incarnation))\n	})\n	return slices.CompactFunc",
		"cmp.Compare(a.Incarnation, b.Incarnation))\n	})\n	return slices.CompactFunc"},
	{"a replaced incarnation is shown among the dead", "TestRestartBeforeTheDeathIsKnown", "table.go",
		"		if !hideReplaced || !t.replaced(m) {",
		"		if m.Name != \"\" {"},
	{"draining members stay in the ring", "TestDrain$", "publish.go",
		"		if n.State == Active {",
		"		if true {"},
	{"Undrain announces nothing", "TestDrain$", "membership.go",
		"		if a.intent == draining {\n			a.intent = staying",
		"		if a.intent == draining {\n			a.intent = draining"},
	{"a Drain that was given up goes on waiting", "TestDrainReturns", "membership.go",
		"		timeout = max(time.Millisecond, min(timeout, time.Until(deadline)))",
		"		_ = deadline"},
	{"seeds are joined once", "TestSplitHeals$", "join.go",
		"	for m.wait(jitter(m.nextLook()), m.death) {",
		"	for false {"},
	{"min_members is ignored", "TestSplitHeals$", "publish.go",
		"len(members) >= m.config.MinMembers",
		"len(members) >= 1"},
	{"where members died is not tried", "TestSplitHealsWithoutSeeds", "join.go",
		"	addresses = append(addresses, m.lost.since(time.Now().Add(-lostFor))...)\n",
		""},
	{"a death does not hasten the next look", "TestShortSplitsHeal", "join.go",
		"	for m.wait(jitter(m.nextLook()), m.death) {",
		"	for m.wait(jitter(m.config.Rejoin), nil) {"},
	{"no merge delegate", "TestStrangers", "membership.go",
		"settings.Alive, settings.Merge, settings.Conflict = d, d, d, d, d",
		"settings.Alive, settings.Conflict = d, d, d, d"},
	{"no alive delegate", "TestStrangersInGossip", "membership.go",
		"settings.Events, settings.Alive, settings.Merge, settings.Conflict = d, d, d, d, d",
		"settings.Events, settings.Merge, settings.Conflict = d, d, d, d"},
	{"who is refused goes on alone", "TestStrangers", "join.go",
		"if waiting && !refused && looked",
		"if waiting && looked"},
	{"seeds are resolved once", "TestSeedsAreResolvedAnew", "join.go",
		"	for {\n		addresses, problems := m.candidates()\n",
		"	addresses, problems := m.candidates()\n	for {\n		problems := slices.Clone(problems)\n"},
	{"a node joins itself", "TestSeedsAreResolvedAnew", "join.go",
		"return own(a) || known[a.String()]",
		"return own(a) && false"},
	{"only the advertised address is the node's own", "TestOwnAddresses", "join.go",
		"		return a == m.advertised || a == m.bound ||\n			len(local) > 0",
		"		return a == m.advertised ||\n			len(local) > 1000"},
	{"the log is written by whoever logs", "TestBlockedLog", "log.go",
		"	select {\n	case r.lines <- line{level, text, attrs}:\n	default:",
		"	select {\n	default:\n		r.write(line{level, text, attrs})\n	case <-r.stop:"},
	{"each change is published by itself", "TestSettle", "publish.go",
		"			settle = time.After(m.config.Settle)",
		"			settle = time.After(0)"},
	{"each change prolongs the window", "TestSettle", "publish.go",
		"		if changed && settle == nil {",
		"		if changed {"},
	{"a death refuted in time is a change", "TestViewFollows", "publish.go",
		"		a.Since = b.Since\n",
		""},
	{"who announced its leaving died", "TestViewFollows", "table.go",
		"	if e.intent == leaving {",
		"	if false {"},
	{"Changed is not closed", "TestViewFollows", "publish.go",
		"		close(before.changed)\n",
		""},
	{"the newest of the dead is dropped", "TestGoneIsBounded", "table.go",
		"		oldest := t.dead(false)[len(t.gone)-1]",
		"		oldest := t.dead(false)[0]"},
	{"a public address is guessed", "TestAdvertised", "address.go",
		"	ip, err := private(bound.Addr().Is4())\n	if err != nil {",
		"	ip, err := private(bound.Addr().Is4())\n	if ip, err = netip.MustParseAddr(\"203.0.113.5\"), nil; err != nil {"},
	{"unknown fields are an error", "TestAnnouncementsThatAreNone", "meta.go",
		"		if err != nil {\n			return a, err\n		}\n	}\n	if !seenLayout",
		"		if err != nil || tag > tagVersion {\n			return a, errMetaOrder\n		}\n	}\n	if !seenLayout"},
	{"streams outlive Stop", "TestStopAtAnyMoment|TestStop$", "transport.go",
		"	for s := range open {\n		s.Conn.Close()\n	}\n",
		"	_ = open\n"},
	{"a failed Start keeps the transport", "TestStartReleases", "membership.go",
		"err = errors.Join(err, config.Transport.Shutdown())",
		"_ = config.Transport"},

	{"segments overtake each other", "TestStreamsCarryEverythingInOrder", "membertest/stream.go",
		"		s.at = latest(now.Add(delay), p.arrival)\n		p.arrival = s.at\n		if p.closed",
		"		s.at = now.Add(delay)\n		slices.SortStableFunc(p.in, func(a, b segment) int { return a.at.Compare(b.at) })\n		if p.closed"},
	{"what a cut stalled is lost", "TestStreamsCarryEverythingInOrder", "membertest/stream.go",
		"	case !passes, len(p.in) > 0 && p.in[len(p.in)-1].stalled:\n		s.stalled = true",
		"	case !passes:\n		return"},
	{"a stuck acknowledgement stays stuck", "TestStreamsCarryEverythingInOrder", "membertest/stream.go",
		"	c.unread -= c.stuck\n",
		""},
	{"a reset spares what was not read", "TestEnds", "membertest/stream.go",
		"c.broken, c.reset, c.in = err, time.Time{}, nil",
		"c.broken, c.reset = err, time.Time{}"},
	{"a closed end answers nothing", "TestEnds", "membertest/stream.go",
		"			c.resetLocked(s.at)\n			return",
		"			return"},
	{"nobody asks on a silent stream", "TestEnds", "membertest/stream.go",
		"			c.resetLocked(now.Add(keepAlive))\n",
		""},
	{"a cut is noticed at once", "TestSilence", "membertest/stream.go",
		"		s.severed = time.AfterFunc(s.network.StreamTimeout,",
		"		s.severed = time.AfterFunc(0,"},
	{"a firewall lets connects through", "TestDial", "membertest/listen.go",
		"there.NoStreams || back.NoStreams || ",
		""},
	{"packets to nobody are kept", "TestPackets", "membertest/transport.go",
		"	default:\n	}\n}\n\n// PacketCh",
		"	}\n}\n\n// PacketCh"},
}

// TestMutantsAreCaught plants each mutant and expects its test to go red.
//
//	go test ./membership -run Mutants -mutants -timeout 30m
func TestMutantsAreCaught(t *testing.T) {
	if !*plant {
		t.Skip("compiles and runs the package once per mutant: see -mutants")
	}
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			source, err := os.ReadFile(m.file)
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(source), m.from); n != 1 {
				t.Fatalf("%s has %d places to plant it", m.file, n)
			}
			output, err := testWith(t, m.test, m.file, strings.Replace(string(source), m.from, m.to, 1))
			if err == nil {
				t.Fatal("not caught")
			}
			if strings.Contains(output, "[build failed]") || strings.Contains(output, "[setup failed]") {
				t.Fatalf("does not compile:\n%s", output)
			}
		})
	}
}

// testWith runs a test with other contents for one file.
func testWith(t *testing.T, test, file, contents string) (output string, err error) {
	t.Helper()
	path, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	mutant := filepath.Join(dir, "mutant.go")
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{path: mutant}})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{mutant: []byte(contents), filepath.Join(dir, "overlay.json"): overlay} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "-timeout=60s", "-overlay="+filepath.Join(dir, "overlay.json"),
		"-run=^("+test+")", "./"+filepath.Dir(file))
	out, err := cmd.CombinedOutput()
	return string(out), err
}
