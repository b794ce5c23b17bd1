-- Notes what became of requests, whether there is room for that or not.
--
-- ARGV: milliseconds for which a request counts at most, five limits, each reserve's part in 1e-9; then for the account and
-- each reserve: tokens of three kinds that were used more, or less, than the store knows; a number of pairs of seconds that
-- have passed and requests in them; a number of ids that are at work; a number of ids that are not.
-- Returns a name for what the store remembers: it is another one when it has forgotten all.
local ttl, limits, nanos = number(), {}, {}
for kind = 1, 5 do
  limits[kind] = number()
end
local reserves = #KEYS / 2 - 1
for reserve = 1, reserves do
  nanos[reserve] = number()
end
redis.call('HSETNX', KEYS[1], 'memory', clock[1] .. clock[2])
for part = 0, reserves do
  local state = load(part, part == 0 and limits or part_of(limits, nanos[part]))
  for kind = 2, 4 do
    state.used[kind] = math.max(0, state.used[kind] + number())
  end
  for _ = 1, number() do
    local ago, count = number(), number()
    if ago < KEPT then
      redis.call('HINCRBY', state.hash, 's' .. (second - ago), count)
    end
  end
  for _ = 1, number() do
    redis.call('ZADD', state.set, now + ttl, text())
  end
  for _ = 1, number() do
    redis.call('ZREM', state.set, text())
  end
  save(state, ttl)
end
return redis.call('HGET', KEYS[1], 'memory')
