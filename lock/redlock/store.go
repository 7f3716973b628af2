package redlock

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// store is what can be asked of one master.
type store interface {
	acquire(ctx context.Context, q question) (answer, error)
	release(ctx context.Context, q question) error
	renew(ctx context.Context, held []question) ([]int64, error)
	restore(ctx context.Context, q question) (int64, error)
	listen(ctx context.Context, subscribed func(), hear func(id string)) error
	close()
}

// question is what is asked about one place.
type question struct {
	name, id string
	attempt  uint64
	ticket   uint64 // of a release: 0 unless it is a yield
	token    uint64
}

// answer is a master's to an acquire.
type answer struct {
	locked   bool          // its lock is the attempt's
	accepted bool          // and so is the token
	seen     uint64        // the highest number it knows
	left     time.Duration // for which the lock is not free, unless it is released
	rank     int64         // how many are before the place
}

// redisStore is a Redis master.
type redisStore struct {
	client  rueidis.Client
	config  *Config
	channel string
}

// connect makes the store of one master, and says which run of a server it is. It
// refuses a server on which locks would not hold.
func connect(ctx context.Context, config *Config, address, channel string) (store, string, error) {
	client, err := dial(ctx, config, address)
	if err != nil {
		return nil, "", explain(err)
	}
	info, err := ask(ctx, client)
	if err == nil {
		err = judge(info)
	}
	if err != nil {
		client.Close()
		return nil, "", explain(err)
	}
	for _, text := range []string{acquireText, releaseText, renewText, restoreText} {
		client.Do(ctx, client.B().ScriptLoad().Script(text).Build()) // else it gets each with its first use
	}
	return &redisStore{client, config, channel}, info["run_id"], nil
}

func dial(ctx context.Context, config *Config, address string) (rueidis.Client, error) {
	option := rueidis.ClientOption{
		InitAddress: []string{address}, Username: config.Username, Password: config.Password,
		SelectDB: config.DB, TLSConfig: config.TLS,
		ForceSingleClient: true, // never a replica, never another server that somebody tells of
		DisableCache:      true,
		DisableRetry:      true, // retries are made where it is known what they mean
		PipelineMultiplex: -1,   // one connection: what is sent first is done first
		AlwaysPipelining:  true, // a question that is given up does not cost the connection
		ConnWriteTimeout:  max(config.TTL, time.Second),
	}
	if config.Dial != nil {
		option.DialCtxFn = func(ctx context.Context, address string, _ *net.Dialer, secure *tls.Config) (net.Conn, error) {
			conn, err := config.Dial(ctx, address)
			if err != nil || secure == nil {
				return conn, err
			}
			return overTLS(ctx, conn, address, secure)
		}
	}
	type result struct {
		client rueidis.Client
		err    error
	}
	made := make(chan result, 1)
	go func() { // ends when the server has answered, or the dialer's timeout has passed
		client, err := rueidis.NewClient(option)
		made <- result{client, err}
	}()
	select {
	case r := <-made:
		return r.client, r.err
	case <-ctx.Done():
		go func() { // ends with the one above
			if r := <-made; r.err == nil {
				r.client.Close()
			}
		}()
		return nil, fmt.Errorf("it does not answer: %w", ctx.Err())
	}
}

// overTLS does what the client's own dialer would.
func overTLS(ctx context.Context, conn net.Conn, address string, config *tls.Config) (net.Conn, error) {
	if config.ServerName == "" {
		config = config.Clone()
		config.ServerName, _, _ = net.SplitHostPort(address)
	}
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return secure, nil
}

// errRefused is why a master is not used although it answers.
var errRefused = errors.New("refused")

// explain says what to do about an error where the server's word does not.
func explain(err error) error {
	var late net.Error
	refused := func(why string) error { return &refusal{fmt.Errorf("%s: %w", why, err)} }
	switch text := err.Error(); {
	case errors.As(err, &late) && late.Timeout() && !errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("it does not answer: %w", err)
	case strings.Contains(text, "unknown message type"):
		return refused("what listens there is no Redis server")
	case strings.HasPrefix(text, "WRONGPASS"), strings.HasPrefix(text, "NOAUTH"):
		return refused("user name and password")
	case strings.HasPrefix(text, "NOPERM"):
		return refused("the user may not do what locks need")
	}
	return err
}

// refusal is an error that waiting does not mend.
type refusal struct{ error }

func (r *refusal) Unwrap() error      { return r.error }
func (*refusal) Is(target error) bool { return target == errRefused }

func ask(ctx context.Context, client rueidis.Client) (map[string]string, error) {
	text, err := client.Do(ctx, client.B().Arbitrary("INFO").Build()).ToString()
	if err != nil {
		return nil, err
	}
	info := make(map[string]string)
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			info[name] = value
		}
	}
	return info, nil
}

// judge says what is wrong with a server, by its INFO.
func judge(info map[string]string) error {
	major, _, _ := strings.Cut(info["redis_version"], ".")
	refused := func(format string, args ...any) error { return &refusal{fmt.Errorf(format, args...)} }
	switch policy := info["maxmemory_policy"]; {
	case len(major) == 1 && major < "6":
		return refused("it is Redis %s: at least 6 is needed", info["redis_version"])
	case info["role"] != "" && info["role"] != "master":
		return refused("it is a %s: locks need masters", info["role"])
	case info["maxmemory"] != "" && info["maxmemory"] != "0" && policy != "noeviction":
		return refused("it evicts keys when it runs out of memory (maxmemory-policy %s), locks among them: set noeviction, or give locks servers of their own", policy)
	}
	return nil
}

func (s *redisStore) acquire(ctx context.Context, q question) (answer, error) {
	grace := time.Duration(0)
	if s.config.Grace {
		grace = s.config.TTL
	}
	reply, err := acquire.Exec(ctx, s.client, s.keys(q.name), []string{
		q.id, number(q.attempt), s.channel, millis(s.config.TTL), millis(s.config.alive), number(q.ticket), number(q.token), millis(grace), millis(claimIn),
	}).AsIntSlice()
	if err != nil {
		return answer{}, err
	}
	if len(reply) != 4 {
		return answer{}, fmt.Errorf("an answer of %d parts", len(reply))
	}
	return answer{
		locked: reply[0] > 0, accepted: reply[0] == 2, seen: uint64(reply[1]),
		left: time.Duration(reply[2]) * time.Millisecond, rank: reply[3],
	}, nil
}

func (s *redisStore) release(ctx context.Context, q question) error {
	return release.Exec(ctx, s.client, s.keys(q.name), []string{
		q.id, number(q.attempt), millis(claimIn), number(q.ticket), s.channel, millis(s.config.alive), millis(s.config.TTL),
	}).Error()
}

func (s *redisStore) renew(ctx context.Context, held []question) ([]int64, error) {
	keys, args := make([]string, len(held)), []string{millis(s.config.TTL)}
	for i, q := range held {
		keys[i] = s.key("o", q.name)
		args = append(args, q.keeper())
	}
	renewed, err := renew.Exec(ctx, s.client, keys, args).AsIntSlice()
	if err == nil && len(renewed) != len(held) {
		err = fmt.Errorf("%d answers for %d locks", len(renewed), len(held))
	}
	return renewed, err
}

func (s *redisStore) restore(ctx context.Context, q question) (int64, error) {
	return restore.Exec(ctx, s.client, s.keys(q.name), []string{
		q.keeper(), millis(s.config.TTL), number(q.token), q.id,
	}).AsInt64()
}

// listen hears whose turn it is, until the connection or ctx ends.
func (s *redisStore) listen(ctx context.Context, subscribed func(), hear func(id string)) error {
	hooked := rueidis.WithOnSubscriptionHook(ctx, func(rueidis.PubSubSubscription) { subscribed() })
	return s.client.Receive(hooked, s.client.B().Subscribe().Channel(s.channel).Build(), func(m rueidis.PubSubMessage) {
		hear(m.Message)
	})
}

func (s *redisStore) close() { s.client.Close() }

// key is a key of the server. All share a hash tag.
func (s *redisStore) key(kind, name string) string {
	return "{" + s.config.Prefix + "}:" + kind + ":" + name
}

// keys are those of a lock, as scripts want them.
func (s *redisStore) keys(name string) []string {
	return []string{s.key("o", name), s.key("q", name), s.key("w", name), s.key("seq", ""), s.key("epoch", "")}
}

// keeper is what a master's lock says of who has it.
func (q question) keeper() string { return number(q.attempt) + " " + q.id }

func number(n uint64) string { return strconv.FormatUint(n, 10) }

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
