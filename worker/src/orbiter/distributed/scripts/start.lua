#!lua flags=allow-oom
-- Starts claimed tasks, unless they ended or were cancelled meanwhile; one call for a whole batch.
-- KEYS  queue, {queue}:dead, index set, by_time zset, then for each claim: task hash, event stream
-- ARGV  group, consumer, max_crashes, then for each claim: entry id, task id, agent name, created_at, event channel,
--       final event JSON in case the task has lost too many workers
-- Returns for each claim { verdict, deliveries, attempt, retries } with verdict 'run', 'drop' or 'dead'.
local queue, dead, index, by_time = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, consumer, max_crashes = ARGV[1], ARGV[2], tonumber(ARGV[3])
local verdicts = {}
for n = 0, (#KEYS - 4) / 2 - 1 do
  local task, events = KEYS[5 + 2 * n], KEYS[6 + 2 * n]
  local entry, id, agent, created, channel, lost_event = unpack(ARGV, 4 + 6 * n, 9 + 6 * n)
  local deliveries = owned(queue, group, consumer, entry)
  local known = redis.call('HMGET', task, 'status', 'cancel_requested_at', 'completed_at', 'fence', 'crashes', 'retries')
  local status, fence = known[1], entry .. ' ' .. (deliveries or 0) .. ' ' .. consumer
  local verdict, attempt = 'run', 0
  if not deliveries then
    verdict = 'drop'
  elseif is_terminal(status) or known[2] then
    -- A 0.1 client cancels by writing the status alone: the end is recorded and announced here.
    if not is_terminal(status) or (status == 'cancelled' and not known[3]) then cancel_task(task, events, channel, id) end
    drop_entry(queue, group, entry)
    verdict = 'drop'
  else
    redis.call('HSETNX', task, 'created_at', created)
    redis.call('SADD', index, id)
    redis.call('ZADD', by_time, 'NX', now_ms(), id)
    -- Still 'running' under another claim: that worker was lost in the middle.
    local crashes = tonumber(known[5] or '0')
    if status == 'running' and known[4] ~= fence then crashes = redis.call('HINCRBY', task, 'crashes', 1) end
    if math.max(crashes, deliveries - 1) > max_crashes then
      local reason = 'lost its worker ' .. math.max(crashes, deliveries - 1) .. ' times'
      bury(dead, payload_of(queue, entry), id, reason, 'WorkerLostError')
      redis.call('HSET', task, 'task_id', id, 'status', 'failed', 'error', reason, 'error_type', 'WorkerLostError',
        'completed_at', now_seconds(), 'queue', queue, 'agent_name', agent)
      redis.call('EXPIRE', task, TASK_TTL)
      publish(events, channel, lost_event)
      drop_entry(queue, group, entry)
      verdict = 'dead'
    else
      attempt = redis.call('HINCRBY', task, 'attempt', 1)
      redis.call('HSET', task, 'task_id', id, 'status', 'running', 'worker_id', consumer, 'started_at', now_seconds(),
        'fence', fence, 'queue', queue, 'agent_name', agent)
      redis.call('HDEL', task, 'error', 'error_type', 'completed_at', 'next_attempt_at')
      redis.call('EXPIRE', task, TASK_TTL)
    end
  end
  verdicts[#verdicts + 1] = { verdict, deliveries or 0, attempt, tonumber(known[6] or '0') }
end
return verdicts
