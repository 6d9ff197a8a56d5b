#!lua flags=allow-oom
-- Makes the queue a new stream where the old one cannot be used: its last id, or what its group has read, lies a day or
-- more in the future, so that soon nothing can be added any more, or nothing is delivered. What is claimed is moved to
-- the new one at once, with its id, owner, idle time and delivery count; what waits follows by move_entries.
-- KEYS  queue, {queue}:moving
-- ARGV  group
-- Returns 'fine'; 'made' (anew); or 'moving' (the one before is still being moved).
--!include now_ms entry_fields move_aside
local queue, moving, group = KEYS[1], KEYS[2], ARGV[1]
local DAY = 86400000
local function beyond(id)
  return id and tonumber(string.match(id, '^(%d+)')) > now_ms() + DAY
end
local function field(row, name)
  for i = 1, #row, 2 do
    if row[i] == name then return row[i + 1] end
  end
end

local bad
if redis.acl_check_cmd('XINFO', 'STREAM', queue) then
  local info = redis.pcall('XINFO', 'STREAM', queue)
  bad = not info.err and beyond(field(info, 'last-generated-id'))
else
  -- A user with the rights of an earlier release, which Redis would note each time.
  local rows = redis.pcall('XREVRANGE', queue, '+', '-', 'COUNT', 1)
  bad = not rows.err and #rows > 0 and beyond(rows[1][1])
end
local groups = redis.pcall('XINFO', 'GROUPS', queue)
for _, row in ipairs(groups.err and {} or groups) do
  if field(row, 'name') == group and beyond(field(row, 'last-delivered-id')) then bad = true end
end
local moves = redis.call('EXISTS', moving) == 1
if not bad then return moves and 'moving' or 'fine' end
-- Nothing can be moved to a stream that is full: what is still there from the time before is put away.
if moves then move_aside(moving) end

redis.call('RENAME', queue, moving)
local claims, last = {}, '0'
for _, row in ipairs(redis.pcall('XPENDING', moving, group, '-', '+', 10000)) do
  local entry = row[1]
  local fields = entry_fields(moving, entry)
  if fields then
    last = redis.call('XADD', queue, beyond(entry) and '*' or entry, unpack(fields))
    claims[#claims + 1] = { last, row }
    redis.call('XDEL', moving, entry)
  end
end
-- The group begins behind what is claimed, which counts as delivered.
redis.call('XGROUP', 'CREATE', queue, group, last, 'MKSTREAM')
for _, claim in ipairs(claims) do
  local _, consumer, idle, deliveries = unpack(claim[2])
  redis.call('XCLAIM', queue, group, consumer, 0, claim[1], 'IDLE', idle, 'RETRYCOUNT', deliveries, 'FORCE', 'JUSTID')
end
return 'made'
