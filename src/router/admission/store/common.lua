-- What is used of an account, and of the reserves on it. Times are in milliseconds of the store's own clock, which is the
-- only one that counts.
--
-- KEYS: a hash and a sorted set for the account, then for each reserve.
--   hash  s<second>    requests of that second
--         2, 3, 4      tokens, tokens of input and of output that had not drained by then: a limit's amount in a minute
--         at2, at3, at4  when that was
--         u1, u2       until when somebody of Medium, of High risk waits
--   set   who is at work, by when that must have ended
-- Kinds: 1 requests, 2 tokens, 3 tokens of input, 4 tokens of output, 5 requests at a time. A limit of -1 is none.

-- Requests of so many seconds count, the one that goes on included: a minute, and what the way to the provider may differ.
local KEPT = 62
local clock = redis.call('TIME')
local second = tonumber(clock[1])
local now = second * 1000 + math.floor(tonumber(clock[2]) / 1000)

local read = 0
local function text()
  read = read + 1
  return ARGV[read]
end
local function number()
  return tonumber(text())
end

local function load(part, limits)
  local state = {hash = KEYS[2 * part + 1], set = KEYS[2 * part + 2], limits = limits, used = {0, 0, 0, 0, 0}, seconds = {}}
  local fields = {}
  local all = redis.call('HGETALL', state.hash)
  for i = 1, #all, 2 do
    local field, value = all[i], tonumber(all[i + 1])
    if string.sub(field, 1, 1) == 's' then
      local began = tonumber(string.sub(field, 2))
      if began <= second - KEPT then
        redis.call('HDEL', state.hash, field)
      else
        state.used[1] = state.used[1] + value
        table.insert(state.seconds, {began, value})
      end
    else
      fields[field] = value
    end
  end
  for kind = 2, 4 do
    local passed = math.max(0, now - (fields['at' .. kind] or now))
    state.used[kind] = math.max(0, (fields[tostring(kind)] or 0) - passed * limits[kind] / 60000)
  end
  state.waits = {fields['u1'] or 0, fields['u2'] or 0}
  redis.call('ZREMRANGEBYSCORE', state.set, '-inf', now)
  state.used[5] = redis.call('ZCARD', state.set)
  return state
end

-- The limits of a reserve: its part, in 1e-9, of those of the account.
local function part_of(limits, nanos)
  local parts = {}
  for kind = 1, 5 do
    parts[kind] = limits[kind] < 0 and -1 or limits[kind] * nanos / 1e9
  end
  return parts
end

-- Writes what is used, and lets what nobody uses be forgotten.
local function save(state, ttl)
  for kind = 2, 4 do
    if state.limits[kind] >= 0 then
      redis.call('HSET', state.hash, tostring(kind), state.used[kind], 'at' .. kind, now)
    end
  end
  redis.call('PEXPIRE', state.hash, 300000)
  redis.call('PEXPIRE', state.set, ttl + 60000)
end
