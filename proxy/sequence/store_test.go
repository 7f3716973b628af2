package sequence

import (
	"errors"
	"testing"
	"time"
)

// Mutants: what is learnt replaces what is known; finds room where there is none.
func TestLearn(t *testing.T) {
	m := New(Config{MaxMarks: 1})
	learn := func(n Number, want error) {
		t.Helper()
		if err := m.Learn(3, orders, n, time.Hour); !errors.Is(err, want) {
			t.Errorf("%v: got %v, want %v", n, err, want)
		}
	}
	for _, step := range []struct {
		learnt, next Number
	}{
		{seq("p", 4), seq("p", 5)}, {seq("p", 3), seq("p", 5)}, {seq("p", 5), seq("p", 6)},
		{Number{"p", 1, 2}, Number{"p", 1, 3}}, {seq("p", 9), Number{"p", 1, 3}},
	} {
		learn(step.learnt, nil)
		if v, _ := m.Judge(3, orders, step.next, false); v != Next {
			t.Errorf("after %v: %v is %d, want the next one", step.learnt, step.next, v)
		}
	}
	learn(seq("q", 1), ErrFull)
	if !m.Knows(3, orders, "p") || m.Knows(3, orders, "q") || m.Knows(4, orders, "p") || m.Knows(3, []byte("x"), "p") {
		t.Error("it knows others than it learnt of")
	}
}

// Mutants: a key's end and a producer's beginning are one text.
func TestNames(t *testing.T) {
	names := make(map[[32]byte]bool)
	for _, pair := range [][2]string{{"a", "b"}, {"ab", ""}, {"", "ab"}, {"a\x00", "b"}, {"a", "c"}, {"A", "b"}} {
		names[Name([]byte(pair[0]), pair[1])] = true
	}
	if len(names) != 6 {
		t.Errorf("%d names, want 6", len(names))
	}
}
