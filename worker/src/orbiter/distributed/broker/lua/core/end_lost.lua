#!lua flags=allow-oom
-- Ends a task that the queue does not hold any more: cancelled where that was asked for, else failed. One that has
-- ended already, as a client of 0.1 cancels, gets the moment of its end.
-- KEYS  queue, {queue}:delayed, {queue}:dead, task hash, event stream
-- ARGV  group, task id, event channel, reason, error type, two ids of entries that may be its ('' where unknown), then
--       the record as it was when the queue was searched: field, value, …
-- Returns the status that stands; '' where the record has changed or the queue holds the task after all.
--!include record_unchanged queue_holds is_terminal now_seconds ENDED_TTL cancel_task fail_task
local queue, delayed, dead, task, events = unpack(KEYS)
local group, id, channel, reason, error_type, one, other = unpack(ARGV, 1, 7)
if not record_unchanged(task, { unpack(ARGV, 8) }) then return '' end
if queue_holds(queue, delayed, group, id, { one, other }) then return '' end
-- What a client began, and did not end, is over, too.
redis.call('HDEL', task, 'submitting', 'resubmitting')
local status, asked = unpack(redis.call('HMGET', task, 'status', 'cancel_requested_at'))
if is_terminal(status) then
  redis.call('HSETNX', task, 'completed_at', now_seconds())
  redis.call('EXPIRE', task, ENDED_TTL)
  return status
end
if asked then
  cancel_task(task, events, channel, id)
  return 'cancelled'
end
fail_task(dead, nil, task, events, channel, id, reason, error_type)
return 'failed'
