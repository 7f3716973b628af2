package upstream

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// service is a model of one whose answers get slower with load, and which does less in all
// beyond some point, as with contention and coherence in the universal scalability law.
type service struct {
	base               time.Duration
	contend, coherence float64

	mu       sync.Mutex // guards inFlight
	inFlight int
}

// serve takes as long as a request does.
func (s *service) serve() {
	s.mu.Lock()
	s.inFlight++
	n := float64(s.inFlight)
	s.mu.Unlock()
	time.Sleep(time.Duration(float64(s.base) * (1 + s.contend*(n-1) + s.coherence*n*(n-1)) * (0.5 + rand.ExpFloat64()/2)))
	s.mu.Lock()
	s.inFlight--
	s.mu.Unlock()
}

// best is the number in flight at which the service does most, and how much.
func (s *service) best() (at int, most float64) {
	for n := 1.; n < 500; n++ {
		if x := n / (s.base.Seconds() * (1 + s.contend*(n-1) + s.coherence*n*(n-1))); x > most {
			at, most = int(n), x
		}
	}
	return at, most
}

// outcome is what clients saw in the second half of a run.
type outcome struct {
	goodput        float64 // answers within patience per second
	p50, p99, wait time.Duration
	limit          int
}

func (o outcome) String() string {
	return fmt.Sprintf("%4.0f/s good, at the service p50 %v p99 %v, median wait %v, limit %d", o.goodput,
		o.p50.Round(time.Millisecond), o.p99.Round(time.Millisecond), o.wait.Round(time.Millisecond), o.limit)
}

// under runs a load of rate requests per second against the service, with bursts of
// twice as many in every fifth second. Clients wait for patience in all.
func under(t *testing.T, s *service, limit Limit, rate float64, length time.Duration) (o outcome) {
	const patience = 2 * time.Second
	synctest.Test(t, func(t *testing.T) {
		u, _ := newFake(t, 2, func(c *Config) { c.Limit, c.Queue = limit, 1024 })
		var mu sync.Mutex
		var took, waits []time.Duration
		good := 0
		began := time.Now()
		var wg sync.WaitGroup
		for {
			age := time.Since(began)
			if age > length {
				break
			}
			now := rate
			if age/time.Second%5 == 4 {
				now = 2 * rate
			}
			time.Sleep(time.Duration(rand.ExpFloat64() / now * float64(time.Second)))
			counts := age > length/2
			wg.Go(func() {
				came := time.Now()
				l, err := try(u, "", patience)
				if err != nil {
					return
				}
				sent := time.Now()
				s.serve()
				l.Answered()
				l.Done(true)
				if !counts {
					return
				}
				mu.Lock()
				defer mu.Unlock()
				took, waits = append(took, time.Since(sent)), append(waits, sent.Sub(came))
				if time.Since(came) <= patience {
					good++
				}
			})
		}
		o.limit = u.State().Limit
		wg.Wait()
		slices.Sort(took)
		slices.Sort(waits)
		o.goodput = float64(good) / (length / 2).Seconds()
		o.p50, o.p99, o.wait = took[len(took)/2], took[len(took)*99/100], waits[len(waits)/2]
	})
	return o
}

// With a service that gets slower with load, an adaptive limit does nearly what the best fixed one
// does; without one the service ends in a state in which nobody is answered in time.
//
// Mutants: only failures are measured, and the limit stays what it was; permits are not given back.
func TestAdaptiveLimitKeepsAServiceUseful(t *testing.T) {
	model := func() *service { return &service{base: 20 * time.Millisecond, contend: 0.02, coherence: 0.0008} }
	at, most := model().best()
	rate := 0.8 * most
	fixed := under(t, model(), Limit{Mode: Fixed, Max: at}, rate, time.Minute)
	adaptive := under(t, model(), Limit{Mode: Adaptive, Max: 256, Min: 4}, rate, time.Minute)
	none := under(t, model(), Limit{}, rate, 30*time.Second)
	t.Logf("the service does most at %d: %.0f/s; asked for %.0f/s and bursts of twice that\nfixed:    %v\nadaptive: %v\nnone:     %v",
		at, most, rate, fixed, adaptive, none)
	if adaptive.goodput < 0.4*fixed.goodput || adaptive.p99 > 4*fixed.p99 {
		t.Errorf("adaptive does much less than fixed")
	}
	if none.goodput > 0.2*fixed.goodput {
		t.Errorf("the service is of use without a limit, so this shows nothing")
	}
	// One that does not get slower is given what comes, which is more than what the limit begins with.
	easy := under(t, &service{base: 20 * time.Millisecond}, Limit{Mode: Adaptive, Max: 256, Min: 4}, 2000, time.Minute)
	if t.Logf("easy:     %v", easy); easy.goodput < 0.8*1.2*2000 || easy.limit < 40 {
		t.Errorf("the limit does not rise")
	}
}
