package redlock

import "github.com/redis/rueidis"

// The scripts. Each is one atomic step of one master, may be sent again after its
// answer was lost, and is named by what it is for. Keys, in this order:
//
//	holder  string  "FLOOR TTL ATTEMPT ID" of who has this master's lock; it expires
//	                with the lease. FLOOR is what its token must exceed
//	queue   zset    ID by ticket: who waits
//	waiters hash    ID to "DEADLINE CHANNEL": until when (ms) it is taken for alive,
//	                and where it hears that it is its turn
//	seq     string  the highest ticket or token that was seen here; of all names
//	epoch   hash    run, born: since when (ms) this server has had its data; of all
//	                names
//
// Time is the master's; tickets and tokens are the clients', in microseconds. Numbers
// beyond 2^53 would be rounded by Lua; the clients make none (see numbers).

// heads defines head(): the first in the queue that is alive, or false; those before
// it are dropped, since their node died, or lost its way here for long. It defines
// tell(), which tells the first that the lock is free, who has some time (ms) to come
// for it then, and enter(), which puts ID into the queue, for as long as it is alive.
const heads = `
local function clock()
	local t = redis.call('TIME')
	return t[1] * 1000000 + t[2]
end
local function head(now)
	while true do
		local first = redis.call('ZRANGE', KEYS[2], 0, 0)[1]
		if not first then return false end
		local waiter = redis.call('HGET', KEYS[3], first)
		if waiter and tonumber(string.match(waiter, '^%d+')) >= now then
			return first, waiter
		end
		redis.call('ZREM', KEYS[2], first)
		redis.call('HDEL', KEYS[3], first)
	end
end
local function tell(heir, waiter, now, claim)
	local deadline, channel = string.match(waiter, '^(%d+) (.*)$')
	deadline = math.min(tonumber(deadline), now + claim)
	redis.call('HSET', KEYS[3], heir, string.format('%.0f %s', deadline, channel))
	redis.call('PUBLISH', channel, heir)
end
local function enter(id, ticket, channel, now, alive, ttl)
	redis.call('ZADD', KEYS[2], ticket, id)
	redis.call('HSET', KEYS[3], id, string.format('%.0f %s', now + alive, channel))
	redis.call('PEXPIRE', KEYS[2], alive + ttl)
	redis.call('PEXPIRE', KEYS[3], alive + ttl)
end
`

// acquireText gives this master's lock to an attempt of ID, or queues it, and accepts
// its token. It is the question whose turn it is as well, and the sign that ID is
// alive. Arguments: ID, the attempt's number, channel, TTL, how long a waiter is taken
// for alive, ticket, token, grace, how long one may take to come for a free lock; all
// times in ms.
//
// It returns {2: the lock is the attempt's, and its token accepted; 1: the lock alone;
// 0: neither, the highest number seen here, how long the lock will not be free unless
// it is released (ms), how many are before ID}.
//
// A token is accepted if it exceeds the floor: what had been seen when the lock was
// taken. No token of this name has been accepted here since, so the lock's keeper
// needs no more, however many tokens of other names are.
//
// Of the attempts of an ID the latest counts, in whatever order they come.
//
// Grace answers the loss of data, as in the sibling for one server: a master whose
// run_id is new, or whose epoch is gone, grants nothing until all that it may have
// forgotten has ended. What it may have forgotten of tokens it makes up for by its
// clock.
const acquireText = heads + `
local id, attempt, channel, ttl, alive = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local ticket, token, grace, claim = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local us = clock()
local now = math.floor(us / 1000)
local known = tonumber(redis.call('GET', KEYS[4]) or 0)
local seq = known
if known == 0 then seq = us end

local closed = 0
if grace > 0 then
	local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
	local epoch = redis.call('HMGET', KEYS[5], 'run', 'born')
	local born = tonumber(epoch[2] or 0)
	if epoch[1] ~= run or born > now then -- the latter: its clock was set back
		redis.call('HSET', KEYS[5], 'run', run, 'born', now)
		born = now
		seq = math.max(seq, us)
	end
	closed = math.max(born + grace - now, 0)
end
local function answer(state, left, rank)
	if seq > known then redis.call('SET', KEYS[4], string.format('%.0f', seq)) end
	return {state, seq, left, rank}
end
local function taken(floor)
	if token <= floor then return answer(1, 0, 0) end
	seq = math.max(seq, token)
	return answer(2, 0, 0)
end

local holder = redis.call('GET', KEYS[1])
local left, freed = closed, false
if holder then
	local floor, most, n, of = string.match(holder, '^(%d+) (%d+) (%d+) (.*)$')
	n = tonumber(n)
	if of == id and n == attempt and closed == 0 then
		redis.call('PEXPIRE', KEYS[1], ttl)
		return taken(tonumber(floor))
	elseif of == id and n > attempt then
		return answer(0, redis.call('PTTL', KEYS[1]), 1) -- nobody waits for that any more
	elseif of == id and n < attempt then
		redis.call('DEL', KEYS[1])
		holder, freed = false, true
	else
		left = redis.call('PTTL', KEYS[1])
		if left > tonumber(most) then -- the master's clock was set back
			redis.call('PEXPIRE', KEYS[1], most)
			left = tonumber(most)
		end
		left = math.max(left, closed)
	end
end

enter(id, ticket, channel, now, alive, ttl)
local heir, waiter = head(now)
if heir == id and not holder and closed == 0 then
	redis.call('SET', KEYS[1], string.format('%.0f %d %.0f %s', seq, ttl, attempt, id), 'PX', ttl)
	redis.call('ZREM', KEYS[2], id)
	redis.call('HDEL', KEYS[3], id)
	return taken(seq)
end
if freed and heir ~= id then tell(heir, waiter, now, claim) end
seq = math.max(seq, ticket)
return answer(0, left, redis.call('ZRANK', KEYS[2], id))
`

// releaseText takes this master's lock from ID, if an attempt of it up to the given one
// has it, and ID out of the queue, unless it has a ticket and yields: then it is in
// the queue afterwards. It tells who is first, if that is news. Arguments: ID, the
// attempt's number, claim (as above), ticket or 0, channel, how long a waiter is taken
// for alive, TTL.
//
// It returns 1 if ID had the lock.
const releaseText = heads + `
local id, attempt, claim, ticket, channel = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5]
local now = math.floor(clock() / 1000)
local first = redis.call('ZRANGE', KEYS[2], 0, 0)[1]
redis.call('ZREM', KEYS[2], id)
redis.call('HDEL', KEYS[3], id)
local holder = redis.call('GET', KEYS[1])
local had = 0
if holder then
	local n, of = string.match(holder, '^%d+ %d+ (%d+) (.*)$')
	if of == id and tonumber(n) <= attempt then
		redis.call('DEL', KEYS[1])
		holder, had = false, 1
	end
end
if ticket ~= '0' then enter(id, ticket, channel, now, tonumber(ARGV[6]), tonumber(ARGV[7])) end
if holder and first ~= id then return had end
local heir, waiter = head(now)
if heir and heir ~= id then
	if holder then
		redis.call('PUBLISH', string.match(waiter, '^%d+ (.*)$'), heir)
	else
		tell(heir, waiter, now, claim)
	end
end
return had
`

// renewText makes locks last for the TTL from now. Keys: holders. Arguments: TTL (ms),
// and for each key the "ATTEMPT ID" that must have it. It returns for each 1; 0 if
// nobody has it; -1 if another has.
const renewText = `
local renewed = {}
for i, key in ipairs(KEYS) do
	local holder = redis.call('GET', key)
	if not holder then
		renewed[i] = 0
	elseif string.match(holder, '^%d+ %d+ (.*)$') == ARGV[i + 1] then
		redis.call('PEXPIRE', key, ARGV[1])
		renewed[i] = 1
	else
		renewed[i] = -1
	end
end
return renewed
`

// restoreText gives this master's lock, if nobody has it, to an attempt that a
// majority of the masters has granted, and takes it out of the queue. Arguments:
// "ATTEMPT ID", TTL (ms), token, ID. It returns as renewText does for one.
const restoreText = `
local token = tonumber(ARGV[3])
local holder = redis.call('GET', KEYS[1])
if holder and string.match(holder, '^%d+ %d+ (.*)$') ~= ARGV[1] then return -1 end
redis.call('SET', KEYS[1], string.format('%.0f %s %s', token, ARGV[2], ARGV[1]), 'PX', ARGV[2])
redis.call('ZREM', KEYS[2], ARGV[4])
redis.call('HDEL', KEYS[3], ARGV[4])
local known = tonumber(redis.call('GET', KEYS[4]) or 0)
local t = redis.call('TIME')
local seq = math.max(token, known > 0 and known or t[1] * 1000000 + t[2])
if seq > known then redis.call('SET', KEYS[4], string.format('%.0f', seq)) end
return 1
`

var (
	acquire = rueidis.NewLuaScript(acquireText)
	release = rueidis.NewLuaScript(releaseText)
	renew   = rueidis.NewLuaScript(renewText)
	restore = rueidis.NewLuaScript(restoreText)
)
