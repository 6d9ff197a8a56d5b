#!lua
-- Runs a task that failed or was cancelled once more in a cluster, first step: its record. Sending it again is
-- harmless.
-- KEYS  task hash
-- ARGV  task id, agent name, created_at (epoch seconds, text), queue, what its payload comes from (a dead letter or an
--       entry)
-- Returns 'pending', or 'not ' and the status that forbids it.
--!include TASK_TTL
local task = KEYS[1]
local id, agent, created, queue, source = unpack(ARGV)
local known = redis.call('HMGET', task, 'status', 'resubmitting')
local status = known[1]
if status == 'pending' and known[2] == source then return 'pending' end
if status and status ~= 'failed' and status ~= 'cancelled' then return 'not ' .. status end
redis.call('HDEL', task, 'error', 'error_type', 'completed_at', 'result', 'cancel_requested_at', 'fence',
  'next_attempt_at', 'executor', 'workflow_id', 'losses', 'worker_losses', 'expiries', 'alone', 'died_at', 'last_loss')
redis.call('HSET', task, 'task_id', id, 'status', 'pending', 'retries', 0, 'crashes', 0, 'queue', queue,
  'agent_name', agent, 'resubmitting', source)
redis.call('HSETNX', task, 'created_at', created)
redis.call('EXPIRE', task, TASK_TTL)
return 'pending'
