package queue

import (
	"container/heap"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"testing"
	"testing/synctest"
	"time"
)

// TestZipf lets 254 requests per second come for 10 000 keys, the k-th of which
// is wanted k^-1.1 times as often as the first, for half an hour of virtual time. A
// turn takes 100 ms, so a key is saturated by ten requests per second: the third is
// by a sixth too many, and the fourth is busy six sevenths of the time. What the
// lanes say is held against exact figures:
//
//   - the keys that are hot are those that more was asked of than they can do, and no
//     others, from four minutes on: before, the backlogs grow;
//   - nothing flaps: each of them has become hot once, and that is all;
//   - Top lists the keys that came most, and its bounds hold.
//
// With shed, each of these keys is kept at the very depth that makes it hot.
//
// Mutants killed: hysteresis removed (ease, patience = whole, 0), or either half
// of it; "hot at once"; "doubt is not forgotten"; nothing is ever hot; a share of one
// half; "any counter is taken over"; the window before is not added up.
func TestZipf(t *testing.T) {
	for _, shed := range []int{0, usual.Depth} {
		t.Run(fmt.Sprintf("shed at %d", shed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { newZipfLoad(t, shed).run() })
		})
	}
}

const (
	zipfKeys    = 10_000
	zipfRate    = 254 // per second
	zipfService = 100 * time.Millisecond
	zipfRamp    = 2 * time.Minute
	zipfLength  = 30 * time.Minute
	zipfWindow  = 10 * time.Second
)

type zipfLoad struct {
	t       *testing.T
	lanes   *Lanes
	rng     *rand.Rand
	shed    int
	steps   []float64 // the sums of the weights up to each key
	started time.Time

	asked    [zipfKeys]int // since the ramp, refused or not
	admitted []zipfArrival // lately
	turns    turnsEnding
	hot      map[string]bool // ever
}

type zipfArrival struct {
	at  time.Duration
	key string
}

func newZipfLoad(t *testing.T, shed int) *zipfLoad {
	config := roomy
	config.MaxLanes, config.MaxQueued, config.TopWindow = math.MaxInt, math.MaxInt, zipfWindow
	l := &zipfLoad{t: t, lanes: New(config), rng: rand.New(rand.NewPCG(1, 1)), shed: shed, started: time.Now(), hot: map[string]bool{}}
	sum := 0.0
	for k := range zipfKeys {
		sum += math.Pow(float64(k+1), -1.1)
		l.steps = append(l.steps, sum)
	}
	return l
}

func (l *zipfLoad) now() time.Duration { return time.Since(l.started) }

// run is one goroutine: turns end and requests come in the order of their times.
func (l *zipfLoad) run() {
	look := time.Second
	for next := l.gap(); next < zipfLength; {
		switch ends := l.turns.next(); {
		case ends <= min(next, look):
			l.sleepUntil(ends)
			heap.Pop(&l.turns).(*zipfTicket).Done()
		case look <= next:
			l.sleepUntil(look)
			l.lanes.Cool()
			l.check()
			look += time.Second
		default:
			l.sleepUntil(next)
			l.ask()
			next += l.gap()
		}
	}
}

func (l *zipfLoad) sleepUntil(at time.Duration) { time.Sleep(at - l.now()) }

func (l *zipfLoad) gap() time.Duration {
	return time.Duration(l.rng.ExpFloat64() / zipfRate * float64(time.Second))
}

func (l *zipfLoad) ask() {
	k := sort.SearchFloat64s(l.steps, l.rng.Float64()*l.steps[zipfKeys-1])
	if l.now() >= zipfRamp {
		l.asked[k]++
	}
	ticket := &zipfTicket{}
	ticket.Notify = func() {
		if err := ticket.Granted(); err != nil {
			l.t.Error(err)
		}
		ticket.ends = l.now() + zipfService
		heap.Push(&l.turns, ticket)
	}
	key := zipfKey(k)
	err := l.lanes.Admit(&ticket.Ticket, &Request{Key: []byte(key), MaxDepth: 64, MaxBytes: 1, Hot: &usual, ShedDepth: l.shed})
	switch {
	case err == nil:
		l.admitted = append(l.admitted, zipfArrival{l.now(), key})
	case !errors.Is(err, ErrLaneFull) && !errors.Is(err, ErrShed):
		l.t.Error(err)
	}
}

func zipfKey(k int) string { return fmt.Sprintf("key-%d", k) }

// check comes once a second.
func (l *zipfLoad) check() {
	for _, k := range l.lanes.Hot() {
		l.hot[k.Key] = true
	}
	now := l.now()
	if now > 2*zipfWindow && now%zipfWindow == zipfWindow/2 {
		l.checkTop()
	}
	if now < 2*zipfRamp || now%time.Minute != 0 {
		return
	}
	var saturated []string
	for k, asked := range l.asked {
		load := float64(asked) * zipfService.Seconds() / (now - zipfRamp).Seconds()
		if load > 1 {
			saturated = append(saturated, zipfKey(k))
		}
	}
	var hot []string
	for _, k := range l.lanes.Hot() {
		hot = append(hot, k.Key)
	}
	slices.Sort(hot)
	slices.Sort(saturated)
	if !slices.Equal(hot, saturated) {
		l.t.Errorf("after %v: hot are %v, and saturated are %v", now, hot, saturated)
	}
	if flips := l.lanes.Cool(); int(flips) != len(saturated) || len(l.hot) != len(saturated) {
		l.t.Errorf("after %v: %d flips of %d keys, want one of each of %d", now, flips, len(l.hot), len(saturated))
	}
}

// checkTop counts anew what Top has counted: the window that runs and the one
// before.
func (l *zipfLoad) checkTop() {
	now := l.now()
	from := now - now%zipfWindow - zipfWindow
	l.admitted = slices.DeleteFunc(l.admitted, func(a zipfArrival) bool { return a.at < from })
	exact := map[string]uint64{}
	for _, a := range l.admitted {
		exact[a.key]++
	}
	counts, over := l.lanes.Top(20)
	if over != now-from {
		l.t.Errorf("at %v: counted over %v, want %v", now, over, now-from)
	}
	listed := map[string]bool{}
	for _, c := range counts {
		listed[c.Key] = true
		if n := exact[c.Key]; n > c.Count || n+c.Error < c.Count {
			l.t.Errorf("at %v: %s came %d times, not %d to %d", now, c.Key, n, c.Count-c.Error, c.Count)
		}
	}
	least := counts[len(counts)-1].Count
	for key, n := range exact {
		if n > least && !listed[key] {
			l.t.Errorf("at %v: %s came %d times and is not listed, where one with %d is", now, key, n, least)
		}
	}
}

type zipfTicket struct {
	Ticket
	ends time.Duration
}

// turnsEnding are the turns that have begun, the first to end first.
type turnsEnding []*zipfTicket

func (e turnsEnding) next() time.Duration {
	if len(e) == 0 {
		return math.MaxInt64
	}
	return e[0].ends
}

func (e turnsEnding) Len() int           { return len(e) }
func (e turnsEnding) Less(i, j int) bool { return e[i].ends < e[j].ends }
func (e turnsEnding) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *turnsEnding) Push(x any)        { *e = append(*e, x.(*zipfTicket)) }
func (e *turnsEnding) Pop() any {
	old := *e
	last := old[len(old)-1]
	*e = old[:len(old)-1]
	return last
}
