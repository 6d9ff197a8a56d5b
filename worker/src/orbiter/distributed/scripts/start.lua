#!lua flags=allow-oom
-- Starts claimed tasks, unless they ended or were cancelled meanwhile; one call for a whole batch.
-- KEYS  queue, {queue}:dead, index set, by_time zset, then for each claim: task hash, event stream
-- ARGV  group, consumer, max_crashes, then for each claim: entry id, task id, agent name, created_at, event channel
-- Returns for each claim { verdict, deliveries, attempt, retries } with verdict 'run', 'drop' (ended, or not ours) or 'dead'.
local queue, dead, index, by_time = unpack(KEYS, 1, 4)
local group, consumer, max_crashes = unpack(ARGV, 1, 3)
local verdicts = {}
for n = 0, (#KEYS - 4) / 2 - 1 do
  local task, events = KEYS[5 + 2 * n], KEYS[6 + 2 * n]
  local entry, id, agent, created, channel = unpack(ARGV, 4 + 5 * n, 8 + 5 * n)
  local deliveries = owned(queue, group, consumer, entry)
  local verdict, attempt, retries = 'drop', 0, 0
  if deliveries then
    local known = redis.call('HMGET', task, 'status', 'cancel_requested_at', 'completed_at', 'fence',
    'crashes', 'retries', 'attempt', 'executor')
    if not known[1] then
      -- Put there by a 0.1 client, which writes no hash, or its hash has expired.
      redis.call('HSET', task, 'task_id', id, 'created_at', created, 'queue', queue, 'agent_name', agent)
      redis.call('EXPIRE', task, TASK_TTL)
      redis.call('SADD', index, id)
      redis.call('ZADD', by_time, 'NX', now_ms(), id)
    end
    verdict, attempt, retries = start_task({
      queue = queue, group = group, consumer = consumer, dead = dead, entry = entry, deliveries = deliveries, id = id,
      max_crashes = tonumber(max_crashes), task = task, events = events, channel = channel,
    }, known)
  end
  verdicts[#verdicts + 1] = { verdict, deliveries or 0, attempt, retries }
end
return verdicts
