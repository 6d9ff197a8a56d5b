#!lua
-- Accepts a task, once: submitting an id that is known changes nothing.
-- KEYS  queue, task hash, index set, by_time zset
-- ARGV  task id, payload JSON, agent name, created_at (epoch seconds, text)
-- Returns 1 accepted, 0 known already. Fails with OOM, having written nothing, when Redis is full.
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('HSET', KEYS[2], 'task_id', ARGV[1], 'status', 'pending', 'created_at', ARGV[4], 'queue', KEYS[1],
  'agent_name', ARGV[3])
redis.call('EXPIRE', KEYS[2], TASK_TTL)
redis.call('SADD', KEYS[3], ARGV[1])
redis.call('ZADD', KEYS[4], now_ms(), ARGV[1])
redis.call('XADD', KEYS[1], '*', 'payload', ARGV[2])
return 1
