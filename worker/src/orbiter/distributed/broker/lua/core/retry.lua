#!lua flags=allow-oom
-- Puts a task whose run failed back, to run again after a delay. Nobody ever sees it failed in between.
-- KEYS  queue, {queue}:delayed, {queue}:parked, task hash, event stream
-- ARGV  group, consumer, entry id, deliveries, task id, delay ms, error, error type, event channel
-- Returns 'retrying', 'cancelled' (that was asked for meanwhile) or 'lost'.
--!include check_fence entry_fields drop_entry cancel_task now_ms TASK_TTL
local queue, delayed, parked, task, events = unpack(KEYS)
local group, consumer, entry, deliveries, id, delay, err, error_type, channel = unpack(ARGV)
if not check_fence(queue, group, consumer, entry, deliveries) then return 'lost' end
local known = redis.call('HMGET', task, 'status', 'cancel_requested_at')
local fields = entry_fields(queue, entry)
drop_entry(queue, group, entry)
if known[1] == 'cancelled' or known[2] or not fields then
  cancel_task(task, events, channel, id)
  return 'cancelled'
end
local due = now_ms() + tonumber(delay)
redis.call('HSET', task, 'status', 'retrying', 'error', err, 'error_type', error_type,
  'next_attempt_at', string.format('%.3f', due / 1000))
redis.call('HINCRBY', task, 'retries', 1)
redis.call('EXPIRE', task, TASK_TTL)
if tonumber(delay) == 0 then
  redis.call('XADD', queue, '*', unpack(fields))
else
  for i = 1, #fields, 2 do
    if fields[i] == 'payload' then redis.call('HSET', parked, id, fields[i + 1]) end
  end
  redis.call('ZADD', delayed, due, id)
end
return 'retrying'
