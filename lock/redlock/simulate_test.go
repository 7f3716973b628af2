package redlock

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lanekeeper/lock"
)

// witness sees all grants of one lock.
type witness struct {
	t *testing.T

	mu      sync.Mutex // guards the rest
	granted int
	last    uint64
	holder  lock.Lease
	behind  map[int]int // grants since each node's last one while it waits
	most    int
	shares  map[int]int
}

func (w *witness) grant(node int, lease lock.Lease) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.granted++
	if w.holder != nil && w.holder.ValidFor() > 0 {
		w.t.Errorf("grant %d: token %d while %d is valid for %v", w.granted, lease.Token(), w.holder.Token(), w.holder.ValidFor())
	}
	if lease.Token() <= w.last {
		w.t.Errorf("grant %d: token %d after %d", w.granted, lease.Token(), w.last)
	}
	w.last, w.holder = lease.Token(), lease
	w.shares[node]++
	for other := range w.behind {
		if other != node {
			w.behind[other]++
			w.most = max(w.most, w.behind[other])
		}
	}
	delete(w.behind, node)
}

func (w *witness) waits(node int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.behind[node] = 0
}

func newWitness(t *testing.T) *witness {
	return &witness{t: t, behind: make(map[int]int), shares: make(map[int]int)}
}

// scenario is a random history.
type scenario struct {
	masters, nodes, grants int
	lose, late             float64
	ahead                  []time.Duration // of nodes' clocks
	restarts, outages      bool            // of one master after another
	rude                   bool            // nodes hold for too long, give up, and die
}

// TestRandomHistories: whatever messages are late, lost or overtaken, whatever clocks
// say, and while a minority of masters restarts without its data: one lease at a time
// is valid, and tokens rise.
//
// Mutants: a yield does not free; a late yield frees what a later attempt has; one
// minority is enough; a refused token is used; a lease counts from its answers; a
// restarted master grants at once; a lapsed lease is renewed.
func TestRandomHistories(t *testing.T) {
	skewed := []time.Duration{50 * time.Millisecond, 0, 10 * time.Second, -50 * time.Millisecond}
	for name, s := range map[string]scenario{
		"plain":         {masters: 3, nodes: 4, grants: 2000},
		"five":          {masters: 5, nodes: 8, grants: 1500, lose: 0.01},
		"lossy":         {masters: 3, nodes: 5, grants: 1500, lose: 0.05, late: 0.01},
		"skewed":        {masters: 3, nodes: 4, grants: 2000, ahead: skewed},
		"skewed, lossy": {masters: 3, nodes: 6, grants: 1000, ahead: skewed, lose: 0.03, late: 0.01},
		"restarts":      {masters: 3, nodes: 4, grants: 1000, restarts: true, lose: 0.01, late: 0.01},
		"outages":       {masters: 3, nodes: 4, grants: 1000, outages: true, ahead: skewed},
		"both":          {masters: 3, nodes: 4, grants: 1500, restarts: true, outages: true},
		"everything":    {masters: 5, nodes: 6, grants: 1000, restarts: true, outages: true, lose: 0.02, late: 0.01, rude: true},
		"rude":          {masters: 3, nodes: 6, grants: 1000, lose: 0.01, late: 0.02, rude: true, ahead: skewed},
	} {
		t.Run(name, func(t *testing.T) {
			seed := rand.Uint64()
			defer func() {
				if t.Failed() {
					t.Logf("seed %d", seed)
				}
			}()
			synctest.Test(t, func(t *testing.T) { s.run(t, seed) })
		})
	}
}

func (s scenario) run(t *testing.T, seed uint64) *witness {
	random := rand.New(rand.NewPCG(seed, 0))
	masters, c := fakes(s.masters, &network{random: rand.New(rand.NewPCG(seed, 1)), lose: s.lose, late: s.late}, time.Second)
	w := newWitness(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	began := time.Now()
	var wg sync.WaitGroup
	for i := range s.nodes {
		own := c
		if len(s.ahead) > 0 {
			ahead := s.ahead[i%len(s.ahead)]
			own.clock = func() time.Time { return time.Now().Add(ahead) }
		}
		l, err := Open(ctx, own)
		if err != nil {
			t.Fatal(err)
		}
		r := rand.New(rand.NewPCG(random.Uint64(), 2))
		wg.Go(func() { // ends with the last grant
			defer func() {
				bye, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				l.Close(bye) //nolint:errcheck // what is left ends by itself
			}()
			for ctx.Err() == nil && time.Since(began) < time.Hour {
				s.once(ctx, l, i, r, w)
				if w.count() >= s.grants {
					cancel()
				}
			}
		})
	}
	for i := 0; ctx.Err() == nil && (s.restarts || s.outages); i++ {
		m := masters[i%len(masters)]
		sleep(ctx, time.Duration(500+random.IntN(1000))*time.Millisecond)
		if s.outages {
			m.setDown(true)
			sleep(ctx, time.Duration(random.IntN(2000))*time.Millisecond)
		}
		if s.restarts && s.outages {
			m = masters[(i+1)%len(masters)] // one comes back just when another forgets
		}
		if s.restarts {
			m.forget()
		}
		masters[i%len(masters)].setDown(false)
		if s.restarts {
			sleep(ctx, 2*c.TTL) // else there is no majority
		}
	}
	wg.Wait()
	if n := w.count(); n < s.grants {
		t.Errorf("%d grants in %v", n, time.Since(began))
	}
	t.Logf("%d grants in %v; a node waited for %d others at most; shares %v", w.granted, time.Since(began), w.most, w.shares)
	time.Sleep(time.Minute) // what is late comes now
	return w
}

func (w *witness) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.granted
}

// once is one acquire and what follows.
func (s scenario) once(ctx context.Context, l *Locker, node int, r *rand.Rand, w *witness) {
	wait, cancel := context.WithCancel(ctx)
	defer cancel()
	if s.rude && r.IntN(10) == 0 {
		wait, cancel = context.WithTimeout(ctx, time.Duration(r.IntN(5000))*time.Microsecond)
		defer cancel()
	}
	w.waits(node)
	lease, err := l.Acquire(wait, "x")
	if err != nil {
		if !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
			w.t.Errorf("Acquire: %v", err)
		}
		return
	}
	w.grant(node, lease)
	switch {
	case (s.rude || s.restarts) && r.IntN(50) == 0:
		time.Sleep(time.Duration(r.IntN(3000)) * time.Millisecond)
	default:
		time.Sleep(time.Duration(r.IntN(2000)) * time.Microsecond)
	}
	if s.rude && r.IntN(20) == 0 {
		brief, cancel := context.WithTimeout(ctx, time.Duration(r.IntN(500))*time.Microsecond)
		defer cancel()
		ctx = brief
	}
	lease.Release(ctx) //nolint:errcheck // it ends in any case
}
