// Package redis keeps what became of requests, and which numbers of their producers are
// done, in one Redis server, for all nodes. See the idempotency and sequence packages for
// what such stores promise; this is what they rest on here.
//
// A name is one key, a hash that expires with the record; a producer of a lane is another,
// with its mark. Each step is one command or script on that key, judged by the server's
// clock; so the keys of all names may lie in different hash slots. It is made for one
// master all the same: a cluster is not promised to work.
//
// It holds as long as the master loses nothing: what is lost with it, by a restart
// without its data or a failover to a replica that lagged, is forgotten, and may be
// executed again. A clock that is set forward has leases and records end early. A server
// that evicts keys is refused. One that is at its maxmemory is full.
package redis

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"lanekeeper/proxy/idempotency"
)

// Config says which server, and how names are kept there.
type Config struct {
	Address            string // host:port
	Username, Password string // empty: none
	DB                 int
	TLS                *tls.Config // nil: none

	// Prefix begins every key: a name's is the prefix, "idem:", and its ID in hex; a
	// mark's "seq:", and what sequence.Name calls it, in hex.
	Prefix string

	// Timeout bounds each call, with its repetitions; at least 10 ms. It should be less
	// than a third of the shortest lease.
	Timeout time.Duration
}

func (c *Config) validate() error {
	if c.Timeout < 10*time.Millisecond {
		return fmt.Errorf("a timeout of %v is too short: at least 10ms", c.Timeout)
	}
	return nil
}

// Store keeps records and marks, through the same connections. It implements
// idempotency.Store and sequence.Store.
type Store struct {
	*idempotency.Remote
	server *server
}

// Open connects to the server and returns when it can be used. It refuses a server that
// is no master, or that evicts keys. ctx bounds Open alone.
func Open(ctx context.Context, config Config) (*Store, error) {
	s, err := open(ctx, &config)
	if err != nil {
		return nil, fmt.Errorf("redis %s: %w", config.Address, err)
	}
	return &Store{idempotency.NewRemote(s, config.Timeout), s}, nil
}

func open(ctx context.Context, config *Config) (*server, error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	client, err := connect(ctx, config)
	if err != nil {
		return nil, explain(err)
	}
	s := &server{client: client, address: config.Address, prefix: config.Prefix}
	if err := s.check(ctx); err != nil {
		client.Close()
		return nil, explain(err)
	}
	return s, nil
}

func connect(ctx context.Context, config *Config) (rueidis.Client, error) {
	option := rueidis.ClientOption{
		InitAddress: []string{config.Address}, Username: config.Username, Password: config.Password,
		SelectDB: config.DB, TLSConfig: config.TLS,
		ForceSingleClient: true, // never a replica, never another server that somebody tells of
		DisableCache:      true,
		DisableRetry:      true, // retries are made where it is known what they mean
		ConnWriteTimeout:  max(config.Timeout, time.Second),
		Dialer:            net.Dialer{Timeout: config.Timeout},
	}
	type result struct {
		client rueidis.Client
		err    error
	}
	made := make(chan result) // to whoever still wants it
	go func() {               // ends when the server has answered, or the connection's timeout has passed
		client, err := rueidis.NewClient(option)
		select {
		case made <- result{client, err}:
		case <-ctx.Done():
			if err == nil {
				client.Close()
			}
		}
	}()
	select {
	case r := <-made:
		return r.client, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("it does not answer: %w", ctx.Err())
	}
}

// explain says what to do about an error where the server's word does not.
func explain(err error) error {
	switch text := err.Error(); {
	case strings.Contains(text, "unknown message type"):
		return fmt.Errorf("what listens there is no Redis server: %w", err)
	case strings.HasPrefix(text, "WRONGPASS"), strings.HasPrefix(text, "NOAUTH"):
		return fmt.Errorf("user name and password: %w", err)
	case strings.HasPrefix(text, "NOPERM"):
		return fmt.Errorf("the user may not do what records need: %w", err)
	}
	return err
}

// server implements idempotency.Server.
type server struct {
	client          rueidis.Client
	address, prefix string
}

// check refuses a server that would forget, or has nothing to say.
func (s *server) check(ctx context.Context) error {
	text, err := s.client.Do(ctx, s.client.B().Arbitrary("INFO").Build()).ToString()
	if err != nil {
		return err
	}
	info := make(map[string]string)
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			info[name] = value
		}
	}
	switch policy := info["maxmemory_policy"]; {
	case info["role"] != "" && info["role"] != "master":
		return fmt.Errorf("it is a %s: records need the master", info["role"])
	case info["maxmemory"] != "" && info["maxmemory"] != "0" && policy != "noeviction":
		return fmt.Errorf("it evicts keys when it runs out of memory (maxmemory-policy %s), records among them: set noeviction, or give records a server of their own", policy)
	}
	return nil
}

func (s *server) keys(id idempotency.ID) []string {
	return []string{s.prefix + "idem:" + hex.EncodeToString(id[:])}
}

func (s *server) wrap(err error) error {
	return fmt.Errorf("redis %s: %w", s.address, err)
}

var errAnswer = errors.New("its answer is none of the script's: the key is somebody else's")

// Claim implements idempotency.Server.
func (s *server) Claim(ctx context.Context, c idempotency.Claim, r *idempotency.Request) (idempotency.Record, error) {
	reply, err := claim.Exec(ctx, s.client, s.keys(c.ID), []string{
		string(c.Nonce[:]), string(r.Print[:]), millis(c.Lease), millis(r.TTL), flag(r.Again),
	}).ToArray()
	if err == nil {
		var known idempotency.Record
		if known, err = record(reply, r.Print); err == nil {
			return known, nil
		}
	}
	if refusal, ok := rueidis.IsRedisErr(err); ok && strings.HasPrefix(refusal.Error(), "OOM ") {
		err = fmt.Errorf("%w: %w", idempotency.ErrFull, err)
	}
	return idempotency.Record{}, s.wrap(err)
}

// record reads the answer to a claim.
func record(reply []rueidis.RedisMessage, asked idempotency.Print) (idempotency.Record, error) {
	if len(reply) == 0 {
		return idempotency.Record{}, errAnswer
	}
	state, err := reply[0].AsInt64()
	known := idempotency.Record{State: idempotency.State(state), Print: asked}
	if err != nil || known.State == idempotency.New {
		return known, err
	}
	want := map[idempotency.State]int{idempotency.Running: 3, idempotency.Done: 6, idempotency.Unknown: 2}[known.State]
	if len(reply) != want {
		return known, errAnswer
	}
	print, err := reply[1].ToString()
	if err != nil || len(print) != len(known.Print) {
		return known, errors.Join(errAnswer, err)
	}
	copy(known.Print[:], print)
	switch known.State {
	case idempotency.Running:
		left, err := reply[2].AsInt64()
		known.Until = time.Duration(left) * time.Millisecond
		return known, err
	case idempotency.Done:
		known.Reply, err = stored(reply[2:])
	}
	return known, err
}

func stored(reply []rueidis.RedisMessage) (kept idempotency.Reply, err error) {
	status, err := reply[0].AsInt64()
	if err != nil {
		return kept, err
	}
	bare, err := reply[1].ToString()
	if err != nil {
		return kept, err
	}
	kept.Status, kept.Bare = int(status), bare == "1"
	if kept.Head, err = reply[2].AsBytes(); err != nil {
		return kept, err
	}
	kept.Body, err = reply[3].AsBytes()
	return kept, err
}

// Finish implements idempotency.Server.
func (s *server) Finish(ctx context.Context, c idempotency.Claim, reply idempotency.Reply) (idempotency.Answer, error) {
	return s.answer(finish.Exec(ctx, s.client, s.keys(c.ID), []string{
		string(c.Nonce[:]), strconv.Itoa(reply.Status), flag(reply.Bare), string(reply.Head), string(reply.Body),
	}))
}

// Lose implements idempotency.Server.
func (s *server) Lose(ctx context.Context, claims []idempotency.Claim) ([]idempotency.Answer, error) {
	return s.each(ctx, lose, claims, false)
}

// Forget implements idempotency.Server.
func (s *server) Forget(ctx context.Context, claims []idempotency.Claim) ([]idempotency.Answer, error) {
	return s.each(ctx, forget, claims, false)
}

// Renew implements idempotency.Server.
func (s *server) Renew(ctx context.Context, claims []idempotency.Claim) ([]idempotency.Answer, error) {
	return s.each(ctx, renew, claims, true)
}

// each runs a script for each claim; they all go out at once.
func (s *server) each(ctx context.Context, script *rueidis.Lua, claims []idempotency.Claim, lease bool) ([]idempotency.Answer, error) {
	if len(claims) == 1 && !lease { // without asking whether the server has the script
		answer, err := s.answer(script.Exec(ctx, s.client, s.keys(claims[0].ID), []string{string(claims[0].Nonce[:])}))
		return []idempotency.Answer{answer}, err
	}
	var all []rueidis.LuaExec
	for i := range claims {
		args := []string{string(claims[i].Nonce[:])}
		if lease {
			args = append(args, millis(claims[i].Lease))
		}
		all = append(all, rueidis.LuaExec{Keys: s.keys(claims[i].ID), Args: args})
	}
	var answers []idempotency.Answer
	for _, result := range script.ExecMulti(ctx, s.client, all...) {
		answer, err := s.answer(result)
		if err != nil {
			return nil, err
		}
		answers = append(answers, answer)
	}
	return answers, nil
}

func (s *server) answer(result rueidis.RedisResult) (idempotency.Answer, error) {
	answer, err := result.AsInt64()
	if err == nil && (answer < int64(idempotency.Lost) || answer > int64(idempotency.Kept)) {
		err = errAnswer
	}
	if err != nil {
		return idempotency.Lost, s.wrap(err)
	}
	return idempotency.Answer(answer), nil
}

// Close implements idempotency.Server.
func (s *server) Close() { s.client.Close() }

func millis(d time.Duration) string {
	return strconv.FormatInt(max((d+time.Millisecond-1).Milliseconds(), 1), 10)
}

func flag(is bool) string {
	if is {
		return "1"
	}
	return "0"
}
