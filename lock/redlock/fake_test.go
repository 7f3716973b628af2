package redlock

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// fakeMaster does what the scripts do, as plainly as it can be said, in a bubble's
// time and behind a network that is slow and loses messages.
type fakeMaster struct {
	ahead   time.Duration // of its clock
	grace   time.Duration
	config  *Config
	network *network

	mu    sync.Mutex // guards the rest
	run   int
	down  bool
	born  time.Time
	seq   uint64
	locks map[string]*fakeLock
	queue map[string][]fakeWaiter
	ears  map[string]func(id string)
}

type fakeLock struct {
	question
	floor uint64
	until time.Time
}

type fakeWaiter struct {
	question
	channel string
	until   time.Time
}

// network is how messages go.
type network struct {
	random *rand.Rand
	mu     sync.Mutex // guards random
	lose   float64    // of messages
	late   float64    // of messages, which come a TTL later
}

func (n *network) roll() (delay time.Duration, lost bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delay = 100*time.Microsecond + time.Duration(n.random.IntN(200))*time.Microsecond
	if n.random.IntN(50) == 0 {
		delay += 2 * time.Millisecond
	}
	if n.random.Float64() < n.late {
		delay += time.Duration(n.random.IntN(1500)) * time.Millisecond
	}
	return delay, n.random.Float64() < n.lose
}

func (m *fakeMaster) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.run++
	m.seq, m.born = 0, time.Now()
	m.locks, m.queue = make(map[string]*fakeLock), make(map[string][]fakeWaiter)
}

func (m *fakeMaster) setDown(down bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.down = down
}

var errLost = errors.New("connection reset")

// exchange sends a request, has it done, and sends the answer, each of which may be lost.
func exchange[T any](ctx context.Context, m *fakeMaster, do func() T) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() { // ends with the message
		var r result
		delay, lost := m.network.roll()
		time.Sleep(delay)
		m.mu.Lock()
		if m.down || lost {
			r.err = errLost
		} else {
			r.value = do()
		}
		m.mu.Unlock()
		if delay, lost = m.network.roll(); lost {
			r.err = errLost
		}
		time.Sleep(delay)
		done <- r
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// fakeStore is a node's way to a fakeMaster.
type fakeStore struct {
	*fakeMaster
	channel string
}

func (s *fakeStore) acquire(ctx context.Context, q question) (answer, error) {
	return exchange(ctx, s.fakeMaster, func() answer { return s.doAcquire(q) })
}

func (s *fakeStore) release(ctx context.Context, q question) error {
	_, err := exchange(ctx, s.fakeMaster, func() bool { s.doRelease(q); return true })
	return err
}

func (s *fakeStore) renew(ctx context.Context, held []question) ([]int64, error) {
	return exchange(ctx, s.fakeMaster, func() (all []int64) {
		for _, q := range held {
			all = append(all, s.doRenew(q))
		}
		return all
	})
}

func (s *fakeStore) restore(ctx context.Context, q question) (int64, error) {
	return exchange(ctx, s.fakeMaster, func() int64 {
		s.see()
		if l := s.lock(q.name); l != nil && l.keeper() != q.keeper() {
			return -1
		}
		s.locks[q.name] = &fakeLock{q, q.token, time.Now().Add(s.config.TTL)}
		s.leave(q)
		s.seq = max(s.seq, q.token)
		return 1
	})
}

func (s *fakeStore) listen(ctx context.Context, subscribed func(), hear func(id string)) error {
	s.mu.Lock()
	s.ears[s.channel] = hear
	s.mu.Unlock()
	subscribed()
	<-ctx.Done()
	return ctx.Err()
}

func (s *fakeStore) close() {}

// lock is who has the lock now.
func (m *fakeMaster) lock(name string) *fakeLock {
	if l := m.locks[name]; l != nil && time.Now().Before(l.until) {
		return l
	}
	delete(m.locks, name)
	return nil
}

// see has a master that knows of no number begin with its clock's.
func (m *fakeMaster) see() {
	if m.seq == 0 {
		m.seq = uint64(time.Now().Add(m.ahead).UnixMicro())
	}
}

func (m *fakeMaster) leave(q question) (wasFirst bool) {
	queue := m.queue[q.name]
	wasFirst = len(queue) > 0 && queue[0].id == q.id
	if queue = slices.DeleteFunc(queue, func(w fakeWaiter) bool { return w.id == q.id }); len(queue) > 0 {
		m.queue[q.name] = queue
	} else {
		delete(m.queue, q.name)
	}
	return wasFirst
}

func (s *fakeStore) enter(q question) {
	s.leave(q)
	s.queue[q.name] = append(s.queue[q.name], fakeWaiter{q, s.channel, time.Now().Add(s.config.alive)})
	slices.SortFunc(s.queue[q.name], func(a, b fakeWaiter) int {
		return cmp.Or(cmp.Compare(a.ticket, b.ticket), cmp.Compare(a.id, b.id))
	})
}

func (m *fakeMaster) head(name string) *fakeWaiter {
	for len(m.queue[name]) > 0 {
		first := &m.queue[name][0]
		if !time.Now().After(first.until) {
			return first
		}
		m.leave(first.question)
	}
	return nil
}

func (m *fakeMaster) publish(w *fakeWaiter, free bool) {
	if claim := time.Now().Add(claimIn); free && claim.Before(w.until) {
		w.until = claim
	}
	hear, id := m.ears[w.channel], w.id
	go func() { // ends with the message
		delay, lost := m.network.roll()
		time.Sleep(delay)
		if !lost {
			hear(id)
		}
	}()
}

func (s *fakeStore) doAcquire(q question) answer {
	s.see()
	closed := max(s.grace-time.Since(s.born), 0)
	taken := func(floor uint64) answer {
		a := answer{locked: true, accepted: q.token > floor}
		if a.accepted {
			s.seq = max(s.seq, q.token)
		}
		a.seen = s.seq
		return a
	}
	l, freed := s.lock(q.name), false
	left := closed
	switch {
	case l == nil:
	case l.id == q.id && l.attempt == q.attempt && closed == 0:
		l.until = time.Now().Add(s.config.TTL)
		return taken(l.floor)
	case l.id == q.id && l.attempt > q.attempt:
		return answer{seen: s.seq, left: time.Until(l.until), rank: 1}
	case l.id == q.id && l.attempt < q.attempt:
		delete(s.locks, q.name)
		l, freed = nil, true
	default:
		left = max(left, time.Until(l.until))
	}
	s.enter(q)
	first := s.head(q.name)
	if first.id == q.id && l == nil && closed == 0 {
		s.leave(q)
		s.locks[q.name] = &fakeLock{q, s.seq, time.Now().Add(s.config.TTL)}
		return taken(s.seq)
	}
	if freed && first.id != q.id {
		s.publish(first, true)
	}
	s.seq = max(s.seq, q.ticket)
	rank := slices.IndexFunc(s.queue[q.name], func(w fakeWaiter) bool { return w.id == q.id })
	return answer{seen: s.seq, left: left, rank: int64(rank)}
}

func (s *fakeStore) doRelease(q question) {
	wasFirst := s.leave(q)
	l := s.lock(q.name)
	if l != nil && l.id == q.id && l.attempt <= q.attempt {
		delete(s.locks, q.name)
		l = nil
	}
	if q.ticket != 0 {
		s.enter(q)
	}
	if l != nil && !wasFirst {
		return
	}
	if heir := s.head(q.name); heir != nil && heir.id != q.id {
		s.publish(heir, l == nil)
	}
}

func (s *fakeStore) doRenew(q question) int64 {
	switch l := s.lock(q.name); {
	case l == nil:
		return 0
	case l.keeper() == q.keeper():
		l.until = time.Now().Add(s.config.TTL)
		return 1
	}
	return -1
}

// fakes are masters of a test, and the configuration for nodes that use them.
func fakes(n int, network *network, grace time.Duration) ([]*fakeMaster, Config) {
	c := Config{Prefix: "test", TTL: time.Second, Margin: 50 * time.Millisecond, Log: slog.New(slog.DiscardHandler), alive: aliveFor}
	byAddress := make(map[string]*fakeMaster)
	var all []*fakeMaster
	for i := range n {
		m := &fakeMaster{config: &c, network: network, grace: grace, ears: make(map[string]func(string))}
		m.forget()
		m.born = time.Time{}
		c.Addresses = append(c.Addresses, fmt.Sprint("m", i))
		byAddress[c.Addresses[i]] = m
		all = append(all, m)
	}
	c.connect = func(_ context.Context, _ *Config, address, channel string) (store, string, error) {
		return &fakeStore{byAddress[address], channel}, address, nil
	}
	return all, c
}
