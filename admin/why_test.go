package admin

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// A key whose owner is silent is not one with nothing to do: neither why nor its page says so.
//
// Mutants: the owner's silence is no reason; it is said twice; why, or the page, calls the lane idle.
func TestAnOwnerThatIsSilent(t *testing.T) {
	c := newTrio()
	c.fails["lk-1"] = errors.New("it is away")
	var why Why
	c.ask(t, "lk-0", "GET", "/api/v1/why/order/7", "", &why)
	if r := why.Reasons[0]; why.LaneState != StateUnknown || r.Code != WhySilent || r.Node != "lk-0" || !slices.Equal(r.Who, []string{"lk-1"}) || r.Advice == "" {
		t.Errorf("why: %+v", why)
	}
	text := strings.Join(why.Text, "\n")
	for part, count := range map[string]int{"waits or runs there is not known": 1, "does not answer lk-0: it is away.": 1, "it is away": 1, "Nothing": 0} {
		if strings.Count(text, part) != count {
			t.Errorf("%q is not said %d times:\n%s", part, count, text)
		}
	}
	var page LanePage
	if c.ask(t, "lk-0", "GET", "/api/v1/lanes/order/7", "", &page); page.State != StateUnknown || len(page.Silent) != 1 {
		t.Errorf("page: %+v", page)
	}
}

// Who answers may not know an owner, and then that is the reason; a word of a later epoch is better than
// an earlier one, whoever has it.
//
// Mutants: no reason is added; one is added to others; the first answer counts.
func TestNobodyKnowsAnOwner(t *testing.T) {
	silent := []Silent{{"lk-2", "it is away"}}
	none := Why{Node: "lk-0", Target: "lk-2", LaneState: StateIdle}
	why := mergeWhy(nil, nil, []Why{none, {Node: "lk-1", Target: "lk-2", LaneState: StateIdle}}, silent)
	if len(why.Reasons) != 1 || why.Reasons[0].Code != WhyNoOwner || !slices.Equal(why.Reasons[0].Who, []string{"lk-2"}) {
		t.Errorf("none: %+v", why.Reasons)
	}
	claims := Why{Node: "lk-1", Target: "lk-1", LaneState: StateIdle, Reasons: []Reason{{Code: WhyClaim}}}
	if why = mergeWhy(nil, nil, []Why{none, claims}, nil); len(why.Reasons) != 1 || why.Reasons[0].Code != WhyClaim {
		t.Errorf("claimed: %+v", why.Reasons)
	}
	late := Why{Node: "lk-1", Owner: "lk-2", Epoch: 3, LaneState: StateIdle}
	if why = mergeWhy(nil, nil, []Why{none, late}, silent); why.Owner != "lk-2" || why.Reasons[0].Code != WhySilent || why.Node != "lk-0" {
		t.Errorf("known to one: %+v", why)
	}
}

// What is amiss is said once, by whom it is seen, and names what is missing.
//
// Mutants: each says for itself who is dead; the coordinator is said twice; a check that fails beside it is not said.
func TestWarningsNameTheCause(t *testing.T) {
	const away = "etcd at e:2379: no answer"
	all := []Status{
		{Node: "lk-1", Ready: true, Dead: []string{"lk-2"}},
		{Node: "lk-0", Dead: []string{"lk-2", "lk-3"}, Lease: &Lease{Away: away}, NotReady: []string{"coordinator: " + away, "cluster: it is alone"}},
	}
	n := numbersOf(all, nil)
	want := []string{
		"lk-0, lk-1 take lk-2 for dead", "lk-0 takes lk-3 for dead",
		"lk-0 has no lease from the coordinator, and refuses strict requests: " + away, "lk-0 is not ready: cluster: it is alone",
	}
	if !slices.Equal(n.Warnings, want) {
		t.Errorf("warnings: %q", n.Warnings)
	}
}
