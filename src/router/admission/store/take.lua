-- Takes a request by all limits of its account or by none.
--
-- ARGV: id, milliseconds for which it counts at most, risk (0 Low, 1 Medium, 2 High), which reserve is its own (0: none),
-- milliseconds for which it would wait, five limits, four amounts, and each reserve's part in 1e-9.
-- Returns what has no room (a kind; 6 a reserve, 7 others who wait; 0: it was taken), milliseconds until there may be room
-- (-1: never; 0: nobody knows), and the percentage that is free of the limit of which the least is.
local id, ttl, risk, own, patience = text(), number(), number(), number(), number()
local limits, amounts = {}, {}
for kind = 1, 5 do
  limits[kind] = number()
end
for kind = 1, 4 do
  amounts[kind] = number()
end
amounts[5] = 1
local account, kept, mine = load(0, limits), {0, 0, 0, 0, 0}, nil
for reserve = 1, #KEYS / 2 - 1 do
  local parts = part_of(limits, number())
  if risk == 0 or reserve == own then
    local state = load(reserve, parts)
    if reserve == own then
      mine = state
    end
    for kind = 1, 5 do
      if risk == 0 and limits[kind] >= 0 then
        kept[kind] = kept[kind] + math.max(0, parts[kind] - state.used[kind])
      end
    end
  end
end
-- A part of a place keeps a whole one.
kept[5] = math.ceil(kept[5])

local function free()
  local least = 100
  for kind = 1, 5 do
    if limits[kind] > 0 then
      least = math.min(least, math.floor(100 * (limits[kind] - account.used[kind]) / limits[kind]))
    end
  end
  return math.max(0, least)
end

-- Milliseconds until so many requests count no more.
local function until_gone(count)
  table.sort(account.seconds, function(a, b) return a[1] < b[1] end)
  for _, had in ipairs(account.seconds) do
    count = count - had[2]
    if count <= 0 then
      return math.max(1, (had[1] + KEPT) * 1000 - now)
    end
  end
  return KEPT * 1000
end

local lack, wait = 0, 0
for kind = 1, 5 do
  local over = account.used[kind] + kept[kind] + amounts[kind] - limits[kind]
  if limits[kind] >= 0 and over > 0 then
    local ms
    if amounts[kind] > limits[kind] then
      ms = -1
    elseif kind == 1 then
      ms = until_gone(over)
    elseif kind == 5 then
      ms = 0
    else
      ms = math.ceil(over * 60000 / limits[kind])
    end
    if lack == 0 or ms < 0 or (wait >= 0 and ms > wait) then
      lack, wait = kind, ms
      if account.used[kind] + amounts[kind] <= limits[kind] then
        lack = 6
      end
    end
  end
end
if lack == 0 then
  for above = risk + 1, 2 do
    if account.waits[above] > now then
      lack = 7
    end
  end
end
if lack ~= 0 then
  -- Whoever is to be served before others asks again before this has passed.
  if risk > 0 and patience > 0 and wait >= 0 and wait <= patience then
    redis.call('HSET', account.hash, 'u' .. risk, now + 300)
    redis.call('PEXPIRE', account.hash, 300000)
  end
  return {lack, wait, free()}
end
if risk > 0 and account.waits[risk] > now then
  redis.call('HDEL', account.hash, 'u' .. risk)
end
local function take(state)
  if limits[1] >= 0 then
    redis.call('HINCRBY', state.hash, 's' .. second, amounts[1])
  end
  for kind = 1, 5 do
    state.used[kind] = state.used[kind] + amounts[kind]
  end
  redis.call('ZADD', state.set, now + ttl, id)
  save(state, ttl)
end
take(account)
if mine then
  take(mine)
end
return {0, 0, free()}
