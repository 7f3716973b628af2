package lock

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"
)

// Local keeps locks in this process. Its leases last until they are released, or
// their node is closed.
type Local struct {
	mu     sync.Mutex // guards the rest
	queues map[string][]*place
	token  uint64
}

// NewLocal makes a Local. Its tokens are higher than those of one that was made
// earlier, unless the clock was set back.
func NewLocal() *Local {
	return &Local{queues: make(map[string][]*place), token: uint64(time.Now().UnixMicro())} //nolint:gosec // after 1970
}

// Open is the way to its locks for one node; those of a process may share one.
func (l *Local) Open() Locker { return &localNode{store: l, closed: make(chan struct{})} }

// localNode is a node's way to a Local.
type localNode struct {
	store  *Local
	once   sync.Once
	closed chan struct{} // guarded by the store's mutex, as far as closing goes
}

// place is a place in the queue of a name; the first one holds the lock, and is its
// lease.
type place struct {
	node    *localNode
	name    string
	token   uint64
	granted chan struct{}
	done    chan struct{} // closed when it has left the queue
}

// Acquire implements Locker.
func (n *localNode) Acquire(ctx context.Context, name string) (Lease, error) {
	p := &place{node: n, name: name, granted: make(chan struct{}), done: make(chan struct{})}
	if !n.store.enter(p) {
		return nil, ErrClosed
	}
	select {
	case <-p.granted:
		return p, nil
	case <-ctx.Done():
		n.store.leave(p)
		return nil, ctx.Err()
	case <-n.closed:
		return nil, ErrClosed // Close takes it out
	}
}

// enter reports false if the place's node is closed.
func (l *Local) enter(p *place) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-p.node.closed:
		return false
	default:
	}
	queue := append(l.queues[p.name], p)
	l.queues[p.name] = queue
	if len(queue) == 1 {
		l.grantLocked(p)
	}
	return true
}

func (l *Local) grantLocked(p *place) {
	l.token++
	p.token = l.token
	close(p.granted)
}

func (l *Local) leave(p *place) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leaveLocked(p)
}

// leaveLocked takes a place out of its queue, if it is still there.
func (l *Local) leaveLocked(p *place) {
	queue := l.queues[p.name]
	i := slices.Index(queue, p)
	if i < 0 {
		return
	}
	close(p.done)
	queue = slices.Delete(queue, i, i+1)
	if len(queue) == 0 {
		delete(l.queues, p.name)
		return
	}
	l.queues[p.name] = queue
	if i == 0 {
		l.grantLocked(queue[0])
	}
}

// Close implements Locker.
func (n *localNode) Close(context.Context) error {
	n.once.Do(func() {
		n.store.mu.Lock()
		defer n.store.mu.Unlock()
		close(n.closed)
		var own []*place
		for _, queue := range n.store.queues {
			for _, p := range queue {
				if p.node == n {
					own = append(own, p)
				}
			}
		}
		for _, p := range own {
			n.store.leaveLocked(p)
		}
	})
	return nil
}

// Token implements Lease.
func (p *place) Token() uint64 { return p.token }

// ValidFor implements Lease.
func (p *place) ValidFor() time.Duration {
	if p.Err() != nil {
		return 0
	}
	return math.MaxInt64
}

// Done implements Lease.
func (p *place) Done() <-chan struct{} { return p.done }

// Err implements Lease.
func (p *place) Err() error {
	select {
	case <-p.done:
		return ErrReleased
	default:
		return nil
	}
}

// Release implements Lease.
func (p *place) Release(context.Context) error {
	p.node.store.leave(p)
	return nil
}
