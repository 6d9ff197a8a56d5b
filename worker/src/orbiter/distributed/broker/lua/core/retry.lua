#!lua flags=allow-oom
-- Puts a task whose run failed back, to run again after a delay. Nobody ever sees it failed in between.
-- KEYS  queue, {queue}:delayed, {queue}:parked, task hash, event stream
-- ARGV  group, consumer, entry id, deliveries, task id, event channel, its payload ('' is what the entry holds), delay
--       ms, error, error type
-- Returns 'retrying', 'cancelled' (that was asked for meanwhile), 'lost', or 'gone' (the entry is: nothing was done,
-- and the payload is asked for).
--!include holds_claim kept_fields payload_of drop_entry cancel_task now_ms TASK_TTL read_record raise_count park
local queue, delayed, parked, task, events = unpack(KEYS)
local group, consumer, entry, deliveries, id, channel, payload, delay, err, error_type = unpack(ARGV)
if not holds_claim(queue, group, consumer, entry, deliveries, task) then return 'lost' end
local known = read_record(task, 'status', 'cancel_requested_at')
if known[1] == 'cancelled' or known[2] then
  drop_entry(queue, group, entry)
  cancel_task(task, events, channel, id)
  return 'cancelled'
end
local fields = kept_fields(queue, entry, payload)
if not fields then return 'gone' end
local due = now_ms() + tonumber(delay)
if tonumber(delay) == 0 then
  redis.call('HSET', task, 'entry', redis.call('XADD', queue, '*', unpack(fields)))
else
  park(delayed, parked, id, payload_of(fields) or '', due)
end
redis.call('HSET', task, 'status', 'retrying', 'error', err, 'error_type', error_type,
  'next_attempt_at', string.format('%.3f', due / 1000))
raise_count(task, 'retries', 1)
redis.call('EXPIRE', task, TASK_TTL)
drop_entry(queue, group, entry)
return 'retrying'
