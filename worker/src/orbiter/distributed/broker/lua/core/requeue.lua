#!lua flags=allow-oom
-- Requeues a claimed task, free of charge: another worker wakes at once.
-- KEYS  queue, task hash (empty where the entry could not be read), event stream
-- ARGV  group, consumer, entry id, deliveries, task id, event channel, started ('1' if it had begun to run)
-- Returns 'pending', 'cancelled' (that was asked for meanwhile) or 'lost'.
--!include check_fence entry_fields drop_entry cancel_task TASK_TTL
local queue, task, events = unpack(KEYS)
local group, consumer, entry, deliveries, id, channel, started = unpack(ARGV)
if not check_fence(queue, group, consumer, entry, deliveries) then return 'lost' end
local fields = entry_fields(queue, entry)
if started == '1' then
  local known = redis.call('HMGET', task, 'status', 'cancel_requested_at')
  if known[1] == 'cancelled' or known[2] then
    drop_entry(queue, group, entry)
    cancel_task(task, events, channel, id)
    return 'cancelled'
  end
  redis.call('HSET', task, 'status', 'pending')
  redis.call('HINCRBY', task, 'handoffs', 1)
  redis.call('EXPIRE', task, TASK_TTL)
end
if fields then redis.call('XADD', queue, '*', unpack(fields)) end
drop_entry(queue, group, entry)
return 'pending'
