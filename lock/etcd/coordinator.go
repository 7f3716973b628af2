package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"lanekeeper/lock"
)

// A record is a key with the record as JSON. It is changed by a transaction that
// compares its revision with that of the record which the change was decided by, so
// whatever else changed it in between has the decision made again. Whether a lease
// has ended may be asked before that: it does not come back.

// Begin implements lock.Coordinator.
func (l *Locker) Begin(ctx context.Context) (lock.Session, error) {
	if !l.enter() {
		return nil, lock.ErrClosed
	}
	defer l.wg.Done()
	var s *session
	err := l.insist(ctx, func(ctx context.Context) (err error) { s, err = l.present(ctx); return err })
	if err != nil {
		return nil, err
	}
	return s, nil
}

// ID implements lock.Session.
func (s *session) ID() string { return number(uint64(s.id)) } //nolint:gosec // any bits do

// ValidFor implements lock.Session.
func (s *session) ValidFor() time.Duration { return s.term.Left() }

// Done implements lock.Session.
func (s *session) Done() <-chan struct{} { return s.ended }

func (l *Locker) recordKey(partition int) string {
	return fmt.Sprintf("%sparts/%06d", l.config.Prefix, partition)
}

func (l *Locker) sessionKey(id string) string { return l.config.Prefix + "nodes/" + id }

const (
	takeMax   = 64 // records of one transaction; servers allow 128 comparisons
	takeTrips = 4  // transactions at once
)

// Take implements lock.Session.
func (s *session) Take(ctx context.Context, takes []lock.Take) ([]lock.Taken, error) {
	taken := make([]lock.Taken, len(takes))
	some, ctx := errgroup.WithContext(ctx)
	some.SetLimit(takeTrips)
	for from := 0; from < len(takes); from += takeMax {
		to := min(from+takeMax, len(takes))
		some.Go(func() error { return s.take(ctx, takes[from:to], taken[from:to]) })
	}
	if err := some.Wait(); err != nil {
		return nil, err
	}
	return taken, nil
}

// take decides about some takes, and makes it so.
func (s *session) take(ctx context.Context, takes []lock.Take, taken []lock.Taken) error {
	partitions := make([]int, len(takes))
	for i, t := range takes {
		partitions[i] = t.Partition
	}
	alive := make(map[string]bool)
	return s.change(ctx, partitions, func(ctx context.Context, i int, r lock.Record) (lock.Record, bool, error) {
		if r.Holder == s.ID() && r.Tenure == takes[i].Tenure+1 {
			taken[i] = lock.Taken{OK: true, Record: r} // by an earlier attempt
			return r, false, nil
		}
		for _, id := range []string{r.Holder, r.Prev} {
			if err := s.ask(ctx, alive, id); err != nil {
				return r, false, err
			}
		}
		next, ok := r.Decide(takes[i], s.ID(), func(id string) bool { return alive[id] }, time.Now())
		taken[i] = lock.Taken{OK: ok, Record: next}
		return next, ok, nil
	})
}

// ask finds out whether a lease goes on, once.
func (s *session) ask(ctx context.Context, alive map[string]bool, id string) error {
	if _, known := alive[id]; known || id == "" || id == s.ID() {
		return nil
	}
	answer, err := s.locker.client.Get(ctx, s.locker.sessionKey(id), clientv3.WithCountOnly())
	if err == nil {
		alive[id] = answer.Count > 0
	}
	return err
}

// change changes records, as many as decide wants to, until nothing else has changed
// one of them in the meantime.
func (s *session) change(ctx context.Context, partitions []int, decide func(ctx context.Context, i int, r lock.Record) (next lock.Record, changes bool, err error)) error {
	for {
		done := false
		err := s.locker.insist(ctx, func(ctx context.Context) (err error) {
			done, err = s.tryChange(ctx, partitions, decide)
			return err
		})
		switch {
		case errors.Is(err, errGone):
			return fmt.Errorf("%w: this node's lease has ended", lock.ErrLost)
		case err != nil || done:
			return err
		}
	}
}

func (s *session) tryChange(ctx context.Context, partitions []int, decide func(ctx context.Context, i int, r lock.Record) (lock.Record, bool, error)) (done bool, err error) {
	if s.isOver() {
		return false, errGone
	}
	records, revisions, err := s.read(ctx, partitions)
	if err != nil {
		return false, err
	}
	compares := []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(s.key), ">", 0)}
	var puts []clientv3.Op
	for i, r := range records {
		next, changes, err := decide(ctx, i, r)
		if err != nil {
			return false, err
		}
		if changes {
			value, err := json.Marshal(next)
			if err != nil {
				return false, err
			}
			key := s.locker.recordKey(r.Partition)
			compares = append(compares, clientv3.Compare(clientv3.ModRevision(key), "=", revisions[i]))
			puts = append(puts, clientv3.OpPut(key, string(value)))
		}
	}
	if len(puts) == 0 {
		return true, nil
	}
	answer, err := s.locker.client.Txn(ctx).If(compares...).Then(puts...).Else(clientv3.OpGet(s.key, clientv3.WithCountOnly())).Commit()
	switch {
	case err != nil:
		return false, err
	case !answer.Succeeded && answer.Responses[0].GetResponseRange().Count == 0:
		s.end(endedThere)
		return false, errGone
	}
	return answer.Succeeded, nil
}

// read returns records and the revisions that they are of.
func (s *session) read(ctx context.Context, partitions []int) ([]lock.Record, []int64, error) {
	ops := make([]clientv3.Op, len(partitions))
	for i, p := range partitions {
		ops[i] = clientv3.OpGet(s.locker.recordKey(p))
	}
	answer, err := s.locker.client.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		return nil, nil, err
	}
	records, revisions := make([]lock.Record, len(partitions)), make([]int64, len(partitions))
	for i, r := range answer.Responses {
		records[i].Partition = partitions[i]
		if kvs := r.GetResponseRange().Kvs; len(kvs) > 0 {
			if err := parseRecord(kvs[0], &records[i]); err != nil {
				return nil, nil, err
			}
			revisions[i] = kvs[0].ModRevision
		}
	}
	return records, revisions, nil
}

// errRecord is a record that makes no sense, which does not change by asking again.
var errRecord = errors.New("a record makes no sense: did something else write it?")

func parseRecord(kv *mvccpb.KeyValue, r *lock.Record) error {
	if err := json.Unmarshal(kv.Value, r); err != nil {
		return fmt.Errorf("%w: %s: %w", errRecord, kv.Key, err)
	}
	return nil
}

// Draw implements lock.Session.
func (s *session) Draw(ctx context.Context, partition int, tenure uint64) (stamp uint64, err error) {
	err = s.change(ctx, []int{partition}, func(_ context.Context, _ int, r lock.Record) (lock.Record, bool, error) {
		if r.Holder != s.ID() || r.Tenure != tenure {
			return r, false, fmt.Errorf("%w: partition %d is held by %q", lock.ErrLost, partition, r.Holder)
		}
		r.Stamp = lock.NextStamp(r.Stamp, time.Now())
		stamp = r.Stamp
		return r, true, nil
	})
	return stamp, err
}

// Drained implements lock.Session.
func (s *session) Drained(ctx context.Context, drained []lock.Tenure) error {
	for from := 0; from < len(drained); from += takeMax {
		some := drained[from:min(from+takeMax, len(drained))]
		partitions := make([]int, len(some))
		for i, d := range some {
			partitions[i] = d.Partition
		}
		if err := s.change(ctx, partitions, func(_ context.Context, i int, r lock.Record) (lock.Record, bool, error) {
			next, changes := r.Clear(s.ID(), some[i].Tenure)
			return next, changes, nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// Records implements lock.Session.
func (s *session) Records(ctx context.Context) (records []lock.Record, err error) {
	prefix := s.locker.config.Prefix + "parts/"
	err = s.locker.insist(ctx, func(ctx context.Context) error {
		answer, err := s.locker.client.Get(ctx, prefix, clientv3.WithPrefix())
		if err != nil {
			return err
		}
		records = make([]lock.Record, len(answer.Kvs))
		for i, kv := range answer.Kvs {
			if records[i].Partition, err = strconv.Atoi(strings.TrimPrefix(string(kv.Key), prefix)); err != nil {
				return fmt.Errorf("%w: %s is no partition's", errRecord, kv.Key)
			}
			if err := parseRecord(kv, &records[i]); err != nil {
				return err
			}
		}
		return nil
	})
	return records, err
}

// Ended implements lock.Session.
func (s *session) Ended(ctx context.Context, id string) error {
	key := s.locker.sessionKey(id)
	for {
		is, err := s.locker.exists(ctx, key)
		if err != nil || !is {
			return err
		}
		if err := s.locker.await(ctx, key, s.ended); err != nil {
			return err
		}
	}
}

var _ lock.Coordinator = (*Locker)(nil)
