#!lua
-- Accepts a task in a cluster, first step: its record. Sending it again is harmless.
-- KEYS  task hash
-- ARGV  task id, queue, agent name, created_at (epoch seconds, text), not_before (epoch ms; '' is now)
-- Returns now (ms) where the task is still to be put on the queue; nil where it is known.
--!include now_ms TASK_TTL
local id, queue, agent, created, not_before = unpack(ARGV)
if redis.call('EXISTS', KEYS[1]) == 1 and redis.call('HEXISTS', KEYS[1], 'submitting') == 0 then return nil end
local now, due = now_ms(), tonumber(not_before)
redis.call('HSET', KEYS[1], 'task_id', id, 'status', 'pending', 'created_at', created, 'queue', queue,
  'agent_name', agent, 'submitting', '1')
if due and due > now then redis.call('HSET', KEYS[1], 'next_attempt_at', string.format('%.3f', due / 1000)) end
redis.call('PEXPIRE', KEYS[1], string.format('%d', math.max(0, (due or now) - now) + TASK_TTL * 1000))
return now
