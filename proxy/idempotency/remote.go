package idempotency

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"sync"
	"time"
)

// Nonce is a claim's own name, which no other claim ever has.
type Nonce [16]byte

// Claim is what a Server must know of a claim.
type Claim struct {
	ID    ID
	Nonce Nonce
	Lease time.Duration
}

// Answer is what has become of a claim that a Server was asked to change.
type Answer uint8

// The answers.
const (
	Lost   Answer = iota // the name is somebody else's, or its state is final
	Absent               // there is no record of the name
	Kept                 // it is as was asked, be it since now or before
)

// Server keeps the records of several nodes, and judges time by its own clock. Each
// method is one attempt, atomic for each claim, and may be repeated: what was done
// already is done, and Kept. Each honours ctx. The methods with several claims answer
// in their order, and get no more than BatchMax.
type Server interface {
	// Claim claims a name for the claim's nonce, and says New, or what is known.
	Claim(ctx context.Context, c Claim, r *Request) (Record, error)
	// Finish keeps a reply; MaxEntry has been looked after.
	Finish(ctx context.Context, c Claim, reply Reply) (Answer, error)
	// Lose makes names unknown that still run.
	Lose(ctx context.Context, claims []Claim) ([]Answer, error)
	// Forget deletes names that still run.
	Forget(ctx context.Context, claims []Claim) ([]Answer, error)
	// Renew has leases begin again, those that have run out too.
	Renew(ctx context.Context, claims []Claim) ([]Answer, error)
	// Close ends the connections.
	Close()
}

// BatchMax bounds the claims that a Server is asked about at once.
const BatchMax = 256

// How a call is tried again, so that a connection that was cut, and another one that is
// not known to be cut yet, need not be somebody's error.
const (
	triesMost  = 4
	pauseFirst = 5 * time.Millisecond // and four times as long each time
)

// leaseLeast is the shortest lease; who asks for less gets this.
const leaseLeast = 100 * time.Millisecond

// How names are given back whose claim may have been made, though Begin could not tell.
const (
	strayMost  = 4096 // beyond, they are Unknown when the lease ends
	strayLeast = 100 * time.Millisecond
	strayLate  = 5 * time.Second // between attempts, which get rarer
)

// Remote is the Store for a Server. It renews all claims of this node by one goroutine,
// a third of their lease after they were made, or renewed.
type Remote struct {
	server  Server
	timeout time.Duration
	life    context.Context
	kill    context.CancelFunc
	wg      sync.WaitGroup // the goroutine
	calls   sync.WaitGroup // added to while not closed
	wake    chan struct{}
	ended   chan struct{} // closed when Close has done everything

	mu     sync.Mutex // guards the rest
	held   map[Nonce]*holding
	next   time.Time // when the goroutine will look; zero: when it is woken
	strays map[Nonce]*stray
	asking time.Duration // between attempts to give strays back
	askAt  time.Time
	closed bool
}

// holding is a claim that is renewed.
type holding struct {
	claim Claim
	due   time.Time
}

// stray is a claim that may have been made, or may still be on its way to the server.
type stray struct {
	claim Claim
	until time.Time // zero while the server has not answered
}

// NewRemote makes a Store, whose calls last timeout at most. Its Close closes the server.
func NewRemote(server Server, timeout time.Duration) *Remote {
	r := &Remote{
		server: server, timeout: timeout, wake: make(chan struct{}, 1), ended: make(chan struct{}),
		held: make(map[Nonce]*holding), strays: make(map[Nonce]*stray),
	}
	r.life, r.kill = context.WithCancel(context.Background())
	r.wg.Go(r.keep) // ends with life
	return r
}

// Begin implements Store.
func (r *Remote) Begin(ctx context.Context, request *Request) (Run, Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, Record{}, err
	}
	if !r.enter() {
		return nil, Record{}, errClosed
	}
	defer r.calls.Done()
	c := Claim{ID: request.ID, Lease: max(request.Lease, leaseLeast)}
	rand.Read(c.Nonce[:]) //nolint:errcheck // it never fails
	var known Record
	var began time.Time
	sent := false
	err := r.try(ctx, func(ctx context.Context) (err error) {
		began = time.Now()
		known, err = r.server.Claim(ctx, c, request)
		sent = sent || !unsent(err)
		return err
	})
	switch {
	case err != nil && sent && !errors.Is(err, ErrFull):
		r.strayed(c)
		return nil, Record{}, err
	case err != nil:
		return nil, Record{}, err
	case known.State != New:
		return nil, known, nil
	case !r.hold(c, began):
		r.strayed(c) // Close, which waits for this call, gives it back
		return nil, Record{}, errClosed
	}
	return &remoteRun{store: r, claim: c, maxEntry: max(request.MaxEntry, 0)}, known, nil
}

// Ask asks the server about something else that it keeps, as a store's own calls do: within
// the timeout, more than once if need be, and not after Close.
func (r *Remote) Ask(ctx context.Context, attempt func(context.Context) error) error {
	if !r.enter() {
		return errClosed
	}
	defer r.calls.Done()
	return r.try(ctx, attempt)
}

// unsent says whether an error means that nothing has reached the server.
func unsent(err error) bool {
	var dial *net.OpError
	return errors.As(err, &dial) && dial.Op == "dial"
}

// try makes attempts within the timeout until one succeeds, or there is no room.
func (r *Remote) try(ctx context.Context, attempt func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	for n, pause := 1, pauseFirst; ; n, pause = n+1, 4*pause {
		err := attempt(ctx)
		if err == nil || n == triesMost || errors.Is(err, ErrFull) || ctx.Err() != nil {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

// enter begins a call that Close waits for, and reports whether there can be any more.
func (r *Remote) enter() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.calls.Add(1)
	return true
}

// hold has a claim renewed from now on.
func (r *Remote) hold(c Claim, began time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	of := &holding{claim: c, due: began.Add(c.Lease / 3)}
	r.held[c.Nonce] = of
	r.lookLocked(of.due)
	return true
}

func (r *Remote) drop(c Claim) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.held, c.Nonce)
}

// strayed has a claim given back that may have been made.
func (r *Remote) strayed(c Claim) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.strays) >= strayMost {
		return
	}
	r.strays[c.Nonce] = &stray{claim: c}
	r.asking = strayLeast
	r.askAt = time.Now().Add(r.asking)
	r.lookLocked(r.askAt)
}

// lookLocked has the goroutine look at a time, at the latest.
func (r *Remote) lookLocked(at time.Time) {
	if !r.next.IsZero() && !at.Before(r.next) {
		return
	}
	r.next = at
	select {
	case r.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// keep renews what is due and gives back what strayed, until Close.
func (r *Remote) keep() {
	for {
		r.renew()
		r.giveBack()
		var at <-chan time.Time
		next := r.plan()
		timer := time.NewTimer(time.Until(next))
		if !next.IsZero() {
			at = timer.C
		}
		select {
		case <-at:
		case <-r.wake:
		case <-r.life.Done():
		}
		timer.Stop()
		if r.life.Err() != nil {
			return
		}
	}
}

// plan says when there will be something to do; zero: not known.
func (r *Remote) plan() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next = time.Time{}
	if len(r.strays) > 0 {
		r.next = r.askAt
	}
	for _, of := range r.held {
		if r.next.IsZero() || of.due.Before(r.next) {
			r.next = of.due
		}
	}
	return r.next
}

// renew renews what is due, and with it what soon will be.
func (r *Remote) renew() {
	now := time.Now()
	var claims []Claim
	late := false
	r.mu.Lock()
	for _, of := range r.held {
		if of.due.Add(-of.claim.Lease / 6).Before(now) {
			claims = append(claims, of.claim)
			late = late || !of.due.After(now)
		}
	}
	r.mu.Unlock()
	if !late {
		return
	}
	for _, batch := range batches(claims) {
		r.renewBatch(batch)
	}
}

func (r *Remote) renewBatch(claims []Claim) {
	limit := r.timeout
	for _, c := range claims {
		limit = min(limit, c.Lease/3)
	}
	ctx, cancel := context.WithTimeout(r.life, limit)
	defer cancel()
	sent := time.Now()
	answers, err := r.server.Renew(ctx, claims)
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, c := range claims {
		of := r.held[c.Nonce]
		switch {
		case of == nil: // it has ended meanwhile
		case err != nil: // there is time for some more attempts
			of.due = time.Now().Add(max(c.Lease/12, pauseFirst))
		case answers[i] != Kept:
			delete(r.held, c.Nonce)
		default:
			of.due = sent.Add(c.Lease / 3)
		}
	}
}

// giveBack has the server forget what strayed. What it doesn't know may still be on its
// way, on a connection that was given up while the server stood still; it is looked for
// until it would have run out.
func (r *Remote) giveBack() {
	now := time.Now()
	var claims []Claim
	r.mu.Lock()
	if now.Before(r.askAt) {
		r.mu.Unlock()
		return
	}
	for nonce, s := range r.strays {
		if !s.until.IsZero() && now.After(s.until) {
			delete(r.strays, nonce)
			continue
		}
		claims = append(claims, s.claim)
	}
	r.mu.Unlock()
	for _, batch := range batches(claims) {
		if !r.giveBackBatch(r.life, batch) {
			break
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asking = min(2*r.asking, strayLate)
	r.askAt = time.Now().Add(r.asking)
}

func (r *Remote) giveBackBatch(ctx context.Context, claims []Claim) bool {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	answers, err := r.server.Forget(ctx, claims)
	if err != nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, c := range claims {
		s := r.strays[c.Nonce]
		switch {
		case s == nil:
		case answers[i] == Kept:
			delete(r.strays, c.Nonce)
		case s.until.IsZero():
			s.until = time.Now().Add(c.Lease)
		}
	}
	return true
}

func batches(claims []Claim) (all [][]Claim) {
	for len(claims) > 0 {
		n := min(len(claims), BatchMax)
		all = append(all, claims[:n])
		claims = claims[n:]
	}
	return all
}

// Close implements Store. It lasts a few timeouts at most, and may be called again.
func (r *Remote) Close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		<-r.ended
		return nil
	}
	r.closed = true
	r.mu.Unlock()
	defer close(r.ended)
	r.kill()
	r.wg.Wait()
	r.calls.Wait()
	var held, strays []Claim
	r.mu.Lock() // against nobody
	for _, of := range r.held {
		held = append(held, of.claim)
	}
	for _, s := range r.strays {
		strays = append(strays, s.claim)
	}
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), r.timeout)
	defer cancel()
	var err error
	for _, batch := range batches(held) {
		if _, err = r.server.Lose(ctx, batch); err != nil {
			break // what it was not told of runs out
		}
	}
	for _, batch := range batches(strays) {
		if !r.giveBackBatch(ctx, batch) {
			break
		}
	}
	r.server.Close()
	return err
}

// remoteRun implements Run.
type remoteRun struct {
	store    *Remote
	claim    Claim
	maxEntry int
}

// Finish implements Run. If it fails otherwise than by ErrLost, the name is Unknown when
// the lease ends.
func (r *remoteRun) Finish(ctx context.Context, reply Reply) error {
	if reply.Bare || len(reply.Head)+len(reply.Body) > r.maxEntry {
		reply = Reply{Status: reply.Status, Bare: true}
	}
	answer, err := r.end(ctx, func(ctx context.Context) (Answer, error) {
		return r.store.server.Finish(ctx, r.claim, reply)
	})
	if err == nil && answer != Kept {
		return ErrLost
	}
	return err
}

// Lose implements Run. If it fails, the name is Unknown when the lease ends.
func (r *remoteRun) Lose(ctx context.Context) error {
	answer, err := r.end(ctx, func(ctx context.Context) (Answer, error) {
		return first(r.store.server.Lose(ctx, []Claim{r.claim}))
	})
	if err == nil && answer != Kept {
		return ErrLost
	}
	return err
}

// Forget implements Run. If it fails, the store goes on trying.
func (r *remoteRun) Forget(ctx context.Context) error {
	answer, err := r.end(ctx, func(ctx context.Context) (Answer, error) {
		return first(r.store.server.Forget(ctx, []Claim{r.claim}))
	})
	switch {
	case errors.Is(err, ErrLost):
		return err
	case err != nil:
		r.store.strayed(r.claim)
		return err
	case answer == Lost:
		return ErrLost
	}
	return nil
}

// end ends the claim here, and there by ask.
func (r *remoteRun) end(ctx context.Context, ask func(context.Context) (Answer, error)) (answer Answer, err error) {
	if !r.store.enter() {
		return Lost, ErrLost
	}
	defer r.store.calls.Done()
	r.store.drop(r.claim)
	err = r.store.try(ctx, func(ctx context.Context) (err error) {
		answer, err = ask(ctx)
		return err
	})
	return answer, err
}

func first(answers []Answer, err error) (Answer, error) {
	if err != nil {
		return Lost, err
	}
	return answers[0], nil
}

var (
	_ Store = (*Remote)(nil)
	_ Run   = (*remoteRun)(nil)
)
