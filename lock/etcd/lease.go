package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"lanekeeper/lock"
)

// place is a place in the queue of a lock.
type place struct {
	session  *session
	queue    string
	key      string // like nobody else's ever
	number   uint64
	revision int64 // of its creation; 0 = it is not known to exist
	doubtful bool  // a request to create it has not been answered
}

// errGone is the end of a place whose session has ended, or which somebody deleted, or
// which may not be created any more: another one may be tried.
var errGone = errors.New("the place is gone")

// Acquire implements lock.Locker.
func (l *Locker) Acquire(ctx context.Context, name string) (lock.Lease, error) {
	if !l.enter() {
		return nil, lock.ErrClosed
	}
	defer l.wg.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.life, cancel)()
	for {
		of, err := l.queueUp(ctx, name)
		switch {
		case err == nil:
			return of, nil
		case l.life.Err() != nil:
			return nil, lock.ErrClosed
		case !errors.Is(err, errGone):
			return nil, err
		}
	}
}

func (l *Locker) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.wg.Add(1)
	}
	return !l.closed
}

// queueUp takes one place and waits until it is the first.
func (l *Locker) queueUp(ctx context.Context, name string) (*lease, error) {
	var p *place
	err := l.insist(ctx, func(ctx context.Context) error {
		s, err := l.present(ctx)
		if err == nil {
			p = s.place(name)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	of, err := p.wait(ctx)
	if err != nil {
		l.wg.Go(func() { p.free() }) // ends when the cluster knows, or the session has ended
		return nil, err
	}
	return of, nil
}

// insist does something until the cluster has answered, or refuses it for good, or ctx
// has ended.
func (l *Locker) insist(ctx context.Context, do func(context.Context) error) error {
	var last error // what came of it before ctx ended
	for pause := retryLeast; ; pause = min(2*pause, retryMost) {
		trying, cancel := context.WithTimeout(ctx, l.perTry())
		err := do(trying)
		cancel()
		switch {
		case err == nil, errors.Is(err, errGone), errors.Is(err, lock.ErrClosed):
			return err
		case errors.Is(err, lock.ErrLost), errors.Is(err, errRecord):
			return err
		case isFinal(err):
			return fmt.Errorf("%w: %w", lock.ErrUnavailable, explain(err))
		case ctx.Err() == nil:
			last = err
			sleep(ctx, pause)
		}
		switch {
		case ctx.Err() == nil:
		case last == nil:
			return ctx.Err()
		default:
			return fmt.Errorf("%w: %w, after: %w", lock.ErrUnavailable, ctx.Err(), explain(last))
		}
	}
}

// isFinal reports whether asking again is of no use.
func isFinal(err error) bool {
	return errors.Is(err, rpctypes.ErrAuthFailed) || errors.Is(err, rpctypes.ErrPermissionDenied) || errors.Is(err, rpctypes.ErrUserEmpty)
}

// place is a new place in the queue of a name; nobody knows of it yet.
func (s *session) place(name string) *place {
	s.locker.mu.Lock()
	defer s.locker.mu.Unlock()
	s.last++
	queue := s.locker.queue(name)
	return &place{session: s, queue: queue, number: s.last, key: queue + number(uint64(s.id)) + "-" + number(s.last)} //nolint:gosec // any bits do
}

// wait returns when p is the first of its queue.
func (p *place) wait(ctx context.Context) (*lease, error) {
	l := p.session.locker
	var before string // the key before it
	if err := l.insist(ctx, func(ctx context.Context) (err error) { before, err = p.create(ctx); return err }); err != nil {
		return nil, err
	}
	for before != "" {
		if err := l.await(ctx, before, p.session.ended); err != nil {
			return nil, err
		}
		if p.session.isOver() {
			return nil, errGone
		}
		if err := l.insist(ctx, func(ctx context.Context) (err error) { before, err = p.look(ctx); return err }); err != nil {
			return nil, err
		}
	}
	for p.session.term.Left() <= 0 {
		if err := l.insist(ctx, p.session.renew); err != nil {
			return nil, err
		}
		if p.session.isOver() {
			return nil, errGone
		}
	}
	return p.hold()
}

// create writes p's key, and returns the one before it, if there is one.
func (p *place) create(ctx context.Context) (before string, err error) {
	s, doubtful := p.session, p.doubtful
	p.doubtful = true
	answer, err := s.locker.client.Txn(ctx).If(
		clientv3.Compare(clientv3.CreateRevision(p.key), "=", 0),
		clientv3.Compare(clientv3.Value(s.key), "<", number(p.number)),
	).Then(
		clientv3.OpPut(p.key, "", clientv3.WithLease(s.id)),
		clientv3.OpGet(p.queue, clientv3.WithPrefix(), clientv3.WithKeysOnly(), clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortDescend), clientv3.WithLimit(2)),
	).Else(clientv3.OpGet(p.key)).Commit()
	switch {
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		s.end(endedThere)
		return "", errGone
	case err != nil:
		return "", err
	}
	p.doubtful = doubtful
	if !answer.Succeeded {
		existing := answer.Responses[0].GetResponseRange().Kvs
		if len(existing) == 0 { // its number has passed, or its session
			return "", errGone
		}
		p.revision = existing[0].CreateRevision // an earlier attempt did it
		return p.look(ctx)
	}
	p.revision = answer.Header.Revision
	if last := answer.Responses[1].GetResponseRange().Kvs; len(last) > 1 {
		return string(last[1].Key), nil
	}
	return "", nil
}

// look asks for the key before p's, and whether p still has its place.
func (p *place) look(ctx context.Context) (before string, err error) {
	last := append(clientv3.WithLastCreate(), clientv3.WithPrefix(), clientv3.WithKeysOnly(), clientv3.WithMaxCreateRev(p.revision-1))
	answer, err := p.session.locker.client.Txn(ctx).Then(
		clientv3.OpGet(p.key, clientv3.WithCountOnly()), clientv3.OpGet(p.queue, last...),
	).Commit()
	switch {
	case err != nil:
		return "", err
	case answer.Responses[0].GetResponseRange().Count == 0:
		return "", errGone
	}
	if kvs := answer.Responses[1].GetResponseRange().Kvs; len(kvs) > 0 {
		return string(kvs[0].Key), nil
	}
	return "", nil
}

// await returns when a key has been deleted, or when that may have been missed, or the
// session that has an interest in it ended.
func (l *Locker) await(ctx context.Context, key string, ended <-chan struct{}) error {
	watching, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	// From now on, not from the revision of the last look: the server would have
	// such a watch catch up first, in turns of 100 ms. Hence the second look.
	events := l.client.Watch(watching, key, clientv3.WithFilterPut(), clientv3.WithCreatedNotify())
	again := time.NewTimer(l.config.TTL) // should the watch be dead without a word
	defer again.Stop()
	next := func() (r clientv3.WatchResponse, ok bool) {
		select {
		case r, ok = <-events:
		case <-again.C:
		case <-ended:
		case <-ctx.Done():
		}
		return r, ok
	}
	if r, ok := next(); !ok || !r.Created || r.Err() != nil {
		sleep(ctx, retryLeast)
		return ctx.Err()
	}
	if exists, err := l.exists(ctx, key); err != nil || !exists {
		return err
	}
	next() // whatever it says
	return ctx.Err()
}

func (l *Locker) exists(ctx context.Context, key string) (is bool, err error) {
	err = l.insist(ctx, func(ctx context.Context) error {
		answer, err := l.client.Get(ctx, key, clientv3.WithCountOnly())
		is = err == nil && answer.Count > 0
		return err
	})
	return is, err
}

func (s *session) isOver() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// hold makes a lease of the first place of a queue.
func (p *place) hold() (*lease, error) {
	s, l := p.session, p.session.locker
	of := &lease{Hold: lock.NewHold(uint64(p.revision), &s.term), place: p} //nolint:gosec // revisions are positive
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return nil, lock.ErrClosed
	case s.over:
		return nil, errGone
	}
	s.held[of] = struct{}{}
	of.OnExpiry(func() { of.lose("it could not be renewed in time") })
	return of, nil
}

// free deletes p's key. It returns when the cluster has, or when the session has ended,
// and the key with it.
func (p *place) free() error {
	s, l := p.session, p.session.locker
	for pause := retryLeast; ; pause = min(2*pause, retryMost) {
		ctx, cancel := context.WithTimeout(l.gone, l.perTry())
		err := p.delete(ctx)
		cancel()
		if err == nil || s.isOver() {
			return nil
		}
		if l.gone.Err() != nil {
			return err
		}
		sleep(l.gone, pause)
	}
}

// delete deletes p's key, and sees to it that it is not created after that.
func (p *place) delete(ctx context.Context) error {
	s, client := p.session, p.session.locker.client
	if !p.doubtful {
		_, err := client.Delete(ctx, p.key)
		return err
	}
	_, err := client.Txn(ctx).If(clientv3.Compare(clientv3.Value(s.key), "<", number(p.number))).
		Then(clientv3.OpPut(s.key, number(p.number), clientv3.WithLease(s.id)), clientv3.OpDelete(p.key)).
		Else(clientv3.OpDelete(p.key)).Commit()
	return err
}

// lease is a lock that is held.
type lease struct {
	*lock.Hold
	place *place
}

// lose ends the lease without the holder. The cluster may have its key still, for
// nobody.
func (of *lease) lose(why string) {
	if of.take() {
		of.Lose(why)
		go of.free()
	}
}

// take takes the lease from what is held. It reports whether this call did: then free
// is to follow.
func (of *lease) take() bool {
	s, l := of.place.session, of.place.session.locker
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := s.held[of]; !ok {
		return false
	}
	delete(s.held, of)
	l.wg.Add(1)
	return true
}

// free ends when the cluster knows, or the session has ended.
func (of *lease) free() error {
	defer of.place.session.locker.wg.Done()
	return of.place.free()
}

// Release implements lock.Lease.
func (of *lease) Release(ctx context.Context) error {
	if !of.take() {
		if err := of.Err(); err != nil && !errors.Is(err, lock.ErrReleased) {
			return err
		}
		return nil
	}
	of.End(lock.ErrReleased)
	freed := make(chan error, 1)
	go func() { freed <- of.free() }() // ends with it
	select {
	case err := <-freed:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", lock.ErrUnavailable, ctx.Err())
	}
}
