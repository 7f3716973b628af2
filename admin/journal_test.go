package admin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"
)

// text is an event in short.
func (e *Event) text() string {
	return fmt.Sprintf("%s %s %s %s", e.Level, e.Event, e.Message, e.Attributes)
}

// Mutants killed: every line is an event; debug lines are; the log gets lines below its
// level; it gets no events; attributes of With are lost; event stays among them.
func TestJournalKeepsTheEventsOfALog(t *testing.T) {
	var out bytes.Buffer
	j := NewJournal("lk-0")
	log := slog.New(j.Handler(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn})))
	log.Info("a request")
	verbose := slog.New(j.Handler(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	verbose.Debug("too small", "event", "view-changed")
	log.Info("joined", "event", "member-joined", "member", "lk-1", "took", 1500*time.Millisecond, "n", 7)
	log.Warn("no name", "event", 7)
	log.Warn("a name that is none", "event", "a\nb")
	log.With("part", "gossip").Error("died", "error", errors.New("a \"quote\"\x1b[31m"), "event", "member-died")
	log.WithGroup("g").Warn("in a group", "event", "stood-still", "a", 1)
	log.Warn("long", "event", "stood-still", "text", strings.Repeat("é", textBytesMax), "bad", "\xff")

	events := j.read(0, journalEvents)
	want := []string{
		`INFO member-joined joined {"member":"lk-1","took":"1.5s","n":7}`,
		`ERROR member-died died {"part":"gossip","error":"a \"quote\"\u001b[31m"}`,
		`WARN stood-still in a group {"g":{"event":"stood-still","a":1}}`,
		`WARN stood-still long {"text":"` + strings.Repeat("é", textBytesMax/2) + `…","bad":"?"}`,
	}
	if len(events.Events) != len(want) || events.Node != "lk-0" {
		t.Fatalf("got %+v", events)
	}
	for i := range want {
		if have := events.Events[i].text(); have != want[i] || events.Events[i].ID != j.first+uint64(i) || events.Events[i].Node != "lk-0" { //nolint:gosec // few
			t.Errorf("got %s, want %s", have, want[i])
		}
	}
	for text, logged := range map[string]bool{"a request": false, "joined": false, "too small": true, "no name": true, "died": true, "event=member-died": true} {
		if strings.Contains(out.String(), text) != logged {
			t.Errorf("%q in the log: %t\n%s", text, !logged, &out)
		}
	}
}

// Mutants killed: the number is not bounded; bytes are not; one too many goes; what goes
// is not counted as missed.
func TestJournalIsBounded(t *testing.T) {
	j := NewJournal("lk-0")
	log := slog.New(j.Handler(slog.DiscardHandler))
	for n := range journalEvents + 10 {
		log.Info("changed", "event", "view-changed", "n", n)
	}
	all := j.read(j.first-1, 2*journalEvents)
	if len(all.Events) != journalEvents || all.Missed != 10 || string(all.Events[0].Attributes) != `{"n":10}` || all.Next != j.next-1 {
		t.Errorf("got %d events from %s on, %d missed, next %d", len(all.Events), all.Events[0].Attributes, all.Missed, all.Next)
	}
	long := strings.Repeat("x", textBytesMax)
	for range journalEvents {
		log.Info("changed", "event", "view-changed", "a", long, "b", long, "c", long)
	}
	all, size := j.read(j.oldest-1, journalEvents), 0
	for i := range all.Events {
		size += all.Events[i].size()
	}
	if size != j.bytes || size > journalBytes || size < journalBytes-4*textBytesMax || len(all.Events) > journalBytes/(3*textBytesMax) {
		t.Errorf("%d events of %d bytes, counted as %d", len(all.Events), size, j.bytes)
	}
}

// Mutants killed: what an earlier process told last is missed, or counted; a number
// that is yet to come waits for ever.
func TestJournalOfAProcessThatStartedAnew(t *testing.T) {
	j := NewJournal("lk-0")
	log := slog.New(j.Handler(slog.DiscardHandler))
	log.Info("one", "event", "started")
	log.Info("two", "event", "view-changed")
	for since, want := range map[uint64]string{
		0: "one two", j.first - 5000: "one two", j.first - 1: "one two", j.first: "two", j.first + 1: "", j.first + 2: "one two", 1<<64 - 1: "one two",
	} {
		events := j.read(since, 10)
		var messages []string
		for _, e := range events.Events {
			messages = append(messages, e.Message)
		}
		if have := strings.Join(messages, " "); have != want || events.Missed != 0 || events.Next != j.first+1 {
			t.Errorf("since %d: got %q, %d missed, next %d", int64(since-j.first), have, events.Missed, events.Next) //nolint:gosec // for people
		}
	}
	if j.first < uint64(time.Now().Add(-time.Hour).UnixMilli()) { //nolint:gosec // after 1970
		t.Errorf("numbers begin with %d", j.first)
	}
}

// Readers that come again and again see each event once and in order, or know how many
// they missed, while many write.
//
// Mutants killed: wait without looking; changed is not closed; Next skips one.
func TestJournalLosesNothingUnsaid(t *testing.T) {
	const writers, each = 4, 2000
	j := NewJournal("lk-0")
	log := slog.New(j.Handler(slog.DiscardHandler))
	var writing, reading sync.WaitGroup
	for range 3 {
		reading.Go(func() {
			since, seen := j.first-1, uint64(0)
			for seen < writers*each {
				<-j.wait(since)
				events := j.read(since, 50)
				since += events.Missed
				for _, e := range events.Events {
					if e.ID != since+1 || e.Event != "view-changed" || len(e.Attributes) == 0 {
						t.Errorf("got %d after %d", e.ID, since)
					}
					since = e.ID
				}
				seen += events.Missed + uint64(len(events.Events))
				if since != events.Next {
					t.Errorf("next %d after %d", events.Next, since)
				}
			}
			if seen != writers*each {
				t.Errorf("%d events", seen)
			}
		})
	}
	for w := range writers {
		writing.Go(func() {
			for n := range each {
				log.Info("changed", "event", "view-changed", "writer", w, "n", n)
			}
		})
	}
	writing.Wait()
	reading.Wait()
}

// A line that is no event costs next to nothing: there is one for each request.
func TestJournalCostsOtherLinesNothing(t *testing.T) {
	h := NewJournal("lk-0").Handler(slog.DiscardHandler)
	line := slog.NewRecord(time.Now(), slog.LevelInfo, "request", 0)
	line.AddAttrs(slog.String("method", "GET"), slog.Int("status", 200))
	if n := testing.AllocsPerRun(100, func() { h.Handle(context.Background(), line) }); n > 0 { //nolint:errcheck // it takes everything
		t.Errorf("%v allocations", n)
	}
}
