#!lua flags=allow-oom
-- Cancels a task, wherever it is.
-- KEYS  {queue}:delayed, {queue}:parked, task hash, event stream
-- ARGV  task id, event channel, cancel channel
-- Returns 'unknown', 'finished', 'cancelled' (it was waiting) or 'requested' (its worker has been told).
--!include is_terminal now_seconds cancel_task unpark
local delayed, parked, task, events = unpack(KEYS)
local id, channel, cancel = unpack(ARGV)
local status, executor = unpack(redis.call('HMGET', task, 'status', 'executor'))
if not status then return 'unknown' end
if is_terminal(status) then return 'finished' end
redis.call('HSETNX', task, 'cancel_requested_at', now_seconds())
if status == 'running' then
  redis.call('PUBLISH', cancel, 'cancel')
  return 'requested'
end
-- A workflow that waits to run it again is to end.
if executor == 'temporal' then redis.call('PUBLISH', cancel, 'cancel') end
-- An entry that waits on the stream stays there and is dropped at its start: deleting an undelivered entry would make
-- the group's lag unknown.
unpark(delayed, parked, id)
cancel_task(task, events, channel, id)
return 'cancelled'
