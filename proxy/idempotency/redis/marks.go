package redis

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/redis/rueidis"

	"lanekeeper/proxy/sequence"
)

// saveText raises a mark. Arguments: the mark, ttl in ms. It returns 1, or 0 if the key
// has something else. A mark is compared as text: a number of Lua has 53 bits. One that is
// there is raised though the server is at its maxmemory, for its number has been run: the
// script writes first what needs no room.
const saveText = `
local known = redis.call('GET', KEYS[1])
if known and #known ~= #ARGV[1] then return 0 end
if known and known > ARGV[1] then return 1 end
local ttl = math.max(tonumber(ARGV[2]), redis.call('PTTL', KEYS[1]))
if known then redis.call('PEXPIRE', KEYS[1], ttl) end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ttl)
return 1
`

var save = rueidis.NewLuaScript(saveText)

// markForm is a mark's epoch and number, each with the digits of the largest one, so that
// the higher of two is the greater text.
const markForm = "%020d %020d"

func (s *server) markKey(key []byte, producer string) string {
	name := sequence.Name(key, producer)
	return s.prefix + "seq:" + hex.EncodeToString(name[:])
}

// Load implements sequence.Store.
func (s *Store) Load(ctx context.Context, key []byte, producer string) (epoch, done uint64, known bool, err error) {
	err = s.Ask(ctx, func(ctx context.Context) error {
		client := s.server.client
		text, err := client.Do(ctx, client.B().Get().Key(s.server.markKey(key, producer)).Build()).ToString()
		if rueidis.IsRedisNil(err) {
			epoch, done, known = 0, 0, false
			return nil
		}
		if err == nil {
			_, err = fmt.Sscanf(text, markForm, &epoch, &done)
			known = err == nil
		}
		if err != nil {
			return s.server.wrap(err)
		}
		return nil
	})
	return epoch, done, known, err
}

// Save implements sequence.Store.
func (s *Store) Save(ctx context.Context, key []byte, n sequence.Number, ttl time.Duration) error {
	return s.Ask(ctx, func(ctx context.Context) error {
		kept, err := save.Exec(ctx, s.server.client, []string{s.server.markKey(key, n.Producer)},
			[]string{fmt.Sprintf(markForm, n.Epoch, n.Seq), millis(ttl)}).AsInt64()
		if err == nil && kept != 1 {
			err = errAnswer
		}
		if err != nil {
			return s.server.wrap(err)
		}
		return nil
	})
}

var _ sequence.Store = (*Store)(nil)
