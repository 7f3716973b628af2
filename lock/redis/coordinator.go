package redis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"lanekeeper/lock"
)

// A node's lease is a key that expires, and all records are one hash, so a script can
// decide about many of them at once, by the server's clock alone.

// session is a node's lease, and what can be done under it.
type session struct {
	locker *Locker
	id     string
	term   lock.Term
	ended  chan struct{} // closed when the server does not have it any more, or is not to
	over   bool          // guarded by the locker's mutex
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
	if s := l.present(); s != nil {
		return s, nil
	}
	var s *session
	if err := l.insist(ctx, func(ctx context.Context) error {
		s = l.newSession() // of an attempt that is late nobody knows the lease, so it runs out
		return s.begin(ctx)
	}); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, lock.ErrClosed
	}
	l.session = s
	return s, nil
}

func (l *Locker) present() *session {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.session
}

func (l *Locker) newSession() *session {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	return &session{locker: l, id: l.id + "-" + strconv.FormatUint(l.last, 36), ended: make(chan struct{})}
}

func (s *session) begin(ctx context.Context) error {
	l := s.locker
	sent := s.term.Now()
	err := begin.Exec(ctx, l.client, l.leaseKeys(s.id), []string{millis(l.config.TTL), l.grace()}).Error()
	if err == nil {
		s.term.Extend(sent, l.config.TTL-l.config.Margin)
	}
	return err
}

// renew reports false if the server did not answer.
func (s *session) renew() bool {
	l := s.locker
	if s.isOver() {
		return true
	}
	ctx, cancel := context.WithTimeout(l.life, l.perTry())
	defer cancel()
	sent := s.term.Now()
	renewed, err := prolong.Exec(ctx, l.client, l.leaseKeys(s.id), []string{millis(l.config.TTL), l.grace()}).AsInt64()
	switch {
	case err != nil:
		return false
	case renewed != 1:
		s.end()
	default:
		s.term.Extend(sent, l.config.TTL-l.config.Margin)
	}
	return true
}

// end notes that the lease has ended.
func (s *session) end() {
	l := s.locker
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.over {
		return
	}
	s.over = true
	if l.session == s {
		l.session = nil
	}
	s.term.End()
	close(s.ended)
}

// End implements lock.Session.
func (s *session) End(ctx context.Context) error {
	l := s.locker
	s.end()
	return l.insist(ctx, func(ctx context.Context) error {
		return giveUp.Exec(ctx, l.client, []string{l.key("l", s.id), l.key("ended", "")}, []string{s.id}).Error()
	})
}

func (s *session) isOver() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// ID implements lock.Session.
func (s *session) ID() string { return s.id }

// ValidFor implements lock.Session.
func (s *session) ValidFor() time.Duration { return s.term.Left() }

// Done implements lock.Session.
func (s *session) Done() <-chan struct{} { return s.ended }

// leaseKeys are the keys of scripts about one lease.
func (l *Locker) leaseKeys(id string) []string {
	return []string{l.key("l", id), l.key("epoch", "")}
}

// recordKeys are the keys of scripts that change records.
func (s *session) recordKeys() []string {
	l := s.locker
	return []string{l.key("l", s.id), l.key("records", ""), l.key("epoch", "")}
}

// takeMax bounds the records of one script, which nothing else of the server's can run
// beside.
const takeMax = 256

// Take implements lock.Session.
func (s *session) Take(ctx context.Context, takes []lock.Take) (taken []lock.Taken, err error) {
	for len(takes) > 0 && err == nil {
		some := takes[:min(len(takes), takeMax)]
		takes = takes[len(some):]
		args := []string{s.locker.key("l", "")}
		for _, t := range some {
			args = append(args, strconv.Itoa(t.Partition), t.Holder, strconv.FormatUint(t.Tenure, 10), flag(t.Given), flag(t.Draining))
		}
		var results []lock.Taken
		results, err = s.run(ctx, take, args)
		taken = append(taken, results...)
	}
	if err != nil {
		return nil, err
	}
	return taken, nil
}

func flag(is bool) string {
	if is {
		return "1"
	}
	return "0"
}

// Draw implements lock.Session.
func (s *session) Draw(ctx context.Context, partition int, tenure uint64) (uint64, error) {
	drawn, err := s.run(ctx, draw, []string{strconv.Itoa(partition), strconv.FormatUint(tenure, 10)})
	switch {
	case err != nil:
		return 0, err
	case !drawn[0].OK:
		return 0, fmt.Errorf("%w: partition %d is held by %q", lock.ErrLost, partition, drawn[0].Record.Holder)
	}
	return drawn[0].Record.Stamp, nil
}

// Drained implements lock.Session.
func (s *session) Drained(ctx context.Context, drained []lock.Tenure) error {
	for len(drained) > 0 {
		some := drained[:min(len(drained), takeMax)]
		drained = drained[len(some):]
		var args []string
		for _, d := range some {
			args = append(args, strconv.Itoa(d.Partition), strconv.FormatUint(d.Tenure, 10))
		}
		if _, err := s.run(ctx, clearPrev, args); err != nil {
			return err
		}
	}
	return nil
}

// errRecord is a record that makes no sense, which does not change by asking again.
var errRecord = errors.New("a record makes no sense: did something else write it?")

// errGrace has a script run again when the server grants something.
var errGrace = errors.New("the server has lost its data, or is new, and grants nothing for the length of a lease")

// answer is what scripts about records say.
type answer struct {
	Ended  bool `json:"ended"`
	Closed int  `json:"closed"` // for how long (ms) nothing is granted
	Taken  []struct {
		OK        bool         `json:"ok"`
		Partition int          `json:"partition"`
		Record    *lock.Record `json:"record"`
	} `json:"taken"`
}

// ask has a script about records run until read, which is given its answer, has no
// fault to find.
func (s *session) ask(ctx context.Context, script *rueidis.Lua, args []string, read func(rueidis.RedisResult) (answer, error)) error {
	l := s.locker
	args = append([]string{s.id, l.grace()}, args...)
	return l.insist(ctx, func(ctx context.Context) error {
		if s.isOver() {
			return errOver
		}
		result := script.Exec(ctx, l.client, s.recordKeys(), args)
		if err := result.Error(); err != nil {
			return err
		}
		answer, err := read(result)
		switch {
		case err != nil:
			return err
		case answer.Ended:
			s.end()
			return errOver
		case answer.Closed > 0:
			return errGrace
		}
		return nil
	})
}

var errOver = fmt.Errorf("%w: this node's lease has ended", lock.ErrLost)

func parseAnswer(text string) (a answer, err error) {
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		return a, fmt.Errorf("%w: %w", errRecord, err)
	}
	return a, nil
}

// run has a script change records until it has been answered.
func (s *session) run(ctx context.Context, script *rueidis.Lua, args []string) (results []lock.Taken, err error) {
	err = s.ask(ctx, script, args, func(result rueidis.RedisResult) (answer, error) {
		text, err := result.ToString()
		if err != nil {
			return answer{}, err
		}
		answer, err := parseAnswer(text)
		results = results[:0]
		for _, t := range answer.Taken {
			r := lock.Taken{OK: t.OK}
			if t.Record != nil {
				r.Record = *t.Record
			}
			r.Record.Partition = t.Partition
			results = append(results, r)
		}
		return answer, err
	})
	return results, err
}

// Records implements lock.Session.
func (s *session) Records(ctx context.Context) (records []lock.Record, err error) {
	err = s.ask(ctx, list, nil, func(result rueidis.RedisResult) (none answer, err error) {
		if text, err := result.ToString(); err == nil {
			return parseAnswer(text)
		}
		fields, err := result.AsStrMap()
		if err != nil {
			return none, err
		}
		records = records[:0]
		for field, value := range fields {
			var r lock.Record
			if err := json.Unmarshal([]byte(value), &r); err != nil {
				return none, fmt.Errorf("%w: %s: %w", errRecord, field, err)
			}
			if r.Partition, err = strconv.Atoi(field); err != nil {
				return none, fmt.Errorf("%w: %q is no partition", errRecord, field)
			}
			records = append(records, r)
		}
		return none, nil
	})
	return records, err
}

// Ended implements lock.Session.
func (s *session) Ended(ctx context.Context, id string) error {
	l := s.locker
	turn := make(chan struct{}, 1)
	if err := l.await(id, turn); err != nil {
		return err
	}
	defer l.forgetEnd(id, turn)
	asking, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.life, cancel)() // Close waits for who asks
	for {
		var left int64
		err := l.insist(asking, func(ctx context.Context) (err error) {
			left, err = ended.Exec(ctx, l.client, l.leaseKeys(id), []string{l.grace()}).AsInt64()
			return err
		})
		switch {
		case err != nil && l.life.Err() != nil:
			return lock.ErrClosed
		case err != nil || left == 0:
			return err
		}
		timer := time.NewTimer(time.Duration(left+1) * time.Millisecond) // it may be renewed
		select {
		case <-turn:
		case <-timer.C:
		case <-asking.Done():
		}
		timer.Stop()
	}
}

// await has a channel told of the end of a lease.
func (l *Locker) await(id string, turn chan struct{}) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return lock.ErrClosed
	}
	l.wg.Add(1)
	if l.ends[id] == nil {
		l.ends[id] = make(map[chan struct{}]struct{})
	}
	l.ends[id][turn] = struct{}{}
	return nil
}

func (l *Locker) forgetEnd(id string, turn chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if delete(l.ends[id], turn); len(l.ends[id]) == 0 {
		delete(l.ends, id)
	}
	l.wg.Done()
}

// wakeEnd tells of the end of a lease.
func (l *Locker) wakeEnd(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for turn := range l.ends[id] {
		wake(turn)
	}
}

// insist does something until the server has answered, or ctx has ended.
func (l *Locker) insist(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.gone, cancel)()
	var last error // what came of it before ctx ended
	for pause := retryLeast; ; pause = min(2*pause, retryMost) {
		trying, cancel := context.WithTimeout(ctx, l.perTry())
		err := do(trying)
		cancel()
		switch {
		case err == nil, errors.Is(err, lock.ErrLost), errors.Is(err, errRecord):
			return err
		case l.gone.Err() != nil:
			return lock.ErrClosed
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

var _ lock.Coordinator = (*Locker)(nil)
