// Package sequence puts the requests of a producer into the order in which the
// producer numbered them, however they came: over several connections, through
// several nodes, again and again.
//
// A producer numbers its requests for a key from 1. The package keeps, for each
// producer of a key, a mark: the highest number that has been run, all before it
// included. It is asked in the turn of a request, where no other request of the key
// runs, and says whether this number is the next one. If numbers before it are
// missing, the request gives its turn back and is held: [Marks.Hold] tells when
// there is news, and then it takes its place anew. So a request that waits for
// another keeps nobody else from running, and what came in order never waits twice.
//
// A number is done when it was run or may have been. One that was certainly not, for
// its client hung up, say, is still the next, and those behind it are held until it
// comes again.
//
// Marks move with their partition: [Marks.Seal] ends a tenure, [Marks.Import] brings what
// the last owner knew, and [Marks.Open] begins one. Where nothing was brought, as after a
// crash, what is left of an earlier tenure is forgotten: others may have run what it says
// is still to come.
//
// Not promised: that a mark outlives the process, which a [Store] is for. Where a mark is
// not known, number 1 begins a producer, and any other is [Unknown] rather than a guess.
package sequence

import (
	"errors"
	"sync"
	"time"
)

// Number is where a request stands among those of its producer.
type Number struct {
	Producer string
	Epoch    uint64 // of the producer; a higher one ends all lower ones
	Seq      uint64 // from 1 in each epoch
}

// Verdict is what a number is in its turn.
type Verdict uint8

// The verdicts.
const (
	Next    Verdict = iota // it is to be run, and then to be Ran
	Done                   // it was run, or may have been
	Gap                    // numbers before it are missing
	Unknown                // so they are, and nothing at all is known of the producer
	Fenced                 // the producer has begun a higher epoch
)

// Errors of Hold.
var (
	ErrHeld   = errors.New("sequence: too many requests of the key are held")
	ErrFull   = errors.New("sequence: there is no room for a further producer")
	errFormat = errors.New("sequence: the marks cannot be read")
)

// Config bounds Marks.
type Config struct {
	MaxMarks int // producers of keys that are remembered; 0: no bound
	// Now is the time, time.Now if it is nil.
	Now func() time.Time
}

// Marks are the marks of a node. Its methods are safe for concurrent use, and none
// blocks.
type Marks struct {
	config Config

	mu    sync.Mutex // guards the rest
	parts map[int]map[string]*lane
	open  map[int]bool // partitions between Open and Seal
	whole map[int]bool // others, of which everything is known
	count int          // of marks
	old   expiries
}

// lane is what is known of a key.
type lane struct {
	partition int
	key       string
	marks     map[string]*mark
	held      map[*Held]struct{}
}

// mark is what is known of a producer of a key.
type mark struct {
	lane     *lane
	producer string
	epoch    uint64
	done     uint64 // the highest number that was run; all before it were
	expires  time.Time
	left     time.Duration // until then, while it travels
	index    int           // in expiries
}

// New returns Marks that know nothing.
func New(config Config) *Marks {
	if config.Now == nil {
		config.Now = time.Now
	}
	return &Marks{config: config, parts: make(map[int]map[string]*lane), open: make(map[int]bool), whole: make(map[int]bool)}
}

// Len is how many producers of keys are remembered.
func (m *Marks) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire()
	return m.count
}

// Judge says what a number of a producer of the key is, and the highest number that
// is done. With anyStart the first number that is seen of a producer begins it.
func (m *Marks) Judge(partition int, key []byte, n Number, anyStart bool) (v Verdict, done uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire()
	known := m.find(partition, key, n.Producer)
	switch {
	case known != nil && n.Epoch < known.epoch:
		return Fenced, 0
	case known == nil || n.Epoch > known.epoch:
		if n.Seq == 1 || anyStart {
			return Next, n.Seq - 1
		}
		if known == nil {
			return Unknown, 0
		}
		return Gap, 0
	case n.Seq <= known.done:
		return Done, known.done
	case n.Seq == known.done+1:
		return Next, known.done
	}
	return Gap, known.done
}

// Begin makes room for the mark of a number that is to be run, so that running it
// cannot be forgotten for want of room. It returns ErrFull.
func (m *Marks) Begin(partition int, key []byte, n Number) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.find(partition, key, n.Producer) == nil && m.config.MaxMarks > 0 && m.count >= m.config.MaxMarks {
		return ErrFull
	}
	return nil
}

// Ran marks a number as done, and wakes those of its key that are held. The mark is
// kept for ttl from now. It may be higher already, if another owner of a split network ran
// more while the number's request was under way.
func (m *Marks) Ran(partition int, key []byte, n Number, ttl time.Duration) {
	m.mu.Lock()
	ln := m.lane(partition, string(key))
	m.raise(ln, mark{producer: n.Producer, epoch: n.Epoch, done: n.Seq, expires: m.config.Now().Add(ttl)})
	woken := ln.wake()
	m.mu.Unlock()
	woken.tell()
}

// raise puts what is heard of a producer in place of what was known, unless that is as much: a
// mark only rises, in whatever order it is heard of.
func (m *Marks) raise(ln *lane, news mark) {
	k := ln.marks[news.producer]
	switch {
	case k == nil:
		k = &mark{lane: ln, producer: news.producer}
		ln.marks[news.producer] = k
		m.count++
		m.old.add(k)
	case !k.below(news):
		return
	}
	k.epoch, k.done, k.expires = news.epoch, news.done, news.expires
	m.old.fix(k)
}

func (m *Marks) find(partition int, key []byte, producer string) *mark {
	if ln := m.parts[partition][string(key)]; ln != nil {
		return ln.marks[producer]
	}
	return nil
}

// lane is made if there is none.
func (m *Marks) lane(partition int, key string) *lane {
	lanes := m.parts[partition]
	if lanes == nil {
		lanes = make(map[string]*lane)
		m.parts[partition] = lanes
	}
	ln := lanes[key]
	if ln == nil {
		ln = &lane{partition: partition, key: key, marks: make(map[string]*mark), held: make(map[*Held]struct{})}
		lanes[key] = ln
	}
	return ln
}

// tidy forgets a lane of which nothing is known. If it was before, another may have come
// in its place.
func (m *Marks) tidy(ln *lane) {
	lanes := m.parts[ln.partition]
	if len(ln.marks) > 0 || len(ln.held) > 0 || lanes[ln.key] != ln {
		return
	}
	delete(lanes, ln.key)
	if len(lanes) == 0 {
		delete(m.parts, ln.partition)
	}
}

// expire forgets marks whose time is over.
func (m *Marks) expire() {
	now := m.config.Now()
	for k := m.old.first(); k != nil && !k.expires.After(now); k = m.old.first() {
		m.forget(k)
	}
}

func (m *Marks) forget(k *mark) {
	m.old.remove(k)
	delete(k.lane.marks, k.producer)
	m.count--
	m.tidy(k.lane)
}
