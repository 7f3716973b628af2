package peer

import (
	"fmt"
	"slices"
	"strings"
)

// explorer visits every state that a scenario can lead to, or as many as it may,
// nearest first. It makes each anew, from the steps that lead there.
type explorer struct {
	scenario *scenario
	most     int // states; 0 = all
	states   []state
	known    map[uint64]int32
	before   [][2]int32 // edges, as they were found: to, from
	edges    int
	complete bool
	longest  int
	print    fingerprint
}

type state struct {
	parent int32
	by     step
	depth  int32
	good   bool
	dead   bool // and nothing happens without a fault
	next   []step
}

// run explores, and returns what is wrong and the steps that lead there.
func (e *explorer) run() (wrong string, steps []step) {
	e.known = make(map[uint64]int32)
	w := newWorld(e.scenario)
	e.add(w, -1, step{})
	for at := 0; at < len(e.states); at++ {
		if e.most > 0 && len(e.states) >= e.most {
			return "", nil
		}
		path := e.path(at)
		for _, s := range e.states[at].next {
			w := newWorld(e.scenario)
			for _, s := range path {
				w.do(s)
			}
			w.do(s)
			e.edges++
			if w.wrong != "" {
				return w.wrong, append(path, s)
			}
			to := e.add(w, int32(at), s) //nolint:gosec // fits
			if e.states[to].dead {
				return "nothing more happens", append(path, s)
			}
			e.before = append(e.before, [2]int32{to, int32(at)}) //nolint:gosec // fits
		}
	}
	e.complete = true
	if at := e.stuck(); at >= 0 {
		return "from here nothing comes to its end", e.path(at)
	}
	return "", nil
}

func (e *explorer) add(w *world, parent int32, by step) int32 {
	print := e.print.of(w)
	if at, known := e.known[print]; known {
		return at
	}
	at := int32(len(e.states)) //nolint:gosec // fits
	e.known[print] = at
	s := state{parent: parent, by: by, good: w.good(), next: w.next(nil)}
	s.dead = !s.good && !slices.ContainsFunc(s.next, func(s step) bool { return s.kind < stepCutHere })
	if parent >= 0 {
		s.depth = e.states[parent].depth + 1
	}
	e.longest = max(e.longest, int(s.depth))
	e.states = append(e.states, s)
	return at
}

func (e *explorer) path(at int) []step {
	path := make([]step, e.states[at].depth)
	for i := len(path) - 1; i >= 0; i-- {
		path[i] = e.states[at].by
		at = int(e.states[at].parent)
	}
	return path
}

// stuck is the first state from which no good one can be reached, or -1.
func (e *explorer) stuck() int {
	from := make([][]int32, len(e.states))
	for _, b := range e.before {
		from[b[0]] = append(from[b[0]], b[1])
	}
	reaches := make([]bool, len(e.states))
	var todo []int32
	for at := range e.states {
		if e.states[at].good {
			reaches[at] = true
			todo = append(todo, int32(at)) //nolint:gosec // fits
		}
	}
	for len(todo) > 0 {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, b := range from[at] {
			if !reaches[b] {
				reaches[b] = true
				todo = append(todo, b)
			}
		}
	}
	for at := range reaches {
		if !reaches[at] {
			return at
		}
	}
	return -1
}

// story tells steps, one a line, with what is in the world behind the last.
func story(s *scenario, steps []step) string {
	var b strings.Builder
	w := newWorld(s)
	for _, s := range steps {
		fmt.Fprintf(&b, "\t%s\n", w.say(s))
		w.do(s)
	}
	return b.String()
}

// say names a step by what it is about.
func (w *world) say(s step) string {
	at := int(s.at)
	frame := func(frames [][]byte) string {
		names := map[kind]string{
			frameHello: "HELLO", frameReply: "REPLY", frameRequest: "REQUEST", frameCancel: "CANCEL", frameConfirm: "CONFIRM",
			framePing: "PING", frameAdmitted: "ADMITTED", frameMoved: "MOVED", frameResponse: "RESPONSE", framePong: "PONG",
		}
		k := kindOf(frames[0])
		switch payload := payloadOf(frames[0]); k {
		case frameRequest:
			var r Request
			s, _ := parseRequest(payload, &r)
			return fmt.Sprintf("REQUEST %d of x%s, first=%v", s.seq, r.Route, s.first)
		case frameReply:
			p, _ := parseReply(payload)
			return fmt.Sprintf("REPLY session %d processed %d open %v", p.session, p.processed, p.open)
		case frameMoved:
			m, _ := parseMoved(payload)
			return fmt.Sprintf("MOVED %d to %s at %d", m.seq, m.owner, m.epoch)
		case frameHello:
			h, _ := parseHello(payload)
			return fmt.Sprintf("HELLO generation %d session %d got %d", h.generation, h.session, h.got)
		case frameCancel, frameConfirm, frameAdmitted:
			n, _ := parseNumber(payload)
			return fmt.Sprintf("%s %d", names[k], n)
		case frameResponse:
			var r Response
			seq, _ := parseResponse(payload, &r)
			return fmt.Sprintf("RESPONSE %d %s%s", seq, r.Problem, r.Head)
		}
		return names[k]
	}
	switch s.kind {
	case stepReadUp:
		return fmt.Sprintf("%c reads %s (connection %d)", 'A'+rune(w.conns[at].node), frame(w.conns[at].up), w.conns[at].generation)
	case stepReadDown:
		return fmt.Sprintf("C reads %s (connection %d)", frame(w.conns[at].down), w.conns[at].generation)
	case stepWriteUp, stepWriteDown, stepEndHere, stepEndThere, stepCutHere, stepCutThere:
		return fmt.Sprintf("%s (connection %d, with %c)", stepNames[s.kind], w.conns[at].generation, 'A'+rune(w.conns[at].node))
	case stepMove:
		m := w.scenario.moves[w.moves]
		names := [...]string{"gives to", "takes", "is named to C", "is named to C by the ring", "restarts"}
		return fmt.Sprintf("move: %c %s (partition %d, to %c, epoch %d)", 'A'+rune(m.node), names[m.op], m.partition, 'A'+rune(m.to), m.epoch)
	case stepFinish:
		return fmt.Sprintf("%c runs the first of partition %d", 'A'+rune(at/2), at%2)
	case stepDial, stepGone, stepDrop, stepRejoin, stepView, stepOrphan:
		return fmt.Sprintf("%s %c", stepNames[s.kind], 'A'+rune(at))
	}
	return s.String()
}
