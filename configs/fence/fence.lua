-- Sets or deletes a value in Redis unless a newer request of its key was here before.
--
--   redis-cli --eval fence.lua 'fence:{order:7}' 'value:{order:7}' , 3856315959572692993 paid
--
-- KEYS[1] keeps the highest fence, KEYS[2] the value. The braces keep both on one node
-- of a cluster. ARGV[1] is Lanekeeper-Fence, ARGV[2] the new value; without it the value
-- is deleted. KEYS[1] is not: a fence that is forgotten, or expires, lets late ones in.
--
-- Returns 1 if it wrote, 0 if it refused.
--
-- Fences are compared as strings. Lua's numbers are doubles, and beyond 2^53 two fences
-- that follow each other are the same double. Without leading zeros the longer one is
-- higher, and among equally long ones bytes decide.
local function above(a, b)
	if #a ~= #b then
		return #a > #b
	end
	return a > b
end

local fence = ARGV[1]
if not fence or not string.find(fence, '^[1-9]%d*$') or above(fence, '9223372036854775807') then
	return redis.error_reply('ERR not a fence')
end
local seen = redis.call('GET', KEYS[1])
if seen and above(seen, fence) then
	return 0
end
redis.call('SET', KEYS[1], fence)
if ARGV[2] then
	redis.call('SET', KEYS[2], ARGV[2])
else
	redis.call('DEL', KEYS[2])
end
return 1
