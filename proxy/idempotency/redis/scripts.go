package redis

import "github.com/redis/rueidis"

// The scripts of records. Each is one atomic step for one name, and may be sent again after its
// answer was lost. The key is a hash, which expires with the record:
//
//	s  state: 1 running, 2 done, 3 unknown
//	n  nonce of the claim that is there, or was the last
//	p  print
//	u  of running: when the lease ends, in ms of the server's clock
//	c, x, h, b  of done: status; 1 if it is bare; head; body
//
// Those that change a claim return 0 if it was lost, 1 if there is no record, 2 if it is
// as was asked: the values of idempotency.Answer.

const now = `
local function now()
	local t = redis.call('TIME')
	return t[1] * 1000 + math.floor(t[2] / 1000)
end
`

// roomy has what a script writes find its room, on a server that is at its maxmemory: one
// that has written already may go on, and this writes nothing. It is for claims that were
// made; new ones are refused.
const roomy = `
redis.call('HDEL', KEYS[1], '')
`

// claimText claims a name. Arguments: nonce, print, lease, TTL, both in ms, and 1 if what
// is unknown may be claimed anew. It returns {0}; {1, print, how long the lease lasts};
// {2, print, status, bare, head, body}; or {3, print}.
const claimText = now + `
local nonce, print, lease, ttl, again = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5] == '1'
local r = redis.call('HMGET', KEYS[1], 's', 'n', 'p', 'u', 'c', 'x', 'h', 'b')
local time = now()
if r[1] == '2' then return {2, r[3], r[5], r[6], r[7], r[8]} end
if r[1] and not (r[1] == '1' and r[2] == nonce) then
	local left = r[1] == '1' and tonumber(r[4]) - time or 0
	if left > 0 then return {1, r[3], left} end
	if not (again and r[3] == print) then return {3, r[3]} end
end
redis.call('HSET', KEYS[1], 's', 1, 'n', nonce, 'p', print, 'u', string.format('%.0f', time + lease))
redis.call('PEXPIRE', KEYS[1], math.max(ttl, lease))
return {0}
`

// finishText keeps a reply. Arguments: nonce, status, bare, head, body.
const finishText = `
local r = redis.call('HMGET', KEYS[1], 's', 'n')
if not r[1] then return 1 end
if r[2] ~= ARGV[1] or r[1] == '3' then return 0 end
` + roomy + `redis.call('HSET', KEYS[1], 's', 2, 'c', ARGV[2], 'x', ARGV[3], 'h', ARGV[4], 'b', ARGV[5])
return 2
`

// loseText makes a name unknown. Argument: nonce.
const loseText = `
local r = redis.call('HMGET', KEYS[1], 's', 'n')
if not r[1] then return 1 end
if r[2] ~= ARGV[1] or r[1] == '2' then return 0 end
` + roomy + `redis.call('HSET', KEYS[1], 's', 3)
return 2
`

// forgetText deletes a name. Argument: nonce.
const forgetText = `
local r = redis.call('HMGET', KEYS[1], 's', 'n')
if not r[1] then return 1 end
if r[2] ~= ARGV[1] or r[1] ~= '1' then return 0 end
redis.call('DEL', KEYS[1])
return 2
`

// renewText has a lease begin again. Arguments: nonce, lease in ms. The record lasts at
// least as long.
const renewText = now + `
local r = redis.call('HMGET', KEYS[1], 's', 'n')
if not r[1] then return 1 end
if r[2] ~= ARGV[1] or r[1] ~= '1' then return 0 end
` + roomy + `local lease = tonumber(ARGV[2])
redis.call('HSET', KEYS[1], 'u', string.format('%.0f', now() + lease))
if redis.call('PTTL', KEYS[1]) < lease then redis.call('PEXPIRE', KEYS[1], lease) end
return 2
`

var (
	claim  = rueidis.NewLuaScript(claimText)
	finish = rueidis.NewLuaScript(finishText)
	lose   = rueidis.NewLuaScript(loseText)
	forget = rueidis.NewLuaScript(forgetText)
	renew  = rueidis.NewLuaScript(renewText)
)
