package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/admin"
	"lanekeeper/membership/membertest"
	"lanekeeper/ring"
)

// These tests are single stories of whole strict nodes, by virtual time and with a
// coordinator in memory, where the simulation plays many at once.

// strictPair is a quiet cluster of two.
func strictPair(ttl, upstreamTimeout time.Duration) scenario {
	return scenario{
		seed: 1, nodes: 2, partitions: 16, stripes: 1, minMembers: 1,
		settle: 50 * time.Millisecond, handoff: time.Second, rejoin: 2 * time.Second,
		patience: 2 * time.Minute, upstreamTimeout: upstreamTimeout,
		strict: true, ttl: ttl, margin: time.Second,
		link: membertest.Link{Delay: 200 * time.Microsecond},
	}
}

// tell lets a story happen to a cluster that has settled.
func (s scenario) tell(t *testing.T, story func(t *testing.T, w *world)) {
	t.Helper()
	warmFasthttp()
	config := simulationConfig(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(s, config)
		defer func() {
			w.stopAll()
			if len(w.problems) > 0 {
				t.Errorf("%s", strings.Join(w.problems, "\n"))
			}
			if t.Failed() {
				t.Logf("%s\n%s", strings.Join(w.diary, "\n"), strings.Join(w.lines, "\n"))
			}
		}()
		for i := range s.nodes {
			w.start(nodeName(i))
		}
		for _, p := range w.present() {
			p.awaitReady()
		}
		if w.settleDown(time.Minute, time.Second) {
			story(t, w)
		}
	})
}

// eventsOf asks a node's admin API for all its events.
func (p *simProcess) eventsOf(t *testing.T) []admin.Event {
	t.Helper()
	request := httptest.NewRequest(http.MethodGet, "http://localhost/api/v1/events?node="+p.name, nil)
	answer := httptest.NewRecorder()
	admin.Handler(admin.Config{AllowedHosts: []string{"localhost"}}, p.node, slog.New(slog.DiscardHandler)).ServeHTTP(answer, request)
	var events admin.Events
	if err := json.Unmarshal(answer.Body.Bytes(), &events); err != nil || events.Node != p.name {
		t.Fatalf("%v: %s", err, answer.Body)
	}
	return events.Events
}

// picked are those of some kinds of events, each with some of its attributes.
func picked(events []admin.Event, attributes ...string) (texts []string) {
	kinds := make(map[string][]string)
	for _, a := range attributes {
		kind, names, _ := strings.Cut(a, " ")
		kinds[kind] = strings.Fields(names)
	}
	for _, e := range events {
		names, wanted := kinds[e.Event]
		if !wanted {
			continue
		}
		var has map[string]any
		json.Unmarshal(e.Attributes, &has) //nolint:errcheck // the test sees what is missing
		text := e.Event
		for _, name := range names {
			text += fmt.Sprintf(" %v", has[name])
		}
		texts = append(texts, text)
	}
	return texts
}

func (p *simProcess) lease() string {
	lease, _ := p.node.cluster.owners.Lease()
	return lease.ID
}

// keyOf is a key that a process owns.
func (p *simProcess) keyOf(t *testing.T) string {
	t.Helper()
	for k := range 1000 {
		c := p.node.cluster
		if owner, epoch := c.owners.Owner(c.Partition(fmt.Appendf(nil, "order:%d", k))); owner == c.self && epoch > 0 {
			return fmt.Sprint(k)
		}
	}
	t.Fatalf("%s owns nothing", p.id)
	return ""
}

// A node that loses its lease, and gets another one, says so: which, why, and what it
// owns; and so does one that waits for the lease of a dead one, and for which.
//
// Mutants killed: lease-gained is said of the first one only; lease-ended names the next
// lease; nobody says what is waited for, or says it twice.
func TestStrictEvents(t *testing.T) {
	strictPair(4*time.Second, time.Minute).tell(t, func(t *testing.T, w *world) {
		one, two := w.processes[0], w.processes[1]
		first := one.lease()
		one.store.Away(true)
		time.Sleep(10 * time.Second)
		one.store.Away(false)
		w.settleDown(time.Minute, time.Second)
		second := one.lease()
		have := picked(one.eventsOf(t), "lease-gained lease", "lease-ended lease why owned", "coordinator-away", "coordinator-back lease")
		want := []string{
			"lease-gained " + first, "coordinator-away",
			"lease-ended " + first + " the coordinator says so " + fmt.Sprint(one.node.cluster.owners.Owned()),
			"lease-gained " + second, "coordinator-back " + second,
		}
		if !slices.Equal(have, want) || first == second || first == "" {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(have, "\n"), strings.Join(want, "\n"))
		}

		gone, its := two.lease(), two.node.cluster.owners.Owned()
		two.crash(false)
		w.settleDown(time.Minute, time.Second)
		events := one.eventsOf(t)
		have = picked(events, "member-died member", "lease-awaited lease own_lease to_be_taken to_run_keys", "lease-awaited-ended lease")
		want = []string{
			"member-died " + ring.Member{Name: two.name, Incarnation: two.incarnation}.String(),
			fmt.Sprintf("lease-awaited %s %s %d 0", gone, second, its), "lease-awaited-ended " + gone,
		}
		if !slices.Equal(have, want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(have, "\n"), strings.Join(want, "\n"))
		}
		epoch := uint64(0)
		for p := range w.partitions {
			_, e := one.node.cluster.owners.Owner(p)
			epoch = max(epoch, e)
		}
		moved := picked(events, "partitions-moved gained lost owned highest_epoch")
		if last := fmt.Sprintf("partitions-moved %d 0 %d %d", its, w.partitions, epoch); moved[len(moved)-1] != last {
			t.Errorf("got %q, want %s", moved, last)
		}
	})
}

// How old a lease is, and how long a partition has been held, is counted from their own
// beginnings, whatever is renewed meanwhile, and said of what is this node's
// alone.
//
// Mutants killed: each look at the lease begins its age anew; the next lease has the age of
// the last one, or its tenures have.
func TestAgeOfLeaseAndTenure(t *testing.T) {
	const ttl = 4 * time.Second
	strictPair(ttl, time.Minute).tell(t, func(t *testing.T, w *world) {
		one, two := w.processes[0], w.processes[1]
		key := one.keyOf(t)
		held := func(of *simProcess) float64 {
			record := of.node.Locate("order", key, nil).Record
			if record == nil || record.Held == nil {
				return -1
			}
			return *record.Held
		}
		before := one.node.Status().Lease
		heldBefore := held(one)
		if before.Renewed == nil || *before.Renewed < 0 || *before.Renewed > ttl.Seconds()/2 || before.Age < *before.Renewed {
			t.Fatalf("got %+v", before)
		}
		const while = 20 * time.Second
		time.Sleep(while)
		after := one.node.Status().Lease
		if grown := after.Age - before.Age; grown != while.Seconds() || after.Renewed == nil || *after.Renewed > ttl.Seconds()/2 {
			t.Errorf("the age has grown by %vs: %+v", grown, after)
		}
		if grown := held(one) - heldBefore; heldBefore <= 0 || grown < while.Seconds()-1e-6 || grown > while.Seconds()+1e-6 {
			t.Errorf("held for %v, then %v", heldBefore, held(one))
		}
		if other := held(two); other != -1 {
			t.Errorf("the other node has held it for %v", other)
		}

		one.store.Away(true)
		time.Sleep(3 * time.Second)
		if away := one.node.Status().Lease; away.Renewed != nil || away.Seconds != 0 {
			t.Errorf("not valid: %+v", away)
		}
		time.Sleep(7 * time.Second)
		one.store.Away(false)
		w.settleDown(time.Minute, 0)
		if next := one.node.Status().Lease; next.ID == before.ID || next.Age > 1 {
			t.Errorf("got %+v", next)
		}
		if again := held(one); again < 0 || again > 1 {
			t.Errorf("held for %v under the next lease", again)
		}
	})
}
