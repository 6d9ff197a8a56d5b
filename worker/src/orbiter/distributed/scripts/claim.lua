#!lua flags=allow-oom
-- Promotes delayed tasks that are due, claims up to `count` waiting entries without blocking, and starts those that
-- are tasks which our own submit put there: fetch and start in one round trip.
-- KEYS  queue, {queue}:delayed, {queue}:parked, {queue}:dead
-- ARGV  group, consumer, count, max_crashes, largest payload (bytes), prefixes of task hash, event stream, event channel
-- Task keys are made from the entries, so they cannot be declared: a cluster claims in separate steps.
-- Returns for each entry { entry id, fields, verdict, deliveries, attempt, retries }: verdict 'run'; 'drop' or 'dead' (nothing
-- to do); or 'read': claimed, but not yet started, as only its reader can tell what it is.
local queue, delayed, parked, dead = unpack(KEYS)
local group, consumer, count, max_crashes, largest, task_prefix, stream_prefix, channel_prefix = unpack(ARGV)

local due = redis.call('ZRANGEBYSCORE', delayed, '-inf', now_ms(), 'LIMIT', 0, 100)
for _, id in ipairs(due) do
  local payload = redis.call('HGET', parked, id)
  if payload then redis.call('XADD', queue, '*', 'payload', payload) end
  redis.call('HDEL', task_prefix .. id, 'next_attempt_at')
  redis.call('HDEL', parked, id)
  redis.call('ZREM', delayed, id)
end

local reply = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', count, 'STREAMS', queue, '>')
local rows = {}
for n, row in ipairs(reply and reply[1][2] or {}) do
  local entry, fields = row[1], row[2]
  local text = fields[1] == 'payload' and fields[2] or ''
  -- The key that 0.1 and we write first. What else the text holds, its reader checks.
  local id = string.match(text, '^{"task_id": "([%w_%.:@-]+)"')
  if id and (#id > 200 or id == 'index' or id == 'by_time') then id = nil end
  local known = id and redis.call('HMGET', task_prefix .. id, 'status', 'cancel_requested_at', 'completed_at', 'fence',
    'crashes', 'retries', 'attempt', 'executor')
  local verdict, attempt, retries = 'read', 0, 0
  if #text > tonumber(largest) then
    local reason = 'payload: ' .. #text .. ' bytes are more than the ' .. largest .. ' this worker accepts'
    if known and is_terminal(known[1]) then
      known = nil -- it has ended already; that stands
    elseif known and known[1] then
      fail_task(dead, fields, task_prefix .. id, stream_prefix .. id, channel_prefix .. id, id, reason, 'PayloadTooLargeError')
    else
      bury(dead, fields, id or '', reason, 'PayloadTooLargeError')
    end
    drop_entry(queue, group, entry)
    verdict, fields = 'dead', {}
  elseif known and known[1] then
    verdict, attempt, retries = start_task({
      queue = queue, group = group, consumer = consumer, dead = dead, entry = entry, deliveries = 1, id = id,
      max_crashes = tonumber(max_crashes), task = task_prefix .. id, events = stream_prefix .. id, channel = channel_prefix .. id,
    }, known)
  end
  rows[n] = { entry, fields, verdict, 1, attempt, retries }
end
return rows
