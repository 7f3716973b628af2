package membership

import (
	"bytes"
	"math"
	"strings"
	"testing"

	"github.com/hashicorp/memberlist"

	"lanekeeper/ring"
)

// fullest is the longest announcement that Config.Validate lets through.
func fullest() announcement {
	return announcement{
		intent:      leaving,
		layout:      markOf(ring.DefaultLayout("c")),
		peerAddress: strings.Repeat("p", peerAddressMax),
		zone:        strings.Repeat("z", zoneMax),
		configHash:  strings.Repeat("h", configHashMax),
		version:     strings.Repeat("v", versionMax),
	}
}

func TestAnnouncementsFit(t *testing.T) {
	if n := len(fullest().encode()); n > memberlist.MetaMaxSize {
		t.Errorf("the longest has %d bytes, memberlist panics above %d", n, memberlist.MetaMaxSize)
	}
}

func TestAnnouncementsComeBack(t *testing.T) {
	for _, a := range []announcement{{}, {layout: markOf(testLayout())}, {intent: draining, peerAddress: "h:1", version: "v1"}, fullest()} {
		if got, err := decodeAnnouncement(a.encode()); err != nil || got != a {
			t.Errorf("%+v\nbecame %+v, %v", a, got, err)
		}
	}
}

// TestLayoutsThatDiffer are told apart, with the field that differs.
func TestLayoutsThatDiffer(t *testing.T) {
	ours := testLayout()
	for _, test := range []struct {
		change func(*ring.Layout)
		want   string
	}{
		{func(*ring.Layout) {}, ""},
		{func(l *ring.Layout) { l.Partitions = 32 }, "it has 32 partitions, this node has 64"},
		{func(l *ring.Layout) { l.VirtualNodes = 11 }, "it has 11 virtual nodes per member, this node has 10"},
		{func(l *ring.Layout) { l.Load = 1.5 }, "its load factor is 1.5, this node's is 1.25"},
		{func(l *ring.Layout) { l.Cluster = "other" }, "it has another cluster name, or places partitions in another way"},
	} {
		theirs := ours
		test.change(&theirs)
		if got := markOf(ours).difference(markOf(theirs)); got != test.want {
			t.Errorf("%+v: %q, want %q", theirs, got, test.want)
		}
	}
}

func TestAnnouncementsThatAreNone(t *testing.T) {
	good := announcement{layout: markOf(testLayout()), zone: "z"}.encode()
	for _, test := range []struct {
		what string
		b    []byte
	}{
		{"nothing", nil},
		{"a later format", append([]byte{2}, good[1:]...)},
		{"cut in a field", good[:len(good)-1]},
		{"cut in a head", good[:5]},
		{"no layout", []byte{metaFormat, tagIntent, 1, 0}},
		{"a short layout", []byte{metaFormat, tagLayout, 3, 1, 2, 3}},
		{"an empty intent", append([]byte{metaFormat, tagIntent, 0}, good[4:]...)},
		{"a field twice", append(append([]byte{}, good...), tagZone, 1, 'y')},
		{"fields out of order", append(append([]byte{}, good...), tagPeer, 1, 'y')},
		{"a terminal's escape", append(append([]byte{}, good...), tagVersion, 2, 0x1b, 'c')},
		{"a zone too long", append(append([]byte{}, good[:len(good)-3]...), append([]byte{tagZone, zoneMax + 1}, bytes.Repeat([]byte("z"), zoneMax+1)...)...)},
	} {
		if a, err := decodeAnnouncement(test.b); err == nil {
			t.Errorf("%s was read as %+v", test.what, a)
		}
	}
	later := append(append([]byte{}, good...), 99, 2, 0xff, 0xff)
	if a, err := decodeAnnouncement(later); err != nil || a.zone != "z" {
		t.Errorf("with a field of a later version: %+v, %v", a, err)
	}
	unknown := append([]byte{metaFormat, tagIntent, 1, 77}, good[4:]...)
	if a, err := decodeAnnouncement(unknown); err != nil || a.intent != draining {
		t.Errorf("an intent of a later version is %v, %v; want draining", a.intent, err)
	}
}

// FuzzMeta: no bytes make the decoder panic, and what it reads is within its
// limits and, written again, reads the same.
func FuzzMeta(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(announcement{layout: markOf(testLayout())}.encode())
	f.Add(fullest().encode())
	f.Add(append(fullest().encode(), 200, 1, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		a, err := decodeAnnouncement(b)
		if !bytes.Equal(b, before) {
			t.Fatal("the decoder wrote into its input")
		}
		if err != nil {
			return
		}
		if len(a.peerAddress) > peerAddressMax || len(a.zone) > zoneMax || len(a.configHash) > configHashMax || len(a.version) > versionMax || a.intent > leaving {
			t.Fatalf("beyond the limits: %+v", a)
		}
		again, err := decodeAnnouncement(a.encode())
		if math.IsNaN(a.layout.load) && math.IsNaN(again.layout.load) {
			a.layout.load, again.layout.load = 0, 0
		}
		if err != nil || again != a {
			t.Fatalf("%+v\nread again: %+v, %v", a, again, err)
		}
	})
}
