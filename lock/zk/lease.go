package zk

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/go-zookeeper/zk"

	"lanekeeper/lock"
)

// place is a place in the queue of a lock. Its goroutine is the one that uses it,
// until it has handed it over as a lease or has given it up. The client's calls know
// no context; so nobody else has to wait for one whose caller is gone.
type place struct {
	locker  *Locker
	parent  string
	number  uint64
	ctx     context.Context // ended when nobody wants it any more
	granted chan *lease     // not buffered: who is gone is granted nothing
	trouble atomic.Pointer[error]

	session *session // that the rest is of
	stem    string   // that the names of its nodes begin with
	node    string   // "": none that it knows
	doubt   bool     // there may be one, or one more, that it doesn't
	known   string   // the node that the rest is of
	czxid   int64
	deleted <-chan zk.Event
}

// Acquire implements lock.Locker.
func (l *Locker) Acquire(ctx context.Context, name string) (lock.Lease, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p, err := l.enter(ctx, name)
	if err != nil {
		return nil, err
	}
	defer l.wg.Done()
	select {
	case of := <-p.granted:
		if err := l.hold(of); err != nil {
			l.wg.Go(func() { p.free() }) //nolint:errcheck // ends when the server knows, or with the client
			return nil, err
		}
		return of, nil
	case <-ctx.Done():
		return nil, p.givenUp()
	case <-l.life.Done():
		return nil, lock.ErrClosed
	}
}

func (l *Locker) enter(ctx context.Context, name string) (*place, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, lock.ErrClosed
	}
	l.wg.Add(1)
	l.last++
	p := &place{locker: l, parent: l.root + "/" + escape(name), number: l.last, ctx: ctx, granted: make(chan *lease)}
	l.wg.Go(p.run) // ends with ctx or life, when the server knows; at the latest with the client
	return p, nil
}

// givenUp is the error of who has waited long enough.
func (p *place) givenUp() error {
	if trouble := p.trouble.Load(); trouble != nil {
		return fmt.Errorf("%w: %w, after: %w", lock.ErrUnavailable, p.ctx.Err(), *trouble)
	}
	if !p.locker.answers() {
		return fmt.Errorf("%w: %w, and no server answers", lock.ErrUnavailable, p.ctx.Err())
	}
	return p.ctx.Err()
}

// run is the way of a place from its beginning to its end.
func (p *place) run() {
	l := p.locker
	for pause := retryLeast; p.ctx.Err() == nil && l.life.Err() == nil; {
		news := l.newsAfterNow()
		of, turn, err := p.step(news)
		if err != nil {
			p.trouble.Store(&err)
			sleep(p.ctx, pause)
			pause = min(2*pause, retryMost)
			continue
		}
		p.trouble.Store(nil)
		pause = retryLeast
		granted := p.granted
		if of == nil {
			granted = nil
		}
		select {
		case granted <- of:
			return
		case <-turn:
		case <-news:
		case <-p.ctx.Done():
		case <-l.life.Done():
		}
	}
	p.free() //nolint:errcheck // it has done what it can
}

// step returns the lease; or what it has to wait for, beside news.
func (p *place) step(news <-chan struct{}) (*lease, <-chan zk.Event, error) {
	for {
		if err := p.queue(); err != nil || p.ctx.Err() != nil { // no more is asked for nobody
			return nil, nil, err
		}
		before, err := p.look()
		if err != nil || p.ctx.Err() != nil {
			return nil, nil, err
		}
		if before == "" {
			return p.take(), nil, nil
		}
		turn, err := p.locker.watchNode(p.parent+"/"+before, news)
		if !errors.Is(err, zk.ErrNoNode) {
			return nil, turn, err
		}
	}
}

// queue has the place have a node of the session that there is now.
func (p *place) queue() error {
	l := p.locker
	s := l.current()
	if s == nil {
		return errors.New("the session has expired, and there is no other yet")
	}
	if p.session != s {
		// Its node has ended with the one before. But what was asked for then, and not
		// answered, may have been sent in this one.
		if p.doubt {
			if err := p.remove(); err != nil {
				return err
			}
		}
		p.session, p.node, p.doubt = s, "", false
		p.stem = fmt.Sprintf("%016x-%d-", uint64(s.id), p.number)
	}
	if p.node == "" && p.doubt {
		own, err := p.own()
		if err != nil {
			return err
		}
		if len(own) > 0 {
			p.node = own[0]
		}
	}
	if p.node != "" {
		return nil
	}
	path, err := l.conn.Create(p.parent+"/"+p.stem, nil, zk.FlagEphemeralSequential, l.acl)
	switch {
	case errors.Is(err, zk.ErrNoNode):
		if err := l.makeParent(p.parent); err != nil {
			return err
		}
		return p.queue()
	case errors.Is(err, zk.ErrNoAuth):
		return explain(err, &l.config)
	case err != nil:
		p.doubt = true
		return err
	}
	p.node = path[len(p.parent)+1:]
	if l.current() != s { // then whose it is, is not known
		if err := p.free(); err != nil {
			return err
		}
		return errors.New("the session has expired")
	}
	return nil
}

// own returns the names of nodes that are this place's. What was asked for before,
// and whose answer was lost, has happened by now, or will not: a session that is used
// by way of one connection is not by way of the one before.
func (p *place) own() ([]string, error) {
	if _, err := p.locker.conn.Sync(p.parent); err != nil {
		return nil, err
	}
	children, _, err := p.locker.conn.Children(p.parent)
	if err != nil && !errors.Is(err, zk.ErrNoNode) {
		return nil, err
	}
	var own []string
	for _, child := range children {
		if strings.HasPrefix(child, p.stem) {
			own = append(own, child)
		}
	}
	return own, nil
}

// look returns the node before this place's, "" if there is none.
func (p *place) look() (string, error) {
	known := make(chan error, 1)
	if p.known == p.node {
		known <- nil
	} else {
		go func() { known <- p.know() }() // ends with its answer, for which look waits
	}
	children, _, err := p.locker.conn.Children(p.parent)
	if err := errors.Join(<-known, err); errors.Is(err, zk.ErrNoNode) {
		p.node = "" // somebody has deleted it
		return "", err
	} else if err != nil {
		return "", err
	}
	there, before, last := false, "", uint32(0)
	for _, child := range children {
		number, ok := numberOf(child)
		if !ok {
			continue
		}
		if strings.HasPrefix(child, p.stem) {
			there = there || child == p.node
			continue
		}
		earlier, err := p.isAfter(child, number)
		if err != nil {
			return "", err
		}
		if earlier && (before == "" || number > last) {
			before, last = child, number
		}
	}
	if !there { // that nobody is before it means nothing
		p.node = ""
		return "", errors.New("the node of a place in a queue was deleted")
	}
	return before, nil
}

// know learns when its node was made, and has it watched.
func (p *place) know() error {
	p.locker.watching.Store(true)
	_, stat, deleted, err := p.locker.conn.GetW(p.parent + "/" + p.node)
	if err != nil {
		return err
	}
	if stat.EphemeralOwner != p.session.id {
		return fmt.Errorf("the node is of session %x, not %x", stat.EphemeralOwner, p.session.id)
	}
	p.known, p.czxid, p.deleted = p.node, stat.Czxid, deleted
	return nil
}

// isAfter reports whether the place comes after another one. Numbers tell, until the
// servers run out of them, after 2^31 places in a queue that was never empty for long.
// They don't go on from the lowest then, but back and forth; so from a little before
// that on it is asked when nodes were made.
func (p *place) isAfter(child string, number uint32) (bool, error) {
	own, _ := numberOf(p.node)
	if own != number && min(own, number) < p.locker.config.wraps {
		return number < own, nil
	}
	_, stat, err := p.locker.conn.Get(p.parent + "/" + child)
	if errors.Is(err, zk.ErrNoNode) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return stat.Czxid < p.czxid, nil
}

// numberOf is the number that the servers have given a node. Those that are below 0,
// after those above have been used up, become the highest.
func numberOf(node string) (uint32, bool) {
	parts := strings.SplitN(node, "-", 3)
	if len(parts) < 3 {
		return 0, false
	}
	number, err := strconv.ParseInt(parts[2], 10, 32)
	return uint32(number), err == nil
}

// take makes the place, which is the first one, a lease; nil if it is not known just now
// whether the session is alive, of which there will be news. A lease is of the session
// that the node was made in, whatever session there is by now, and ends with it.
func (p *place) take() *lease {
	if p.locker.current() != p.session || p.session.term.Left() <= 0 {
		return nil
	}
	return &lease{Hold: lock.NewHold(uint64(p.czxid), &p.session.term), place: p}
}

// free takes the nodes of a place away. It returns when the servers have done so, or
// have none, or the client has been closed.
func (p *place) free() error {
	for pause := retryLeast; ; pause = min(2*pause, retryMost) {
		err := p.remove()
		if err == nil || p.locker.gone.Err() != nil {
			return err
		}
		sleep(p.locker.gone, pause)
	}
}

func (p *place) remove() error {
	var nodes []string
	if p.node != "" {
		nodes = append(nodes, p.node)
	}
	if p.doubt {
		own, err := p.own()
		if err != nil {
			return err
		}
		nodes = append(nodes, own...)
	}
	for _, node := range nodes {
		if err := p.locker.conn.Delete(p.parent+"/"+node, -1); err != nil && !errors.Is(err, zk.ErrNoNode) {
			return err
		}
	}
	return nil
}

// lease is a lock that is held.
type lease struct {
	*lock.Hold
	place *place
}

// hold has a lease end when it is to, from now on.
func (l *Locker) hold(of *lease) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return lock.ErrClosed
	}
	l.wg.Add(1)
	l.held[of] = struct{}{}
	of.OnExpiry(func() { of.lose("the servers could not be asked in time") })
	l.wg.Go(of.watch) // ends with the lease
	return nil
}

// watch loses the lease when somebody deletes its node.
func (of *lease) watch() {
	select {
	case event := <-of.place.deleted:
		if event.Type == zk.EventNodeDeleted {
			of.lose("its node was deleted")
		}
	case <-of.Done():
	}
}

// end ends the lease. It reports whether this call did.
func (of *lease) end(reason error) bool {
	l := of.place.locker
	l.mu.Lock()
	delete(l.held, of)
	l.mu.Unlock()
	return of.End(reason)
}

// lose ends the lease without the holder.
func (of *lease) lose(why string) {
	if of.end(fmt.Errorf("%w: %s", lock.ErrLost, why)) {
		go func() { // ends as Release's does; the session may go on, and with it the node
			defer of.place.locker.wg.Done()
			of.place.free() //nolint:errcheck // it has done what it can
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
	go func() { // ends when the server knows, or with the client
		defer of.place.locker.wg.Done()
		freed <- of.place.free()
	}()
	select {
	case err := <-freed:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", lock.ErrUnavailable, ctx.Err())
	}
}
