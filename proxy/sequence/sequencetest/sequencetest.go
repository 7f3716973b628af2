// Package sequencetest judges whether something is a sequence.Store. It is for tests.
package sequencetest

import (
	"math"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"lanekeeper/proxy/sequence"
)

// Place is where marks are kept that nodes share.
type Place struct {
	// Open makes a further node, which is closed when t ends.
	Open func(t testing.TB) *Node
	// Timeout bounds each call while the server is away.
	Timeout time.Duration
	// Kill and Start are the server's, which keeps what it has.
	Kill, Start func()
}

// Node is a store, and how to treat its connections.
type Node struct {
	sequence.Store
	LoseReply func() // the next reply of the server doesn't arrive: the connection is cut
	Close     func() error
}

// brief is how long what expires is kept, and late is when it has.
const (
	brief = time.Second
	late  = 2 * brief
)

// suite is one test's way to a Place, with a key of its own.
type suite struct {
	*testing.T
	*Place
	node *Node
	key  []byte
}

// Run runs the suite. Who treats the server badly comes last.
func Run(t *testing.T, place *Place) {
	one := func(t *testing.T, test func(*suite)) {
		key := []byte("a\x00lane\xff" + strconv.FormatUint(rand.Uint64(), 36))
		test(&suite{T: t, Place: place, node: place.Open(t), key: key})
	}
	t.Run("Shared", func(t *testing.T) {
		for name, test := range map[string]func(*suite){
			"Rises": rises, "LargeNumbers": largeNumbers, "Apart": apart, "Expires": expires, "Prolonged": prolonged,
			"HighestOfMany": highestOfMany, "LostReplies": lostReplies, "Closed": closed,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel() // most of their time they wait for the server's clock
				one(t, test)
			})
		}
	})
	t.Run("Away", func(t *testing.T) { one(t, away) })
}

func (s *suite) save(producer string, epoch, seq uint64, ttl time.Duration) {
	s.Helper()
	if err := s.node.Save(s.Context(), s.key, sequence.Number{Producer: producer, Epoch: epoch, Seq: seq}, ttl); err != nil {
		s.Fatalf("Save: %v", err)
	}
}

// want looks at what a node finds; of an unknown producer that is 0 and 0.
func (s *suite) want(node *Node, producer string, epoch, done uint64) {
	s.Helper()
	e, d, known, err := node.Load(s.Context(), s.key, producer)
	if err != nil {
		s.Fatalf("Load: %v", err)
	}
	if e != epoch || d != done || known != (done != 0) {
		s.Errorf("%s: epoch %d, number %d, known %v; want %d and %d", producer, e, d, known, epoch, done)
	}
}

// rises: a mark does so, and never falls.
func rises(s *suite) {
	other := s.Open(s)
	s.want(s.node, "p", 0, 0)
	for _, step := range []struct{ epoch, seq, wantEpoch, wantDone uint64 }{
		{0, 1, 0, 1}, {0, 2, 0, 2}, {0, 2, 0, 2}, {0, 1, 0, 2}, {0, 10, 0, 10}, {0, 9, 0, 10},
		{2, 1, 2, 1}, {1, 7, 2, 1}, {0, 11, 2, 1}, {10, 3, 10, 3}, {9, 100, 10, 3},
	} {
		s.save("p", step.epoch, step.seq, time.Hour)
		s.want(s.node, "p", step.wantEpoch, step.wantDone)
		s.want(other, "p", step.wantEpoch, step.wantDone)
	}
}

// largeNumbers: those that a float takes for one are two.
func largeNumbers(s *suite) {
	const exact = 1 << 53
	s.save("p", exact, exact, time.Hour)
	s.save("p", exact, exact+1, time.Hour)
	s.want(s.node, "p", exact, exact+1)
	s.save("p", exact+1, 1, time.Hour)
	s.want(s.node, "p", exact+1, 1)
	s.save("p", math.MaxInt64, math.MaxInt64, time.Hour)
	s.save("p", math.MaxInt64, math.MaxInt64-1, time.Hour)
	s.want(s.node, "p", math.MaxInt64, math.MaxInt64)
}

// apart: producers and keys have marks of their own.
func apart(s *suite) {
	s.save("p", 0, 5, time.Hour)
	s.save("q", 0, 6, time.Hour)
	s.want(s.node, "p", 0, 5)
	s.want(s.node, "q", 0, 6)
	s.want(s.node, "P", 0, 0)
	s.key = append(s.key, 'p')
	s.want(s.node, "", 0, 0)
	s.want(s.node, "p", 0, 0)
}

// expires: then nothing counts, not even how high it was.
func expires(s *suite) {
	s.save("p", 3, 9, brief)
	s.want(s.node, "p", 3, 9)
	time.Sleep(late) // until the server's clock has moved
	s.want(s.node, "p", 0, 0)
	s.save("p", 0, 1, time.Hour)
	s.want(s.node, "p", 0, 1)
}

// prolonged: a time that was promised is kept, and begins again with each number.
func prolonged(s *suite) {
	s.save("long", 0, 1, time.Hour)
	s.save("long", 0, 2, brief)
	for _, producer := range []string{"again", "next"} {
		s.save(producer, 0, 1, brief)
	}
	s.save("again", 0, 1, time.Hour)
	s.save("next", 0, 2, time.Hour)
	time.Sleep(late) // as above
	s.want(s.node, "long", 0, 2)
	s.want(s.node, "again", 0, 1)
	s.want(s.node, "next", 0, 2)
}

// highestOfMany: whoever saves, and in what order.
func highestOfMany(s *suite) {
	nodes := []*Node{s.node, s.Open(s), s.Open(s)}
	const most = 60
	var wg sync.WaitGroup
	for i, seq := range rand.Perm(most) {
		wg.Go(func() {
			n := sequence.Number{Producer: "p", Seq: uint64(seq) + 1} //nolint:gosec // not negative
			if err := nodes[i%len(nodes)].Save(s.Context(), s.key, n, time.Hour); err != nil {
				s.Error(err)
			}
		})
	}
	wg.Wait()
	s.want(s.node, "p", 0, most)
}

// lostReplies: what the server did, and nobody heard of, is done again.
func lostReplies(s *suite) {
	for seq := range uint64(5) {
		s.node.LoseReply()
		s.save("p", 0, seq+1, time.Hour)
		s.node.LoseReply()
		s.want(s.node, "p", 0, seq+1)
	}
}

func closed(s *suite) {
	s.save("p", 0, 1, time.Hour)
	if err := s.node.Close(); err != nil {
		s.Error(err)
	}
	if _, _, known, err := s.node.Load(s.Context(), s.key, "p"); err == nil || known {
		s.Errorf("Load: known %v, %v", known, err)
	}
	if err := s.node.Save(s.Context(), s.key, sequence.Number{Producer: "p", Seq: 2}, time.Hour); err == nil {
		s.Error("Save: it is kept")
	}
}

// away: nobody knows, which is said soon; and what was kept is there again.
func away(s *suite) {
	s.save("p", 1, 4, time.Hour)
	s.Kill()
	begun := time.Now()
	if _, _, known, err := s.node.Load(s.Context(), s.key, "p"); err == nil || known {
		s.Errorf("Load: known %v, %v", known, err)
	}
	if err := s.node.Save(s.Context(), s.key, sequence.Number{Producer: "p", Epoch: 1, Seq: 5}, time.Hour); err == nil {
		s.Error("Save: it is kept")
	}
	if took := time.Since(begun); took > 2*s.Timeout+time.Second {
		s.Errorf("that took %v", took)
	}
	s.Start()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, _, _, err := s.node.Load(s.Context(), s.key, "p"); err == nil || time.Now().After(end) {
			break
		}
	}
	s.want(s.node, "p", 1, 4)
	s.save("p", 1, 5, time.Hour)
	s.want(s.node, "p", 1, 5)
}
