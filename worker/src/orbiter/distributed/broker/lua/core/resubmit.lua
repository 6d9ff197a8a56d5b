#!lua
-- Runs a task that failed or was cancelled once more, as if it had just been submitted. Fails with OOM, having written
-- nothing, when Redis is full.
-- KEYS  of the queue: queue, {queue}:dead
--       of the task: task hash, event stream, index set, by_time zset, {queue}:tasks
-- ARGV  task id, agent name, created_at (epoch seconds, text), entry id of its dead letter (empty if it has none), id
--       of an entry of its that still waits on the queue (empty if there is none)
-- Returns 'pending' (it will run), 'gone' (no such letter or entry any more), or 'not ' and the status that forbids it.
--!include entry_fields TASK_TTL now_ms requeue_dead_letter list_tasks
local queue, dead = KEYS[1], KEYS[2]
local task, events, index, by_time, tasks = unpack(KEYS, 3, 7)
local id, agent, created, letter, waiting = unpack(ARGV)

local status = redis.call('HGET', task, 'status')
-- A completed task keeps its result, even where an older failure of it was left among the dead letters.
if status and status ~= 'failed' and status ~= 'cancelled' then return 'not ' .. status end
local fields = entry_fields(letter ~= '' and dead or queue, letter ~= '' and letter or waiting)
if not fields then return 'gone' end

redis.call('HDEL', task, 'error', 'error_type', 'completed_at', 'result', 'cancel_requested_at', 'fence',
  'next_attempt_at', 'executor', 'workflow_id', 'losses', 'worker_losses', 'expiries', 'alone', 'died_at', 'last_loss')
redis.call('HSET', task, 'task_id', id, 'status', 'pending', 'retries', 0, 'crashes', 0, 'queue', queue,
  'agent_name', agent)
redis.call('HSETNX', task, 'created_at', created)
redis.call('EXPIRE', task, TASK_TTL)
list_tasks(index, by_time, tasks, { id }, { now_ms(), id })
-- The old final event would end every new subscriber at once.
redis.call('DEL', events)

-- An entry that a cancelled task left on the queue is its payload still: a second one would make it run twice.
if letter ~= '' then
  waiting = requeue_dead_letter(queue, fields)
  redis.call('XDEL', dead, letter)
end
redis.call('HSET', task, 'entry', waiting)
return 'pending'
