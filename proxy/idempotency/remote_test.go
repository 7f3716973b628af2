package idempotency

import (
	"context"
	"errors"
	"net"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fake is a Server in this process, which does what it is told.
type fake struct {
	mu      sync.Mutex // guards the rest
	claims  map[Nonce]time.Time
	fail    error // of the calls to come
	unheard bool  // they do their work all the same
	hang    bool  // until the context ends
	late    bool  // claims do it when arrive is called
	pending []Claim
	calls   map[string]int
	largest int // of the lists
	closed  bool
}

func newFake() *fake { return &fake{claims: make(map[Nonce]time.Time), calls: make(map[string]int)} }

func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fake) count(call string) (n int) {
	f.set(func() { n = f.calls[call] })
	return n
}

func (f *fake) held() (n int) {
	f.set(func() {
		for _, until := range f.claims {
			if time.Now().Before(until) {
				n++
			}
		}
	})
	return n
}

// Claim implements Server.
func (f *fake) Claim(ctx context.Context, c Claim, r *Request) (Record, error) {
	if err := f.wait(ctx); err != nil {
		return Record{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls["claim"]++
	switch {
	case f.late:
		f.pending = append(f.pending, c)
	case f.fail == nil || f.unheard:
		f.claims[c.Nonce] = time.Now().Add(c.Lease)
	}
	return Record{State: New, Print: r.Print}, f.fail
}

func (f *fake) wait(ctx context.Context) error {
	var hang bool
	f.set(func() { hang = f.hang })
	if !hang {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func (f *fake) arrive() {
	f.set(func() {
		for _, c := range f.pending {
			f.claims[c.Nonce] = time.Now().Add(c.Lease)
		}
		f.pending = nil
	})
}

// Finish implements Server.
func (f *fake) Finish(ctx context.Context, c Claim, _ Reply) (Answer, error) {
	return first(f.each(ctx, "finish", []Claim{c}, func(n Nonce, _ Claim) { delete(f.claims, n) }))
}

func (f *fake) each(ctx context.Context, call string, claims []Claim, do func(Nonce, Claim)) (answers []Answer, err error) {
	if err := f.wait(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[call]++
	f.largest = max(f.largest, len(claims))
	if f.fail != nil && !f.unheard {
		return nil, f.fail
	}
	for _, c := range claims {
		if _, known := f.claims[c.Nonce]; known {
			do(c.Nonce, c)
			answers = append(answers, Kept)
		} else {
			answers = append(answers, Absent)
		}
	}
	return answers, f.fail
}

// Lose implements Server.
func (f *fake) Lose(ctx context.Context, claims []Claim) ([]Answer, error) {
	return f.each(ctx, "lose", claims, func(n Nonce, _ Claim) { delete(f.claims, n) })
}

// Forget implements Server.
func (f *fake) Forget(ctx context.Context, claims []Claim) ([]Answer, error) {
	return f.each(ctx, "forget", claims, func(n Nonce, _ Claim) { delete(f.claims, n) })
}

// Renew implements Server.
func (f *fake) Renew(ctx context.Context, claims []Claim) ([]Answer, error) {
	return f.each(ctx, "renew", claims, func(n Nonce, c Claim) { f.claims[n] = time.Now().Add(c.Lease) })
}

// Close implements Server.
func (f *fake) Close() { f.set(func() { f.closed = true }) }

// remote runs a test in a bubble. What it starts has ended when it returns.
func remote(t *testing.T, test func(t *testing.T, f *fake, r *Remote)) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		r := NewRemote(f, time.Second)
		defer func() {
			r.Close()
			if !f.closed {
				t.Error("the server is not closed")
			}
		}()
		test(t, f, r)
	})
}

var errTest = errors.New("the server is away")

func mustClaim(t *testing.T, r *Remote, lease time.Duration) Run {
	t.Helper()
	run, known, err := r.Begin(t.Context(), &Request{Lease: lease})
	if err != nil || known.State != New {
		t.Fatalf("state %d, %v", known.State, err)
	}
	return run
}

// TestRenewal: many claims are renewed by few calls, none of which is large, and by no
// goroutine of their own; and none by any, once it has ended.
//
// Mutants: a claim isn't planned for; its first renewal is when the lease is over; so
// is the second; only what is due is renewed; the lists have any length; a claim that
// has ended is renewed.
func TestRenewal(t *testing.T) {
	remote(t, func(t *testing.T, f *fake, r *Remote) {
		const count = 1000
		before := runtime.NumGoroutine()
		var runs []Run
		for range count {
			runs = append(runs, mustClaim(t, r, 30*time.Second))
			time.Sleep(time.Millisecond)
		}
		if n := runtime.NumGoroutine(); n > before {
			t.Errorf("%d goroutines more", n-before)
		}
		for range 10 {
			time.Sleep(30 * time.Second)
			if n := f.held(); n != count {
				t.Fatalf("%d are held", n)
			}
		}
		if n := f.count("renew"); n < 10*3*count/BatchMax || n > 10*3*count/BatchMax*3 || f.largest > BatchMax {
			t.Errorf("%d renewals, of up to %d", n, f.largest)
		}
		for _, run := range runs {
			if err := run.Finish(t.Context(), Reply{}); err != nil {
				t.Fatal(err)
			}
		}
		had := f.count("renew")
		time.Sleep(time.Hour)
		if n := f.count("renew"); n != had {
			t.Errorf("%d renewals of nothing", n-had)
		}
	})
}

// TestShortLeasesAreRenewedInTime: each at its own pace, whatever was planned before.
//
// Mutants: a claim isn't planned for.
func TestShortLeasesAreRenewedInTime(t *testing.T) {
	remote(t, func(t *testing.T, f *fake, r *Remote) {
		mustClaim(t, r, time.Hour)
		time.Sleep(time.Minute)
		mustClaim(t, r, time.Second)
		mustClaim(t, r, time.Minute)
		for range 100 {
			time.Sleep(time.Second)
			if n := f.held(); n != 3 {
				t.Fatalf("%d are held", n)
			}
		}
		if n := f.count("renew"); n > 500 {
			t.Errorf("%d renewals", n)
		}
	})
}

// TestRenewalGoesOn: after errors, and while there is time it is tried more often.
//
// Mutants: after an error the next attempt is at the usual time; an error drops the
// claim.
func TestRenewalGoesOn(t *testing.T) {
	remote(t, func(t *testing.T, f *fake, r *Remote) {
		mustClaim(t, r, 30*time.Second)
		f.set(func() { f.fail = errTest })
		time.Sleep(28 * time.Second)
		if n := f.count("renew"); n < 5 || n > 20 {
			t.Errorf("%d attempts", n)
		}
		f.set(func() { f.fail = nil })
		time.Sleep(time.Minute)
		if n := f.held(); n != 1 {
			t.Errorf("%d are held", n)
		}
	})
}

// TestStrays: a claim of which Begin could not tell is given back, be it that it was made
// at once, later, or never.
//
// Mutants: what strayed is not given back; it is asked for once; for ever; as often for
// ever.
func TestStrays(t *testing.T) {
	for _, made := range []string{"at once", "late", "never"} {
		remote(t, func(t *testing.T, f *fake, r *Remote) {
			f.set(func() { f.fail, f.unheard, f.late = errTest, made == "at once", made == "late" })
			if run, _, err := r.Begin(t.Context(), &Request{Lease: time.Minute}); !errors.Is(err, errTest) || run != nil {
				t.Fatalf("got %v %v", run, err)
			}
			f.set(func() { f.unheard = false })
			time.Sleep(time.Hour)
			had := f.count("forget")
			if had < 100 || had > 1000 {
				t.Errorf("%d attempts in an hour", had)
			}
			f.set(func() { f.fail = nil })
			time.Sleep(30 * time.Second)
			f.arrive()
			time.Sleep(2 * strayLate)
			if n := f.held(); n != 0 {
				t.Errorf("made %s: %d are held", made, n)
			}
			time.Sleep(time.Minute)
			had = f.count("forget")
			time.Sleep(time.Hour)
			if n := f.count("forget"); n != had {
				t.Errorf("made %s: %d attempts for nothing", made, n-had)
			}
		})
	}
}

// TestNoStrays: what never reached the server, and what it refused, is not looked for.
//
// Mutants: dial errors stray; ErrFull strays; ErrFull is tried again.
func TestNoStrays(t *testing.T) {
	for err, tries := range map[error]int{&net.OpError{Op: "dial", Err: errTest}: triesMost, ErrFull: 1} {
		remote(t, func(t *testing.T, f *fake, r *Remote) {
			f.set(func() { f.fail = err })
			if _, _, got := r.Begin(t.Context(), &Request{}); !errors.Is(got, err) {
				t.Errorf("got %v, want %v", got, err)
			}
			time.Sleep(time.Minute)
			if n := f.count("claim"); n != tries {
				t.Errorf("%v: %d attempts, want %d", err, n, tries)
			}
			if n := f.count("forget"); n != 0 {
				t.Errorf("%v: it is looked for", err)
			}
		})
	}
}

// TestForgetGoesOn: what was not executed is free when the server is back.
//
// Mutants: a Forget that failed is left.
func TestForgetGoesOn(t *testing.T) {
	remote(t, func(t *testing.T, f *fake, r *Remote) {
		run := mustClaim(t, r, time.Hour)
		f.set(func() { f.fail = errTest })
		if err := run.Forget(t.Context()); !errors.Is(err, errTest) {
			t.Errorf("got %v, want %v", err, errTest)
		}
		f.set(func() { f.fail = nil })
		time.Sleep(strayLate)
		if n := f.held(); n != 0 {
			t.Errorf("%d are held", n)
		}
	})
}

// TestStraysAreBounded: an outage that lasts does not fill the memory.
//
// Mutants: they are not.
func TestStraysAreBounded(t *testing.T) {
	remote(t, func(t *testing.T, f *fake, r *Remote) {
		f.set(func() { f.fail = errTest })
		for range 2 * strayMost {
			r.strayed(Claim{ID: ID{1}, Nonce: nonce(t), Lease: time.Second})
		}
		if n := len(r.strays); n != strayMost {
			t.Errorf("%d are remembered", n)
		}
	})
}

func nonce(t *testing.T) (n Nonce) {
	t.Helper()
	for i := range n {
		n[i] = byte(nonces >> (8 * (i % 8)))
	}
	nonces++
	return n
}

var nonces uint64

// TestCallsAreBounded: by the timeout, and by the caller's.
func TestCallsAreBounded(t *testing.T) {
	remote(t, func(t *testing.T, f *fake, r *Remote) {
		runs := []Run{mustClaim(t, r, time.Minute), mustClaim(t, r, time.Minute), mustClaim(t, r, time.Minute)}
		held := mustClaim(t, r, time.Minute)
		f.set(func() { f.hang = true })
		for i, call := range []func(context.Context) error{
			func(ctx context.Context) error { _, _, err := r.Begin(ctx, &Request{Lease: time.Minute}); return err },
			func(ctx context.Context) error { return runs[0].Finish(ctx, Reply{}) }, runs[1].Lose, runs[2].Forget,
		} {
			limit := time.Second
			ctx, cancel := context.WithCancel(t.Context())
			if i == 0 {
				limit = 300 * time.Millisecond
				ctx, cancel = context.WithTimeout(t.Context(), limit)
			}
			begun := time.Now()
			if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != limit {
				t.Errorf("call %d: %v after %v", i, err, time.Since(begun))
			}
			cancel()
		}
		begun := time.Now()
		if err := r.Close(); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) > 2*time.Second {
			t.Errorf("Close: %v after %v", err, time.Since(begun))
		}
		if err := held.Lose(t.Context()); !errors.Is(err, ErrLost) {
			t.Errorf("got %v, want %v", err, ErrLost)
		}
	})
}

// TestCloseTells: what is held is lost at once, in lists that are not large, and what
// strayed is given back.
//
// Mutants: Close tells nobody; leaves what strayed; doesn't close the server; the lists
// have any length.
func TestCloseTells(t *testing.T) {
	remote(t, func(t *testing.T, f *fake, r *Remote) {
		for range 2*BatchMax + 1 {
			mustClaim(t, r, time.Hour)
		}
		f.set(func() { f.fail, f.unheard = errTest, true })
		r.Begin(t.Context(), &Request{Lease: time.Hour})
		f.set(func() { f.fail = nil })
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if n := f.held(); n != 0 || f.count("lose") != 3 || f.largest > BatchMax {
			t.Errorf("%d are held, %d calls of up to %d", n, f.count("lose"), f.largest)
		}
	})
}
