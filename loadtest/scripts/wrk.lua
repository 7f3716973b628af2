-- Used by wrk.sh: each request gets the next key, and a number of its own.
local keys = tonumber(os.getenv("KEYS") or "1000")
local client = os.getenv("CLIENT") or "wrk"
local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("number", threads)
end

function init(args)
  sent = 0
end

function request()
  local key = sent % keys
  local seq = math.floor(sent / keys) + 1
  sent = sent + 1
  return wrk.format("POST", "/orders/" .. key, {
    ["X-Order-Id"] = key,
    ["Content-Type"] = "application/json",
    ["Witness-Key"] = "order:" .. key,
    ["Witness-Client"] = client .. "-" .. number,
    ["Witness-Seq"] = seq,
  }, '{"order_id":"' .. key .. '"}')
end

-- Answers that aren't 2xx or 3xx are counted by wrk itself ("Non-2xx").
