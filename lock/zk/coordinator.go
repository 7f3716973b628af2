package zk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"
	"golang.org/x/sync/errgroup"

	"lanekeeper/lock"
)

// A record is a node with the record as JSON. It is changed by a transaction that
// names the version of the record which the change was decided by, so whatever else
// changed it in between has the decision made again. A lease is an ephemeral node;
// whether it has ended may be asked before the transaction: it does not come back.

// tenant is a node's lease as others see it, and what can be done under it. Somebody
// may delete its node; so there may be another one in the same session.
type tenant struct {
	locker  *Locker
	session *session
	id      string
	ended   chan struct{}
	over    bool // guarded by the Locker's mu
}

// Begin implements lock.Coordinator.
func (l *Locker) Begin(ctx context.Context) (lock.Session, error) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil, lock.ErrClosed
	}
	l.wg.Add(1)
	l.mu.Unlock()
	defer l.wg.Done()
	select {
	case <-l.beginning:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-l.life.Done():
		return nil, lock.ErrClosed
	}
	defer func() { l.beginning <- struct{}{} }()
	t, err := insist(ctx, l, l.present)
	if err != nil {
		return nil, err
	}
	return t, nil
}

var errNoSession = errors.New("the session has expired, and there is no other yet")

// present is the lease, which is begun if there is none.
func (l *Locker) present() (*tenant, error) {
	l.mu.Lock()
	t, s := l.tenant, l.session
	if t != nil && !t.over {
		l.mu.Unlock()
		return t, nil
	}
	if s == nil {
		l.mu.Unlock()
		return nil, errNoSession
	}
	l.last++
	t = &tenant{locker: l, session: s, id: fmt.Sprintf("%016x-%d", uint64(s.id), l.last), ended: make(chan struct{})}
	l.mu.Unlock()
	_, err := l.conn.Create(t.path(), nil, zk.FlagEphemeral, l.acl)
	if errors.Is(err, zk.ErrNoNode) {
		return nil, errors.Join(err, l.makeNodes())
	}
	if err != nil {
		return nil, err // should it be there all the same: nobody uses its name again
	}
	gone, err := t.watch()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return nil, lock.ErrClosed
	case l.session != s:
		return nil, errNoSession
	}
	l.tenant = t
	l.wg.Go(func() { t.keep(gone) }) // ends with the lease, or the Locker
	return t, nil
}

// makeNodes makes the nodes that leases and records are below.
func (l *Locker) makeNodes() error {
	if err := l.makeRoot(); err != nil {
		return err
	}
	for _, name := range []string{"/nodes", "/parts"} {
		if _, err := l.conn.Create(l.config.Prefix+name, nil, zk.FlagPersistent, l.acl); err != nil && !errors.Is(err, zk.ErrNodeExists) {
			return err
		}
	}
	return nil
}

func (t *tenant) path() string { return t.locker.nodePath(t.id) }

func (l *Locker) nodePath(id string) string { return l.config.Prefix + "/nodes/" + id }

func (l *Locker) recordPath(partition int) string {
	return l.config.Prefix + "/parts/" + strconv.Itoa(partition)
}

// watch returns what is told when the lease's node is deleted, or watches are lost.
func (t *tenant) watch() (<-chan zk.Event, error) {
	t.locker.watching.Store(true)
	is, stat, gone, err := t.locker.conn.ExistsW(t.path())
	switch {
	case err != nil:
		return nil, err
	case !is || stat.EphemeralOwner != t.session.id:
		return nil, errNoSession
	}
	return gone, nil
}

// keep ends the lease when its node has been deleted, or its session has expired.
func (t *tenant) keep(gone <-chan zk.Event) {
	l := t.locker
	for {
		news := l.newsAfterNow()
		select {
		case <-gone:
		case <-news:
		case <-t.ended:
			return
		case <-l.life.Done():
			return
		}
		if l.current() != t.session && l.current() != nil {
			t.end()
			return
		}
		again, err := t.watch()
		switch {
		case errors.Is(err, errNoSession):
			t.end()
			return
		case err == nil:
			gone = again
		default:
			sleep(l.life, retryMost)
		}
	}
}

// end notes that the lease has ended.
func (t *tenant) end() {
	l := t.locker
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.over {
		return
	}
	t.over = true
	close(t.ended)
}

// End implements lock.Session. The session goes on, so the node is to be deleted, also
// when nobody waits for that any more.
func (t *tenant) End(ctx context.Context) error {
	l := t.locker
	t.end()
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return lock.ErrClosed
	}
	deleted := make(chan error, 1)
	l.wg.Go(func() { deleted <- t.delete() }) // ends when the servers know, or with life
	l.mu.Unlock()
	select {
	case err := <-deleted:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", lock.ErrUnavailable, ctx.Err())
	}
}

// delete deletes the lease's node. It returns when the servers have done so, or the
// whole session ends.
func (t *tenant) delete() error {
	l := t.locker
	for pause := retryLeast; ; pause = min(2*pause, retryMost) {
		err := l.conn.Delete(t.path(), -1)
		switch {
		case err == nil, errors.Is(err, zk.ErrNoNode):
			return nil
		case l.life.Err() != nil:
			return lock.ErrClosed
		}
		sleep(l.life, pause)
	}
}

// isOver reports whether the lease has ended, as far as is known here.
func (t *tenant) isOver() bool {
	select {
	case <-t.ended:
		return true
	default:
		return false
	}
}

// ID implements lock.Session.
func (t *tenant) ID() string { return t.id }

// ValidFor implements lock.Session.
func (t *tenant) ValidFor() time.Duration {
	if t.isOver() {
		return 0
	}
	return t.session.term.Left()
}

// Done implements lock.Session.
func (t *tenant) Done() <-chan struct{} { return t.ended }

const (
	takeMax   = 128 // records of one transaction
	takeTrips = 4   // transactions at once
)

// Take implements lock.Session.
func (t *tenant) Take(ctx context.Context, takes []lock.Take) ([]lock.Taken, error) {
	taken := make([]lock.Taken, len(takes))
	some, ctx := errgroup.WithContext(ctx)
	some.SetLimit(takeTrips)
	for from := 0; from < len(takes); from += takeMax {
		to := min(from+takeMax, len(takes))
		some.Go(func() error {
			got, err := t.take(ctx, takes[from:to])
			copy(taken[from:to], got)
			return err
		})
	}
	if err := some.Wait(); err != nil {
		return nil, err
	}
	return taken, nil
}

// take decides about some takes, and makes it so. What is to be refused is decided once
// more by what is certain: else who asks would take it for news.
func (t *tenant) take(ctx context.Context, takes []lock.Take) ([]lock.Taken, error) {
	taken, err := t.takeAsOf(ctx, lately, takes)
	if err != nil {
		return nil, err
	}
	var refused []int
	var again []lock.Take
	for i := range taken {
		if !taken[i].OK {
			refused, again = append(refused, i), append(again, takes[i])
		}
	}
	if len(refused) == 0 {
		return taken, nil
	}
	retaken, err := t.takeAsOf(ctx, now, again)
	if err != nil {
		return nil, err
	}
	for i, at := range refused {
		taken[at] = retaken[i]
	}
	return taken, nil
}

func (t *tenant) takeAsOf(ctx context.Context, at asOf, takes []lock.Take) ([]lock.Taken, error) {
	partitions := make([]int, len(takes))
	for i, take := range takes {
		partitions[i] = take.Partition
	}
	alive := make(map[string]bool)
	return change(ctx, t, at, partitions, func(records []lock.Record) (taken []lock.Taken, changed []int, err error) {
		taken = make([]lock.Taken, len(takes))
		for i, r := range records {
			if r.Holder == t.id && r.Tenure == takes[i].Tenure+1 {
				taken[i] = lock.Taken{OK: true, Record: r} // by an earlier attempt
				continue
			}
			for _, id := range []string{r.Holder, r.Prev} {
				if err := t.ask(alive, id); err != nil {
					return nil, nil, err
				}
			}
			next, ok := r.Decide(takes[i], t.id, func(id string) bool { return alive[id] }, time.Now())
			taken[i] = lock.Taken{OK: ok, Record: next}
			if records[i] = next; ok {
				changed = append(changed, i)
			}
		}
		return taken, changed, nil
	})
}

// ask finds out whether a lease goes on, once.
func (t *tenant) ask(alive map[string]bool, id string) error {
	if _, known := alive[id]; known || id == "" || id == t.id {
		return nil
	}
	is, err := t.locker.exists(id)
	if err == nil {
		alive[id] = is
	}
	return err
}

// exists asks whether a lease goes on. A server may be behind; to have it catch up is
// what Sync is for.
func (l *Locker) exists(id string) (bool, error) {
	if _, err := l.conn.Sync(l.config.Prefix); err != nil {
		return false, err
	}
	is, _, err := l.conn.Exists(l.nodePath(id))
	return is, err
}

// asOf is how old records may be that something is decided by. A server may be behind;
// what is written by what it says is not, but what is left alone would be.
type asOf bool

const (
	lately asOf = false
	now    asOf = true
)

// change changes those records that decide returns the numbers of, until nothing else
// has changed one of them in the meantime.
func change[T any](ctx context.Context, t *tenant, at asOf, partitions []int, decide func(records []lock.Record) (result T, changed []int, err error)) (T, error) {
	type outcome struct {
		result T
		done   bool
	}
	for {
		o, err := insist(ctx, t.locker, func() (o outcome, err error) {
			if at == now {
				if _, err := t.locker.conn.Sync(t.locker.config.Prefix); err != nil {
					return o, err
				}
			}
			records, versions, err := t.locker.read(partitions)
			if err != nil {
				return o, err
			}
			var changed []int
			if o.result, changed, err = decide(records); err != nil {
				return o, err
			}
			o.done, err = t.write(records, versions, changed)
			return o, err
		})
		if err != nil || o.done {
			return o.result, err
		}
	}
}

// write writes records, if none of them has been changed since.
func (t *tenant) write(records []lock.Record, versions []int32, changed []int) (done bool, err error) {
	if len(changed) == 0 {
		return true, nil
	}
	if t.isOver() {
		return false, errOver
	}
	l := t.locker
	ops := []any{&zk.CheckVersionRequest{Path: t.path(), Version: -1}}
	for _, i := range changed {
		value, err := json.Marshal(records[i])
		if err != nil {
			return false, err
		}
		at := l.recordPath(records[i].Partition)
		if versions[i] < 0 {
			ops = append(ops, &zk.CreateRequest{Path: at, Data: value, Acl: l.acl})
		} else {
			ops = append(ops, &zk.SetDataRequest{Path: at, Data: value, Version: versions[i]})
		}
	}
	_, err = l.conn.Multi(ops...)
	switch {
	case errors.Is(err, zk.ErrBadVersion), errors.Is(err, zk.ErrNodeExists):
		return false, nil
	case errors.Is(err, zk.ErrNoNode):
		return false, t.lacking()
	}
	return err == nil, err
}

var errOver = fmt.Errorf("%w: this node's lease has ended", lock.ErrLost)

// lacking finds out what a transaction did not find.
func (t *tenant) lacking() error {
	is, err := t.locker.exists(t.id)
	switch {
	case err != nil:
		return err
	case !is:
		t.end()
		return errOver
	}
	return t.locker.makeNodes()
}

// read returns records, and the versions that they are of; -1: there is none yet.
func (l *Locker) read(partitions []int) ([]lock.Record, []int32, error) {
	records, versions := make([]lock.Record, len(partitions)), make([]int32, len(partitions))
	errs := make([]error, len(partitions))
	var asked sync.WaitGroup
	for i, p := range partitions {
		asked.Go(func() { // ends with its answer, for which read waits
			records[i].Partition = p
			value, stat, err := l.conn.Get(l.recordPath(p))
			switch {
			case errors.Is(err, zk.ErrNoNode):
				versions[i] = -1
			case err != nil:
				errs[i] = err
			default:
				versions[i] = stat.Version
				errs[i] = parseRecord(value, &records[i])
			}
		})
	}
	asked.Wait()
	return records, versions, errors.Join(errs...)
}

// errRecord is a record that makes no sense, which does not change by asking again.
var errRecord = errors.New("a record makes no sense: did something else write it?")

func parseRecord(value []byte, r *lock.Record) error {
	if err := json.Unmarshal(value, r); err != nil {
		return fmt.Errorf("%w: partition %d: %w", errRecord, r.Partition, err)
	}
	return nil
}

// Draw implements lock.Session.
func (t *tenant) Draw(ctx context.Context, partition int, tenure uint64) (uint64, error) {
	return change(ctx, t, lately, []int{partition}, func(records []lock.Record) (uint64, []int, error) {
		r := &records[0]
		if r.Holder != t.id || r.Tenure != tenure {
			return 0, nil, fmt.Errorf("%w: partition %d is held by %q", lock.ErrLost, partition, r.Holder)
		}
		r.Stamp = lock.NextStamp(r.Stamp, time.Now())
		return r.Stamp, []int{0}, nil
	})
}

// Drained implements lock.Session.
func (t *tenant) Drained(ctx context.Context, drained []lock.Tenure) error {
	for from := 0; from < len(drained); from += takeMax {
		some := drained[from:min(from+takeMax, len(drained))]
		partitions := make([]int, len(some))
		for i, d := range some {
			partitions[i] = d.Partition
		}
		if _, err := change(ctx, t, now, partitions, func(records []lock.Record) (none struct{}, changed []int, _ error) {
			for i := range records {
				next, changes := records[i].Clear(t.id, some[i].Tenure)
				if records[i] = next; changes {
					changed = append(changed, i)
				}
			}
			return none, changed, nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// Records implements lock.Session.
func (t *tenant) Records(ctx context.Context) ([]lock.Record, error) {
	l := t.locker
	return insist(ctx, l, func() ([]lock.Record, error) {
		if _, err := l.conn.Sync(l.config.Prefix); err != nil {
			return nil, err
		}
		children, _, err := l.conn.Children(l.config.Prefix + "/parts")
		if errors.Is(err, zk.ErrNoNode) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		partitions := make([]int, len(children))
		for i, child := range children {
			if partitions[i], err = strconv.Atoi(child); err != nil {
				return nil, fmt.Errorf("%w: %q is no partition", errRecord, child)
			}
		}
		records, _, err := l.read(partitions)
		return records, err
	})
}

// Ended implements lock.Session.
func (t *tenant) Ended(ctx context.Context, id string) error {
	l := t.locker
	for {
		news := l.newsAfterNow()
		turn, err := insist(ctx, l, func() (<-chan zk.Event, error) {
			if _, err := l.conn.Sync(l.config.Prefix); err != nil {
				return nil, err
			}
			turn, err := l.watchNode(l.nodePath(id), news)
			if errors.Is(err, zk.ErrNoNode) {
				return nil, nil
			}
			return turn, err
		})
		if err != nil || turn == nil {
			return err
		}
		select {
		case <-turn:
		case <-news:
		case <-ctx.Done():
			return ctx.Err()
		case <-l.life.Done():
			return lock.ErrClosed
		}
	}
}

// insist does something until the servers have answered, or ctx has ended. The client
// knows no context: what nobody waits for any more goes on until it is answered, and
// so must not touch what its caller uses.
func insist[T any](ctx context.Context, l *Locker, do func() (T, error)) (result T, err error) {
	type answer struct {
		result T
		err    error
	}
	var last error // what came of it before ctx ended
	for pause := retryLeast; ; pause = min(2*pause, retryMost) {
		answered := make(chan answer, 1)
		l.wg.Go(func() { // ends with its answer, at the latest with the client
			result, err := do()
			answered <- answer{result, err}
		})
		a := answer{}
		select {
		case a = <-answered:
		case <-ctx.Done():
			a.err = ctx.Err()
		case <-l.life.Done():
			a.err = lock.ErrClosed
		}
		switch err := a.err; {
		case err == nil, errors.Is(err, lock.ErrLost), errors.Is(err, lock.ErrClosed), errors.Is(err, errRecord):
			return a.result, err
		case ctx.Err() == nil:
			last = err
			sleep(ctx, pause)
		}
		switch {
		case ctx.Err() == nil:
		case last == nil && l.answers():
			return result, ctx.Err()
		case last == nil:
			return result, fmt.Errorf("%w: %w, and no server answers", lock.ErrUnavailable, ctx.Err())
		default:
			return result, fmt.Errorf("%w: %w, after: %w", lock.ErrUnavailable, ctx.Err(), explain(last, &l.config))
		}
	}
}

// answers reports whether servers have answered lately.
func (l *Locker) answers() bool {
	s := l.current()
	return s != nil && s.term.Left() > 0
}

var _ lock.Coordinator = (*Locker)(nil)
