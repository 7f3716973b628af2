package ownership

import (
	"testing"

	"lanekeeper/ring"
)

// BenchmarkJoin is the second node's coming to a cluster of one: half of 4096
// partitions move, with everything that is said, encoded and read. It leaves out
// the network and the lanes.
func BenchmarkJoin(b *testing.B) {
	layout := ring.DefaultLayout("bench")
	alone, both := viewOf(b, layout, ma), viewOf(b, layout, ma, mb)
	var payloads, bytes int
	for b.Loop() {
		payloads, bytes = 0, 0
		one, two := NewTable(ma, layout.Partitions, deafLanes{}, nil), NewTable(mb, layout.Partitions, deafLanes{}, nil)
		one.View(alone)
		one.View(both)
		two.View(both)
		one.Up(mb)
		two.Up(ma)
		var e encoder
		var d decoder
		for said := true; said; {
			said = false
			for _, hop := range [...]struct{ from, to *Table }{{one, two}, {two, one}} {
				for _, out := range hop.from.Take() {
					for _, payload := range e.payloads(out.Message) {
						payloads++
						bytes += len(payload)
						m, _, err := d.message(hop.from.self, payload)
						if err != nil {
							b.Fatal(err)
						}
						hop.to.Receive(hop.from.self, m)
						said = true
					}
				}
			}
		}
		if owned := two.Counts().Owned; owned < 1000 || one.Counts().Owned+owned != layout.Partitions {
			b.Fatalf("%d and %d are owned", one.Counts().Owned, owned)
		}
	}
	b.ReportMetric(float64(payloads), "payloads")
	b.ReportMetric(float64(bytes)/1024, "KiB")
}

// BenchmarkView is a view in which nothing changes for this node.
func BenchmarkView(b *testing.B) {
	layout := ring.DefaultLayout("bench")
	v := viewOf(b, layout, ma, mb, mc)
	t := NewTable(ma, layout.Partitions, deafLanes{}, nil)
	for b.Loop() {
		t.View(v)
		t.Take()
	}
}

func viewOf(b *testing.B, layout ring.Layout, members ...ring.Member) View {
	r, err := ring.New(layout, members)
	if err != nil {
		b.Fatal(err)
	}
	return View{Live: members, Targets: Targets(r), Enough: true}
}
