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

// session is a node's lease in the cluster, and what depends on it. Its key holds the
// lowest number of a place that may still be created.
type session struct {
	locker *Locker
	id     clientv3.LeaseID
	key    string
	term   lock.Term
	ended  chan struct{} // closed when the cluster does not have it any more, or is not to

	// Guarded by the locker's mutex.
	last uint64 // of the numbers of places
	held map[*lease]struct{}
	over bool
}

// number is as text what it is as a number: the cluster compares text.
func number(n uint64) string { return fmt.Sprintf("%016x", n) }

// present is the session, which is made anew if there is none.
func (l *Locker) present(ctx context.Context) (*session, error) {
	select {
	case <-l.opening:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-l.life.Done():
		return nil, lock.ErrClosed
	}
	defer func() { l.opening <- struct{}{} }()
	l.mu.Lock()
	s := l.session
	l.mu.Unlock()
	if s != nil {
		return s, nil
	}
	return l.begin(ctx)
}

// begin makes a session. One that was made and is not used ends by itself.
func (l *Locker) begin(ctx context.Context) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, l.perTry())
	defer cancel()
	defer context.AfterFunc(l.life, cancel)()
	s := &session{locker: l, ended: make(chan struct{}), held: make(map[*lease]struct{})}
	sent := s.term.Now()
	granted, err := l.client.Grant(ctx, int64(l.config.TTL/time.Second))
	if err != nil {
		return nil, err
	}
	s.id = granted.ID
	s.key = l.config.Prefix + "nodes/" + number(uint64(s.id)) //nolint:gosec // any bits do
	if _, err := l.client.Put(ctx, s.key, number(0), clientv3.WithLease(s.id)); err != nil {
		return nil, err
	}
	s.term.Extend(sent, l.config.TTL-l.config.Margin)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, lock.ErrClosed
	}
	l.session = s
	return s, nil
}

// end notes that the session has ended: what was held is lost, and what waits has no
// place any more.
func (s *session) end(why string) {
	l := s.locker
	l.mu.Lock()
	if s.over {
		l.mu.Unlock()
		return
	}
	s.over = true
	if l.session == s {
		l.session = nil
	}
	held := s.held
	s.held = nil
	l.mu.Unlock()
	s.term.End()
	for of := range held {
		of.Lose(why)
	}
	close(s.ended)
}

// releaseAll ends what is held as if it had been released, since the session is.
func (s *session) releaseAll() {
	l := s.locker
	l.mu.Lock()
	held := s.held
	s.held = nil
	l.mu.Unlock()
	s.term.End()
	for of := range held {
		of.End(lock.ErrReleased)
	}
}

// endedThere is why what was held is lost.
const endedThere = "the cluster has ended this node's lease"

// End implements lock.Session. Locks that are held are held under the same lease.
func (s *session) End(ctx context.Context) error {
	l := s.locker
	s.end("this node has given its lease up")
	if !l.enter() {
		return lock.ErrClosed
	}
	defer l.wg.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.gone, cancel)()
	err := l.revoke(ctx, s)
	if err != nil && l.gone.Err() != nil {
		return lock.ErrClosed
	}
	return err
}

// revoke ends a session in the cluster.
func (l *Locker) revoke(ctx context.Context, s *session) error {
	for pause := retryLeast; ; pause = min(2*pause, retryMost) {
		trying, cancel := context.WithTimeout(ctx, l.perTry())
		_, err := l.client.Revoke(trying, s.id)
		cancel()
		if err == nil || errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return nil
		}
		if sleep(ctx, pause); ctx.Err() != nil {
			return fmt.Errorf("%w: what was held ends with its lease: %w", lock.ErrUnavailable, err)
		}
	}
}

// renewAll renews the session until Close.
func (l *Locker) renewAll() {
	every := l.config.TTL / 3
	for next := every; l.life.Err() == nil; {
		sleep(l.life, next)
		next = every
		l.mu.Lock()
		s := l.session
		l.mu.Unlock()
		if s != nil && s.renew(l.life) != nil {
			next = every / 4 // there is time for some more attempts
		}
	}
}

// errTerm is an answer that may be that of a leader who no longer was one.
var errTerm = errors.New("the cluster's leader changed in the meantime")

// renew renews the session, and looks at what it holds. It returns nil when the
// session is valid, or has ended.
func (s *session) renew(ctx context.Context) error {
	l := s.locker
	if s.isOver() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, l.perTry())
	defer cancel()
	held := s.leases() // before: what is granted later is not looked for
	sent := s.term.Now()
	renewed, err := l.client.KeepAliveOnce(ctx, s.id)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		s.end(endedThere)
		return nil
	}
	if err != nil {
		return err
	}
	missing, term, err := s.look(ctx, held)
	switch {
	case err != nil:
		return err
	case term != renewed.RaftTerm:
		return errTerm
	case len(missing) > 0 && missing[0] == nil:
		s.end(endedThere)
		return nil
	}
	for _, of := range missing {
		of.lose("somebody deleted its key")
	}
	s.term.Extend(sent, min(time.Duration(renewed.TTL)*time.Second, l.config.TTL)-l.config.Margin)
	return nil
}

func (s *session) leases() []*lease {
	s.locker.mu.Lock()
	defer s.locker.mu.Unlock()
	held := make([]*lease, 0, len(s.held))
	for of := range s.held {
		held = append(held, of)
	}
	return held
}

// lookMax bounds the keys of one transaction; servers allow 128.
const lookMax = 100

// look asks a majority for the session's key and those of what is held. It returns
// which are missing, nil for the session's own, and the term of the leader.
func (s *session) look(ctx context.Context, held []*lease) (missing []*lease, term uint64, err error) {
	held = append([]*lease{nil}, held...)
	for len(held) > 0 {
		some := held[:min(len(held), lookMax)]
		held = held[len(some):]
		ops := make([]clientv3.Op, len(some))
		for i, of := range some {
			key := s.key
			if of != nil {
				key = of.place.key
			}
			ops[i] = clientv3.OpGet(key, clientv3.WithCountOnly())
		}
		answer, err := s.locker.client.Txn(ctx).Then(ops...).Commit()
		if err != nil {
			return nil, 0, err
		}
		term = answer.Header.RaftTerm
		for i, r := range answer.Responses {
			if r.GetResponseRange().Count == 0 {
				missing = append(missing, some[i])
			}
		}
	}
	return missing, term, nil
}
