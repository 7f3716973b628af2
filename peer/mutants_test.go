package peer

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// mutants are rules taken away, each as one edit of the source, and the test that
// must see it. PLANTED in its text stands for "this one is planted", so that one
// binary holds them all. Those of outbox.go and session.go name their rule's number.
var mutants = []struct{ name, test, file, from, to string }{
	{"1: what comes back goes behind what waits", "TestModel/Cut", "list.go",
		"after != nil && after.order > c.order {", "after != nil && after.order > c.order && !PLANTED {"},
	{"2: a new route is used at once", "TestModel/Claiming", "outbox.go",
		"if (f.turning || f.probing) && f.loose > 0 {", "if (f.turning || f.probing) && f.loose > 0 && !PLANTED {"},
	{"2: no first bit after MOVED", "TestModel/MoveOne", "outbox.go",
		"	f.turning, f.probing = true, true\n	if c.cancelled {", "	f.turning, f.probing = f.turning || !PLANTED, !PLANTED\n	if c.cancelled {"},
	{"2: becoming the owner oneself is no change of route", "TestModel/MoveHere", "outbox.go",
		"f.route, f.turning = owner, true", "f.route, f.turning = owner, f.turning || owner != o.self || !PLANTED"},
	{"2: ADMITTED overtakes answers", "TestModel/Claiming", "host.go",
		"	for of.unsent < len(of.answers)", "	if PLANTED && of.processed > s.acked {\n		s.acked = of.processed\n		b = appendNumber(b, frameAdmitted, s.acked)\n	}\n	for of.unsent < len(of.answers)"},
	{"2: nobody asks what has been admitted", "TestRouteChangesWhileARequestRuns", "outbox.go",
		"	if !f.asked && f.link.up {", "	if !f.asked && f.link.up && !PLANTED {"},
	{"3: CANCEL is not sent again", "TestCancelIsSentAgain", "outbox.go",
		"			if c.cancelled {\n				l.cancels", "			if c.cancelled && !PLANTED {\n				l.cancels"},
	{"3: a written request is taken for not executed", "TestModel/Quiet", "outbox.go",
		"	default:\n		if !c.cancelled && c.link.up {", "	default:\n		if PLANTED && c.state == written {\n			o.loosen(c)\n			o.refuse(c)\n			o.flush(f)\n			return\n		}\n		if !c.cancelled && c.link.up {"},
	{"4: what was never seen is not sent again", "TestModel/CutOne", "outbox.go",
		"		case c.seq > p.processed:\n", "		case PLANTED && c.seq > p.processed:\n			o.answer(c, Response{Problem: PeerLost})\n		case c.seq > p.processed:\n"},
	{"4: what was not written stays with the link", "TestModel/Dropped", "outbox.go",
		"	l.up, l.asks = false, false\n	for _, c := range l.inOrder() {\n		if c.state == unwrit {", "	l.up, l.asks = false, false\n	for _, c := range l.inOrder() {\n		if c.state == unwrit && !PLANTED {"},
	{"5: a new session's reply speaks of the old one", "TestModel/Dropped", "outbox.go",
		"known := p.session == l.session", "known := p.session == l.session || PLANTED && l.session != 0"},
	{"5: a session has no name", "TestModel/Gone", "session.go",
		"if h.session != s.name || s.name == 0 {", "if h.session != s.name && !PLANTED || s.name == 0 {"},
	{"5: a session is known by having been begun", "TestModel/Dropped", "session.go",
		"	s.generation, s.deaf = h.generation, false\n", "	s.generation, s.deaf = h.generation, false\n	if PLANTED && s.name != 0 {\n		s.name = h.session\n	}\n"},
	{"6: any hint is followed", "TestHints", "outbox.go",
		"m.epoch >= f.epoch && o.reaches(m.owner)", "(m.epoch >= f.epoch || PLANTED) && o.reaches(m.owner)"},
	{"6: the ring keeps the epoch of the route before it", "TestHints", "outbox.go",
		"	f.epoch = epoch\n}", "	if f.epoch = epoch; PLANTED {\n		f.epoch = max(epoch, 2)\n	}\n}"},
	{"7: numbers begin anew with a link", "TestModel/GoneCut", "outbox.go",
		"	o.links[m] = l\n", "	if o.links[m] = l; PLANTED {\n		o.numbers, o.generations = 0, 0\n	}\n"},
	{"8: answers are forgotten when written", "TestModel/CutOne", "host.go",
		"		of.unsent++\n", "		if of.unsent++; PLANTED {\n			of.drop(of.answered + 1)\n		}\n"},
	{"8: answers are not written again", "TestModel/CutOne", "session.go",
		"	s.unsent = 0\n	p :=", "	if !PLANTED {\n		s.unsent = 0\n	}\n	p :="},
	{"8: what was not read is confirmed", "TestModel/CutOne", "outbox.go",
		"	return o.generations, l.session, l.got\n", "	if PLANTED {\n		l.got++\n	}\n	return o.generations, l.session, l.got\n"},
	{"9: the old connection is read", "TestModel/Cut", "session.go",
		"	case !s.hears(generation):\n", "	case !s.hears(generation) && !PLANTED:\n"},
	{"9: generations need not rise", "TestModel/Fresh", "session.go",
		"return h.generation <= s.generation", "return h.generation <= s.generation && !PLANTED"},
	{"10: MOVED does not stick", "TestModel/Claiming", "session.go",
		"s.moved[in.Partition] = true", "s.moved[in.Partition] = !PLANTED"},
	{"10: MOVED sticks to a connection", "TestModel/ClaimingCut", "session.go",
		"	p := reply{", "	if PLANTED {\n		clear(s.moved)\n	}\n	p := reply{"},
	{"11: a CANCEL ends what runs", "TestModel/Quiet", "session.go",
		"if s.env.leave(in) {", "if s.env.leave(in) || PLANTED {"},
	{"12: what was written off stays in its lane", "TestModel/Gone", "session.go",
		"	s.orphan()\n	clear(s.open)\n", "	if !PLANTED {\n		s.orphan()\n	}\n	clear(s.open)\n"},
	{"a stuck member takes all there is", "TestStuckMemberHarmsNobody", "load.go",
		"return part.calls.Load() < share*calls &&", "return PLANTED || part.calls.Load() < share*calls &&"},
	{"what is refused is counted back", "TestLoadIsBounded", "load.go",
		"		return false\n	}\n	c.part = part\n", "		if PLANTED {\n			h.load.add(-1, -size)\n		}\n		return false\n	}\n	c.part = part\n"},
	{"a stream is read whole", "TestSlowReaderHoldsTheStream", "bulk.go",
		"	stream.timer.Stop()\n	buffer", "	stream.timer.Stop()\n	if PLANTED {\n		b, _ := io.ReadAll(stream.reader)\n		in, out := io.Pipe()\n		go func() {\n			out.Write(b)\n			out.Close()\n		}()\n		stream.reader = in\n	}\n	buffer"},
	{"a fetch outlives its owner", "TestFetchFailsWhenTheOwnerIsGone", "bulk.go",
		"	f.stop = context.AfterFunc(f.peer.life, conn.hangUp)\n", "	f.stop = context.AfterFunc(f.peer.life, conn.hangUp)\n	if PLANTED {\n		f.stop()\n	}\n"},
	{"an idle connection is trusted", "TestFetchOutlivesIdleConnections", "bulk.go",
		"	f.idle = idle\n", "	f.idle = idle && !PLANTED\n"},
	{"every answer is a frame", "TestLongAnswerIsFetched", "host.go",
		"	if len(r.Body) > answerMax {", "	if len(r.Body) > answerMax && !PLANTED {"},
	{"ADMITTED waits for company", "TestBulkIsAdmittedAtOnce", "host.go",
		"	defer s.mu.Unlock()\n	if in.Bulk {", "	defer s.mu.Unlock()\n	if in.Bulk && !PLANTED {"},
	{"answers have no bound", "TestAnswersAreBounded", "session.go",
		"	if s.bytes > answersMax && r.Problem", "	if s.bytes > answersMax && !PLANTED && r.Problem"},
	{"control waits for requests", "TestControlGoesFirst", "conn.go",
		"	for len(l.controls) > 0 && len(b) < batchBytes {", "	for len(l.controls) > 0 && len(b) < batchBytes && !PLANTED {"},
	{"another incarnation is let in", "TestGreetingRefuses", "host.go",
		"	case hello.to != c.Self:", "	case hello.to.Name != c.Self.Name || !PLANTED && hello.to != c.Self:"},
	{"another incarnation is believed", "TestGreetingIsNoSurprise", "conn.go",
		"	case answer.owner != h.to:", "	case answer.owner != h.to && !PLANTED:"},
	{"what a dead ingress waits for stays", "TestIngressDies", "host.go",
		"	s.session.renew(0)\n", "	if !PLANTED {\n		s.session.renew(0)\n	}\n"},
	{"a stranger is remembered", "TestIngressDies", "host.go",
		"	if s.abandon(stranger) && stranger {", "	if s.abandon(stranger) && stranger && !PLANTED {"},
	{"nobody is missed", "TestIngressComesBackInTime", "host.go",
		"	s.session.orphan()\n	s.dropped", "	if !PLANTED {\n		s.session.orphan()\n	}\n	s.dropped"},
	{"a transfer is no debt", "TestStopWaitsForTransfers", "host.go",
		"owes := s.giving > 0 ||", "owes := s.giving > 0 && !PLANTED ||"},
	{"who is missed is no debt", "TestStopWaitsForWhoIsMissed", "host.go",
		"s.missed && !s.dropped ||", "s.missed && !s.dropped && !PLANTED ||"},
	{"a body is sent once", "TestBodyIsSentAgain", "bulk.go",
		"		case idle:\n", "		case PLANTED:\n			return\n		case idle:\n"},
	{"what is owned is written over", "TestFrameReaderKeepsWhatIsOwned", "frame.go",
		"	if len(payload) <= len(r.small) {", "	if len(payload) <= len(r.small) && !PLANTED {"},
	{"a length is believed", "TestLengthIsNotBelieved", "frame.go",
		"		r.buffer = make([]byte, min(n, believed))\n", "		r.buffer = make([]byte, min(n, believed))\n		if PLANTED {\n			r.buffer = make([]byte, n)\n		}\n"},
	{"a response has no depth", "TestFramesRoundTrip", "frame.go",
		"	r.RetryAfter, r.Depth = in.millis(), in.count()\n", "	if r.RetryAfter, r.Depth = in.millis(), in.count(); PLANTED {\n		r.Depth = 0\n	}\n"},
	{"an effect does not travel", "TestFramesRoundTrip", "frame.go",
		"		r.Effect = in.effect()\n", "		if r.Effect = in.effect(); PLANTED {\n			r.Effect = nil\n		}\n"},
	{"a response's status is lost", "TestFramesRoundTrip", "frame.go",
		"		r.Status = int(in.u16())\n", "		if r.Status = int(in.u16()); PLANTED {\n			r.Status = 0\n		}\n"},
	{"an effect's length is believed", "TestEffectsThatAreCutOff", "frame.go",
		"	if n > len(r.b)/overSize {", "	if n > len(r.b)/overSize && !PLANTED {"},
	{"another layout is let in", "TestGreetingRefuses", "host.go",
		"	case hello.layout != c.Layout:", "	case hello.layout != c.Layout && !PLANTED:"},
	{"the lowest version is spoken", "TestVersionsMeet", "host.go",
		"	version = min(hello.most, own.most)\n", "	if version = min(hello.most, own.most); PLANTED {\n		version = max(hello.least, own.least)\n	}\n"},
	{"an unknown kind is an error", "TestLaterFramesAreSkipped", "host.go",
		"	default: // of a later version\n", "	default:\n		if PLANTED {\n			return errFrame\n		}\n"},
	{"any certificate is good", "TestSecretTLS", "tls.go",
		"			return errors.New(\"the other side has another", "			if PLANTED {\n				return nil\n			}\n			return errors.New(\"the other side has another"},
	{"one secret is known", "TestSecretTLS", "tls.go",
		"		accepted = append(accepted, public)\n", "		if i == 0 || !PLANTED {\n			accepted = append(accepted, public)\n		}\n"},
	{"no chain is verified", "TestCertificateTLS", "tls.go",
		"			return err\n		},\n", "			if PLANTED {\n				return nil\n			}\n			return err\n		},\n"},
	{"Stop leaves what was held", "TestStopEndsEverything", "hop.go",
		"			s.outbox.stop()\n", "			if !PLANTED {\n				s.outbox.stop()\n			}\n"},
	{"what was buffered survives Freeze", "TestFreezeWaitsForReaders", "host.go",
		"	s.session.deaf = true\n	if s.conn", "	s.session.deaf = s.session.deaf || !PLANTED\n	if s.conn"},
	{"Freeze does not wait for readers", "TestFreezeWaitsForReaders", "host.go",
		"	for _, ended := range readers {\n		<-ended", "	for _, ended := range readers {\n		if PLANTED {\n			continue\n		}\n		<-ended"},
	{"messages survive Freeze", "TestFreezeWaitsForReaders", "host.go",
		"			if !s.hears(generation) {", "			if !s.hears(generation) && !PLANTED {"},
	{"a panic in Serve is not met there", "TestPanicCostsItsRequest", "host.go",
		"	defer s.host.hop.rescue(\"serving a request\", func() {", "	defer s.host.hop.rescue(\"serving a request\", func() {\n		if PLANTED {\n			panic(\"on\")\n		}\n		"},
	{"a ticket outlives the panic of its request", "TestPanicCostsItsRequest", "rescue.go",
		"	case !s.leave(in):\n", "	case PLANTED || !s.leave(in):\n"},
	{"who panicked before its ticket is not told", "TestPanicCostsItsRequest", "rescue.go",
		"		s.tellLeft(in)\n", "		if !PLANTED {\n			s.tellLeft(in)\n		}\n"},
	{"a ticket taken by another's hand is not guarded", "TestPanicCostsItsRequest", "hop.go",
		"		admitted = true\n", "		if admitted = true; PLANTED {\n			panic(\"on\")\n		}\n		"},
	{"a panic in Control goes on", "TestPanicCostsItsConnection", "rescue.go",
		"		err = errPanic\n", "		if !PLANTED {\n			err = errPanic\n		}\n"},
	{"a spoilt session goes on", "TestPanicCostsItsSession", "rescue.go",
		"	s.session.renew(0)\n", "	if !PLANTED {\n		s.session.renew(0)\n	}\n"},
	{"a spoilt session is not emptied", "TestPanicCostsItsSession", "rescue.go",
		"	defer s.session.empty()", "	defer func() {\n		if !PLANTED {\n			s.session.empty()\n		}\n	}()"},
	{"a spoilt link goes on", "TestPanicCostsItsSession", "rescue.go",
		"	s.outbox.renounce(l)\n", "	if !PLANTED {\n		s.outbox.renounce(l)\n	}\n"},
	{"a spoilt link keeps its session", "TestPanicCostsItsSession", "rescue.go",
		"l.up, l.session, l.got = false, 0, 0\n", "l.up = false\n	if !PLANTED {\n		l.session, l.got = 0, 0\n	}\n"},
	{"a stream whose reader panics stays open", "TestPanicCostsItsConnection", "bulk.go",
		"	defer stream.end(false)", "	defer stream.end(PLANTED)"},
	{"12: the answers of what was written off are sent", "TestModel/Gone", "session.go",
		"	s.answers, s.answered, s.bytes = nil, 0, 0\n", "	if !PLANTED {\n		s.answers, s.answered, s.bytes = nil, 0, 0\n	}\n"},
}

// plantFlag names the mutant that a binary made by TestMutantsAreCaught is to be.
var plantFlag = flag.String("peer.plant", "", "the mutant to be, in a binary that has them")

func planted(name string) bool { return name == *plantFlag }

var _ = planted // only the mutants call it

// TestMutantsAreCaught takes each rule away and expects its test to go red. With
// none taken away the model's states are explored farther than the race detector's
// pace allows.
func TestMutantsAreCaught(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles the package once, and runs it once per mutant")
	}
	binary := withMutants(t)
	run := func(t *testing.T, args ...string) (string, error) {
		out, err := exec.CommandContext(t.Context(), binary, append(args, "-test.timeout=5m", "-test.v")...).CombinedOutput()
		return string(out), err
	}
	if output, err := run(t, "-test.run=^(TestModel|TestHints)$", "-peer.states="+strconv.Itoa(10**statesFlag)); err != nil {
		t.Fatalf("red without a mutant:\n%s", output)
	}
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			output, err := run(t, "-test.run=^"+strings.ReplaceAll(m.test, "/", "$/^")+"$", "-peer.plant="+m.name, "-peer.states=100000")
			if err == nil {
				t.Fatalf("not caught:\n%s", output)
			}
			if strings.Contains(output, "test timed out") {
				t.Fatalf("hangs in %s, which is no verdict", m.test)
			}
			t.Log(output)
		})
	}
}

// withMutants compiles the package's tests with every mutant in its place.
func withMutants(t *testing.T) (binary string) {
	t.Helper()
	dir := t.TempDir()
	replace := map[string]string{}
	for _, m := range mutants {
		path, err := filepath.Abs(m.file)
		if err != nil {
			t.Fatal(err)
		}
		source := path
		if replace[path] != "" {
			source = replace[path]
		}
		text, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(text), m.from); n != 1 {
			t.Fatalf("%s: %s has %d places to plant it", m.name, m.file, n)
		}
		to := strings.ReplaceAll(m.to, "PLANTED", fmt.Sprintf("planted(%q)", m.name))
		replace[path] = filepath.Join(dir, m.file)
		if err := os.WriteFile(replace[path], []byte(strings.Replace(string(text), m.from, to, 1)), 0o600); err != nil {
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
	binary = filepath.Join(dir, "mutants.test")
	cmd := exec.CommandContext(t.Context(), "go", "test", "-c", "-vet=off", "-overlay="+filepath.Join(dir, "overlay.json"), "-o", binary, ".")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("compile: %v\n%s", err, out)
	}
	return binary
}
