#!lua flags=allow-oom
-- Requeues a claimed task, free of charge: another worker wakes at once.
-- KEYS  queue, task hash (empty where the entry could not be read), event stream
-- ARGV  group, consumer, entry id, deliveries, task id, event channel, its payload ('' is what the entry holds),
--       started ('1' if it had begun to run)
-- Returns 'pending', 'cancelled' (that was asked for meanwhile), 'lost', or 'gone' (the entry of a started task is:
-- nothing was done, and the payload is asked for).
--!include check_fence holds_claim entry_fields kept_fields drop_entry cancel_task TASK_TTL read_record raise_count
local queue, task, events = unpack(KEYS)
local group, consumer, entry, deliveries, id, channel, payload, started = unpack(ARGV)
if started ~= '1' then
  if not check_fence(queue, group, consumer, entry, deliveries) then return 'lost' end
  local fields = entry_fields(queue, entry)
  if fields then redis.call('XADD', queue, '*', unpack(fields)) end
  drop_entry(queue, group, entry)
  return 'pending'
end
if not holds_claim(queue, group, consumer, entry, deliveries, task) then return 'lost' end
local known = read_record(task, 'status', 'cancel_requested_at')
if known[1] == 'cancelled' or known[2] then
  drop_entry(queue, group, entry)
  cancel_task(task, events, channel, id)
  return 'cancelled'
end
local fields = kept_fields(queue, entry, payload)
if not fields then return 'gone' end
local place = redis.call('XADD', queue, '*', unpack(fields))
redis.call('HSET', task, 'status', 'pending', 'entry', place)
raise_count(task, 'handoffs', 1)
redis.call('EXPIRE', task, TASK_TTL)
drop_entry(queue, group, entry)
return 'pending'
