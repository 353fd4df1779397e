"""What runs inside the server: questions whose answer needs several of its keys at one moment."""

READ = """
-- The states at KEYS[2..]. An answer is: where the store stands, the first lost key or nil, the states.
-- KEYS[1]: meta. ARGV[1], ARGV[2]: what state keys and index keys begin with.
local function lost(key)
  local length, at = string.match(string.sub(key, #ARGV[1] + 1), '^(%d+):()')
  local view = string.sub(key, #ARGV[1] + at, #ARGV[1] + at + length - 1)
  local index = ARGV[2] .. view
  local due = redis.call('ZSCORE', index, 'k' .. string.sub(key, #ARGV[1] + at + length + 1))
  if due == 'inf' then return true end
  if due then
    local us = tonumber(due)
    local now = redis.call('TIME')
    return us < 0 or math.ceil(us / 1000) > now[1] * 1000 + math.floor(now[2] / 1000)
  end
  return not redis.call('ZSCORE', index, 'e') and redis.call('HEXISTS', KEYS[1], 'v' .. view) == 1
end
local out, n = {redis.call('HGET', KEYS[1], 'at'), false}, 2
for first = 2, #KEYS, 4000 do
  local found = redis.call('MGET', unpack(KEYS, first, math.min(first + 3999, #KEYS)))
  for i = 1, #found do
    n = n + 1
    out[n] = found[i]
    if not found[i] and not out[2] and lost(KEYS[first + i - 1]) then out[2] = KEYS[first + i - 1] end
  end
end
return out
"""

LOST = """
-- How many of the members ARGV[3].. of the index KEYS[1] have no state though they are not due. ARGV[1]: what the state keys begin
-- with. ARGV[2]: now, ms.
local keys, now = {}, tonumber(ARGV[2])
for i = 3, #ARGV, 2 do
  local due = ARGV[i + 1]
  if due == 'inf' or tonumber(due) < 0 or math.ceil(tonumber(due) / 1000) > now then keys[#keys + 1] = ARGV[1] .. string.sub(ARGV[i], 2) end
end
if #keys == 0 then return 0 end
return #keys - redis.call('EXISTS', unpack(keys))
"""
