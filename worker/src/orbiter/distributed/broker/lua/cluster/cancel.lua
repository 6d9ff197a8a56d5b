#!lua flags=allow-oom
-- Cancels a task in a cluster, first step: its record.
-- KEYS  task hash
-- ARGV  task id, cancel channel
-- Returns { verdict, status, queue }: 'unknown', 'finished', 'cancelled' (it was waiting) or 'requested' (its worker
-- was told).
--!include is_terminal now_seconds end_record
local known = redis.call('HMGET', KEYS[1], 'status', 'queue', 'executor')
local status, queue = known[1], known[2] or ''
if not status then return { 'unknown', '', '' } end
if is_terminal(status) then return { 'finished', status, queue } end
redis.call('HSETNX', KEYS[1], 'cancel_requested_at', now_seconds())
if status == 'running' then
  redis.call('PUBLISH', ARGV[2], 'cancel')
  return { 'requested', status, queue }
end
-- A workflow that waits to run it again is to end.
if known[3] == 'temporal' then redis.call('PUBLISH', ARGV[2], 'cancel') end
end_record(KEYS[1], 'cancelled', 'task_id', ARGV[1])
return { 'cancelled', 'cancelled', queue }
