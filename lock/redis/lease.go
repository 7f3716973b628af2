package redis

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"lanekeeper/lock"
)

// place is a place in the queue of a lock.
type place struct {
	locker *Locker
	name   string
	id     string // of this place alone: what is said late of another one doesn't concern it
	ticket string // "0": none yet
	turn   chan struct{}
}

// Acquire implements lock.Locker.
func (l *Locker) Acquire(ctx context.Context, name string) (lock.Lease, error) {
	p, err := l.enter(name)
	if err != nil {
		return nil, err
	}
	defer l.wg.Done()
	defer l.forget(p)
	of, err := p.wait(ctx)
	if err != nil {
		l.abandon(p)
		return nil, err
	}
	return of, nil
}

func (l *Locker) enter(name string) (*place, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, lock.ErrClosed
	}
	l.wg.Add(1)
	l.last++
	p := &place{locker: l, name: name, id: l.id + "-" + strconv.FormatUint(l.last, 36), ticket: "0", turn: make(chan struct{}, 1)}
	l.waiting[p.id] = p.turn
	return p, nil
}

func (l *Locker) forget(p *place) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.waiting, p.id)
}

// wait asks for the lock until it is granted, as often as there is a reason to.
func (p *place) wait(ctx context.Context) (*lease, error) {
	l := p.locker
	for pause := retryLeast; ; {
		of, next, err := p.ask(ctx)
		switch {
		case of != nil:
			return of, nil
		case l.life.Err() != nil:
			return nil, lock.ErrClosed
		case ctx.Err() != nil && err != nil:
			return nil, fmt.Errorf("%w: %w, after: %w", lock.ErrUnavailable, ctx.Err(), err)
		case err != nil:
			next, pause = pause, min(2*pause, retryMost)
		default:
			pause = retryLeast
		}
		timer := time.NewTimer(next)
		select {
		case <-p.turn:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			if err != nil {
				err = fmt.Errorf("%w: %w, after: %w", lock.ErrUnavailable, ctx.Err(), err)
			} else {
				err = ctx.Err()
			}
			return nil, err
		case <-l.life.Done():
			timer.Stop()
			return nil, lock.ErrClosed
		}
		timer.Stop()
	}
}

// ask returns the lease, or when to ask again at the latest.
func (p *place) ask(ctx context.Context) (*lease, time.Duration, error) {
	l := p.locker
	ctx, cancel := context.WithTimeout(ctx, l.perTry())
	defer cancel()
	of := &lease{locker: l, name: p.name, id: p.id}
	sent := of.term.Now()
	reply, err := acquire.Exec(ctx, l.client, l.keys(p.name), []string{
		p.id, l.channel, millis(l.config.TTL), millis(l.config.alive), p.ticket, l.grace(),
	}).ToArray()
	if err != nil {
		return nil, 0, err
	}
	granted, err := reply[0].AsInt64()
	if err != nil {
		return nil, 0, err
	}
	text, err := reply[1].ToString()
	if err != nil {
		return nil, 0, err
	}
	if granted == 1 {
		token, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return nil, 0, err
		}
		of.term.Extend(sent, l.config.TTL-l.config.Margin)
		of.Hold = lock.NewHold(token, &of.term)
		if err := l.hold(of); err != nil {
			return nil, 0, err
		}
		return of, 0, nil
	}
	p.ticket = text
	left, err := reply[2].AsInt64()
	if err != nil {
		return nil, 0, err
	}
	rank, err := reply[3].AsInt64()
	if err != nil {
		return nil, 0, err
	}
	next := l.config.alive / 3
	if rank == 0 { // who is first looks after the lock's end, should nobody tell of it
		next = min(next, time.Duration(left+1)*time.Millisecond)
	}
	return nil, next, nil
}

func (l *Locker) grace() string {
	if l.config.Grace {
		return millis(l.config.TTL)
	}
	return "0"
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// hold has a lease renewed from now on.
func (l *Locker) hold(of *lease) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return lock.ErrClosed
	}
	l.wg.Add(1)
	l.held[of] = struct{}{}
	of.OnExpiry(func() { of.lose("it could not be renewed in time") })
	return nil
}

func (l *Locker) drop(of *lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.held, of)
}

// abandon gives up what has become of a place, in the background.
func (l *Locker) abandon(p *place) {
	l.wg.Go(func() { l.free(p.name, p.id) }) // ends when the server knows, or has forgotten by itself
}

// free takes a place or its lock away. It returns when the server has done so, or
// when it would have forgotten by itself, or was closed.
func (l *Locker) free(name, id string) error {
	forgotten := time.Now().Add(l.config.TTL + l.config.alive)
	for pause := retryLeast; ; pause = min(2*pause, retryMost) {
		ctx, cancel := context.WithTimeout(l.gone, l.perTry())
		err := release.Exec(ctx, l.client, l.keys(name), []string{id, millis(claimIn)}).Error()
		cancel()
		if err == nil || time.Now().After(forgotten) || l.gone.Err() != nil {
			return err
		}
		sleep(l.gone, pause)
	}
}

// lease is a lock that is held.
type lease struct {
	*lock.Hold
	locker   *Locker
	name, id string
	term     lock.Term
}

// end ends the lease. It reports whether this call did.
func (of *lease) end(reason error) bool {
	of.locker.drop(of)
	return of.End(reason)
}

// lose ends the lease without the holder.
func (of *lease) lose(why string) {
	if of.end(fmt.Errorf("%w: %s", lock.ErrLost, why)) {
		go func() { // ends as Release's does; the server may have it still, for nobody
			defer of.locker.wg.Done()
			of.locker.free(of.name, of.id) //nolint:errcheck // it forgets by itself
		}()
	}
}

// Release implements lock.Lease.
func (of *lease) Release(ctx context.Context) error {
	if !of.end(lock.ErrReleased) {
		if err := of.Err(); !errors.Is(err, lock.ErrReleased) {
			return err
		}
		return nil
	}
	freed := make(chan error, 1)
	go func() { // ends when the server knows, or has forgotten by itself
		defer of.locker.wg.Done()
		freed <- of.locker.free(of.name, of.id)
	}()
	select {
	case err := <-freed:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", lock.ErrUnavailable, ctx.Err())
	}
}

// renewAll renews what is held, all at once, until Close.
func (l *Locker) renewAll() {
	every := l.config.TTL / 3
	for next := every; l.life.Err() == nil; {
		sleep(l.life, next)
		if next = every; !l.renewOnce() {
			next = every / 4 // there is time for some more attempts
		}
	}
}

// renewMax bounds the locks of one script, which nothing else of the server's can
// run beside.
const renewMax = 256

// renewOnce renews what is held. It reports false if the server did not answer.
func (l *Locker) renewOnce() bool {
	l.mu.Lock()
	held := make([]*lease, 0, len(l.held))
	for of := range l.held {
		held = append(held, of)
	}
	s := l.session
	l.mu.Unlock()
	ok := s == nil || s.renew()
	for len(held) > 0 {
		some := held[:min(len(held), renewMax)]
		held = held[len(some):]
		ok = l.renewSome(some) && ok
	}
	return ok
}

func (l *Locker) renewSome(held []*lease) bool {
	keys, args := make([]string, len(held)), []string{millis(l.config.TTL)}
	sent := make([]lock.Sending, len(held))
	for i, of := range held {
		keys[i], sent[i] = l.key("o", of.name), of.term.Now()
		args = append(args, fmt.Sprintf("%d %d %s", of.Token(), l.config.TTL.Milliseconds(), of.id))
	}
	ctx, cancel := context.WithTimeout(l.life, l.perTry())
	defer cancel()
	renewed, err := renew.Exec(ctx, l.client, keys, args).AsIntSlice()
	if err != nil || len(renewed) != len(held) {
		return false // each lease sees for itself when it ends
	}
	for i, of := range held {
		if renewed[i] == 1 {
			of.term.Extend(sent[i], l.config.TTL-l.config.Margin)
		} else {
			of.lose("the server no longer has it")
		}
	}
	return true
}
