#!lua
-- Accepts a task, once: submitting an id that is known changes nothing.
-- KEYS  queue, {queue}:delayed, {queue}:parked, task hash, index set, by_time zset
-- ARGV  task id, payload JSON, agent name, created_at (epoch seconds, text), not_before (epoch ms; '' is now)
-- Returns 1 accepted, 0 known already. Fails with OOM, having written nothing, when Redis is full.
local queue, delayed, parked, task, index, by_time = unpack(KEYS)
local id, payload, agent, created, not_before = unpack(ARGV)
if redis.call('EXISTS', task) == 1 then return 0 end
local now = now_ms()
local due = tonumber(not_before)
redis.call('HSET', task, 'task_id', id, 'status', 'pending', 'created_at', created, 'queue', queue, 'agent_name', agent)
redis.call('SADD', index, id)
redis.call('ZADD', by_time, now, id)
if due and due > now then
  redis.call('HSET', task, 'next_attempt_at', string.format('%.3f', due / 1000))
  -- Known for as long as it can still run.
  redis.call('PEXPIRE', task, string.format('%d', due - now + TASK_TTL * 1000))
  redis.call('HSET', parked, id, payload)
  redis.call('ZADD', delayed, due, id)
else
  redis.call('EXPIRE', task, TASK_TTL)
  redis.call('XADD', queue, '*', 'payload', payload)
end
return 1
