package redis

import "github.com/redis/rueidis"

// The scripts. Each is one atomic step of the store, may be sent again after its
// answer was lost, and is named by what it is for. Keys, in this order:
//
//	holder  string  "TOKEN TTL ID" of who holds the lock; it expires with the lease
//	queue   zset    ID by ticket: who waits
//	waiters hash    ID to "DEADLINE CHANNEL": until when (ms) it is taken for alive,
//	                and where it hears that it is its turn
//	seq     string  the last ticket or token; of all names
//	epoch   hash    run, born: since when (ms) this server has had its data; of all
//	                names
//	lease   string  the epoch in which a node's lease was begun; it expires with it
//	records hash    record by partition
//
// Time is the server's. Numbers beyond 2^53 would be rounded by Lua; microseconds
// reach that in the year 2255.

// heads defines head(): the first in the queue that is alive, or false. Those
// before it are dropped: their node died, or lost its way to the store for long.
const heads = `
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
` + clocks

// clocks defines clock(): the time in us; and grace(): the epoch as text, and for how
// long (ms) nothing is granted in it. Without grace there is one epoch.
//
// Grace answers the loss of data: a server that was restarted, or flushed, or
// promoted to master, does not know what it, or its predecessor, has granted. Its
// run_id, or the lack of what was written with it, tells; then nothing is granted
// until every lease of before has ended. That is asked in each script, since a
// client cannot know on which server's connection it will run.
const clocks = `
local function clock()
	local t = redis.call('TIME')
	return t[1] * 1000000 + t[2]
end
local function grace(key, ms, us)
	if ms == 0 then return '', 0 end
	local now = math.floor(us / 1000)
	local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
	local epoch = redis.call('HMGET', key, 'run', 'born')
	local born = tonumber(epoch[2] or 0)
	if epoch[1] ~= run or born > now then -- the latter: its clock was set back
		redis.call('HSET', key, 'run', run, 'born', now)
		born = now
	end
	return run .. ' ' .. born, math.max(born + ms - now, 0)
end
`

// acquireText grants the lock to ID, or queues it. It is the question whose turn it is
// as well, and the sign that ID is alive. Arguments: ID, channel, TTL, how long a
// waiter is taken for alive, its ticket if it ever had one, grace, all times in ms.
//
// It returns {1, token}, or {0, ticket, how long the lock will not be free unless
// it is released (ms), how many are before it}.
const acquireText = heads + `
local id, channel, ttl, alive, ticket = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local us = clock()
local now = math.floor(us / 1000)
local function next()
	local seq = math.max(tonumber(redis.call('GET', KEYS[4]) or 0) + 1, us)
	local text = string.format('%.0f', seq)
	redis.call('SET', KEYS[4], text)
	return text
end

local _, closed = grace(KEYS[5], tonumber(ARGV[6]), us)
local holder = redis.call('GET', KEYS[1])
local left = closed
if holder then
	local token, most, of = string.match(holder, '^(%d+) (%d+) (.*)$')
	if of == id and closed == 0 then
		redis.call('PEXPIRE', KEYS[1], ttl)
		return {1, token}
	end
	left = redis.call('PTTL', KEYS[1])
	if left > tonumber(most) then -- the server's clock was set back
		redis.call('PEXPIRE', KEYS[1], most)
		left = tonumber(most)
	end
	left = math.max(left, closed)
end

local place = redis.call('ZSCORE', KEYS[2], id)
if not place then
	if ticket == '0' then ticket = next() end
	redis.call('ZADD', KEYS[2], ticket, id)
	place = ticket
end
redis.call('HSET', KEYS[3], id, string.format('%.0f %s', now + alive, channel))
redis.call('PEXPIRE', KEYS[2], alive + ttl)
redis.call('PEXPIRE', KEYS[3], alive + ttl)
if head(now) == id and not holder and closed == 0 then
	local token = next()
	redis.call('SET', KEYS[1], string.format('%s %d %s', token, ttl, id), 'PX', ttl)
	redis.call('ZREM', KEYS[2], id)
	redis.call('HDEL', KEYS[3], id)
	return {1, token}
end
return {0, string.format('%.0f', place), left, redis.call('ZRANK', KEYS[2], id)}
`

// releaseText takes ID out of the queue, and the lock from it if it has it, and tells
// who is first in the queue, if that is news. Arguments: ID, and how long (ms) who
// is told may take to come for it before it is taken for dead.
//
// It returns 1 if ID had the lock.
const releaseText = heads + `
local id, claim = ARGV[1], tonumber(ARGV[2])
local now = math.floor(clock() / 1000)
local first = redis.call('ZRANGE', KEYS[2], 0, 0)[1]
redis.call('ZREM', KEYS[2], id)
redis.call('HDEL', KEYS[3], id)
local holder = redis.call('GET', KEYS[1])
local had = 0
if holder and string.match(holder, '^%d+ %d+ (.*)$') == id then
	redis.call('DEL', KEYS[1])
	holder, had = false, 1
end
if holder and first ~= id then return had end
local heir, waiter = head(now)
if heir then
	local deadline, channel = string.match(waiter, '^(%d+) (.*)$')
	if not holder then
		deadline = math.min(tonumber(deadline), now + claim)
		redis.call('HSET', KEYS[3], heir, string.format('%.0f %s', deadline, channel))
	end
	redis.call('PUBLISH', channel, heir)
end
return had
`

// renewText makes leases last for the TTL from now. Keys: holders. Arguments: TTL (ms),
// and for each key what it must hold. It returns 1 or 0 for each.
const renewText = `
local renewed = {}
for i, key in ipairs(KEYS) do
	if redis.call('GET', key) == ARGV[i + 1] then
		redis.call('PEXPIRE', key, ARGV[1])
		renewed[i] = 1
	else
		renewed[i] = 0
	end
end
return renewed
`

// beginText begins a lease, as one of the present epoch. Keys: the lease, the epoch.
// Arguments: TTL, grace (ms).
const beginText = clocks + `
local epoch = grace(KEYS[2], tonumber(ARGV[2]), clock())
redis.call('SET', KEYS[1], epoch, 'PX', ARGV[1])
return 1
`

// prolongText has a lease last for the TTL from now. Keys and arguments: as beginText's.
// It returns 0 if the lease has ended. One of another epoch has: of what was
// written under it the server may have lost some, and kept the lease.
const prolongText = clocks + `
local epoch = grace(KEYS[2], tonumber(ARGV[2]), clock())
if redis.call('GET', KEYS[1]) ~= epoch then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[1])
`

// endedText returns for how long (ms) a lease may go on, unless it is renewed; 0: it has
// ended. In what the server does not know its holder may believe, as long as nothing is
// granted. Keys: the lease, the epoch. Argument: grace (ms).
const endedText = clocks + `
local epoch, closed = grace(KEYS[2], tonumber(ARGV[1]), clock())
if redis.call('GET', KEYS[1]) ~= epoch then return closed end
return math.max(redis.call('PTTL', KEYS[1]), 1, closed)
`

// records defines what scripts about records share. Keys: the lease of who asks, the
// records, the epoch. The first arguments: the lease, grace (ms). A record is JSON, as
// lock.Record is. Numbers stay below 2^53.
const records = clocks + `
local us = clock()
local epoch, closed = grace(KEYS[3], tonumber(ARGV[2]), us)
local function get(p)
	local text = redis.call('HGET', KEYS[2], p)
	if text then return cjson.decode(text) end
	return {holder = '', tenure = 0, stamp = 0}
end
local function put(p, r)
	if r.prev == '' then r.prev = nil end
	if not r.prev then r.prev_tenure = nil end
	redis.call('HSET', KEYS[2], p, cjson.encode(r))
end
local function stamp(last)
	return math.max(last + 1, math.floor(us / 1000000) * 256 + math.floor(us % 1000000 * 256 / 1000000))
end
local taken = {}
local function tell(ok, p, r)
	taken[#taken + 1] = {ok = ok, partition = tonumber(p), record = r}
end
local function answer()
	if #taken == 0 then return '{}' end
	return cjson.encode({taken = taken})
end
if redis.call('GET', KEYS[1]) ~= epoch then return '{"ended":true}' end
`

// takeText takes partitions, by the rule of lock.Record.Decide. Arguments: what lease
// keys begin with; and for each take its partition, holder, tenure, given and draining.
const takeText = records + `
local self, leases = ARGV[1], ARGV[3]
if closed > 0 then return cjson.encode({closed = closed}) end
local alive = {}
local function lives(id)
	if not id or id == '' or id == self then return false end
	if alive[id] == nil then alive[id] = redis.call('GET', leases .. id) == epoch end
	return alive[id]
end
for i = 4, #ARGV, 5 do
	local p, holder, tenure, given, draining = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3] == '1', ARGV[i + 4] == '1'
	local r = get(p)
	local at = r.holder or ''
	local drains = given and draining and at ~= self
	if at == self and r.tenure == tenure + 1 then -- by an earlier attempt
		tell(true, p, r)
	elseif at ~= holder or r.tenure ~= tenure or not given and lives(at) or drains and lives(r.prev) then
		tell(false, p, r)
	else
		local next = {holder = self, tenure = r.tenure + 1, stamp = stamp(r.stamp)}
		if lives(r.prev) then
			next.prev, next.prev_tenure = r.prev, r.prev_tenure
		elseif drains and lives(at) then
			next.prev, next.prev_tenure = at, r.tenure
		end
		put(p, next)
		tell(true, p, next)
	end
end
return answer()
`

// drawText raises a stamp. Arguments: the partition, the tenure.
const drawText = records + `
local r = get(ARGV[3])
local mine = r.holder == ARGV[1] and r.tenure == tonumber(ARGV[4])
if mine then
	r.stamp = stamp(r.stamp)
	put(ARGV[3], r)
end
tell(mine, ARGV[3], r)
return answer()
`

// clearText notes that a lease runs nothing any more of what it has given away.
// Arguments: for each its partition and tenure.
const clearText = records + `
for i = 3, #ARGV, 2 do
	local r = get(ARGV[i])
	if r.prev == ARGV[1] and r.prev_tenure == tonumber(ARGV[i + 1]) then
		r.prev = nil
		put(ARGV[i], r)
	end
end
return answer()
`

// listText returns all records, if the lease goes on.
const listText = records + `
return redis.call('HGETALL', KEYS[2])
`

// giveUpText ends a lease, and tells who waits for that. Keys: the lease, the channel.
const giveUpText = `
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', KEYS[2], ARGV[1])
return 1
`

var (
	take      = rueidis.NewLuaScript(takeText)
	draw      = rueidis.NewLuaScript(drawText)
	clearPrev = rueidis.NewLuaScript(clearText)
	list      = rueidis.NewLuaScript(listText)
	begin     = rueidis.NewLuaScript(beginText)
	prolong   = rueidis.NewLuaScript(prolongText)
	ended     = rueidis.NewLuaScript(endedText)
	giveUp    = rueidis.NewLuaScript(giveUpText)
	acquire   = rueidis.NewLuaScript(acquireText)
	release   = rueidis.NewLuaScript(releaseText)
	renew     = rueidis.NewLuaScript(renewText)
)
