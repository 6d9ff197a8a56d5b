#!lua flags=allow-oom
-- Cancels a task in a cluster, first step: its record.
-- KEYS  task hash
-- ARGV  task id, cancel channel
-- Returns { verdict, status, queue }: 'unknown', 'finished', 'cancelled' (it was waiting) or 'requested' (its worker
-- was told).
--!include is_terminal now_seconds ENDED_TTL
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
redis.call('HSET', KEYS[1], 'task_id', ARGV[1], 'status', 'cancelled', 'completed_at', now_seconds())
redis.call('EXPIRE', KEYS[1], ENDED_TTL)
return { 'cancelled', 'cancelled', queue }
