#!lua
-- Accepts tasks, each once: submitting an id that is known changes nothing.
-- KEYS  queue, {queue}:delayed, {queue}:parked, index set, by_time zset, then for each task: task hash
-- ARGV  JSON: for each task [task id, payload JSON, agent name, created_at (epoch seconds, text), not_before (epoch ms; '' is
--       now)]; one argument, as each of them costs the client more than all of this costs here
-- Returns how many were not known before. Fails with OOM, having written nothing, when Redis is full.
local queue, delayed, parked, index, by_time = unpack(KEYS, 1, 5)
local accepted = 0
for n, row in ipairs(cjson.decode(ARGV[1])) do
  local task = KEYS[5 + n]
  local id, payload, agent, created, not_before = unpack(row)
  if redis.call('EXISTS', task) == 0 then
    accepted = accepted + 1
    redis.call('HSET', task, 'task_id', id, 'status', 'pending', 'created_at', created, 'queue', queue, 'agent_name', agent)
    redis.call('SADD', index, id)
    redis.call('ZADD', by_time, now_ms(), id)
    local due = tonumber(not_before)
    if due and due > now_ms() then
      redis.call('HSET', task, 'next_attempt_at', string.format('%.3f', due / 1000))
      -- Known for as long as it can still run.
      redis.call('PEXPIRE', task, string.format('%d', due - now_ms() + TASK_TTL * 1000))
      redis.call('HSET', parked, id, payload)
      redis.call('ZADD', delayed, due, id)
    else
      redis.call('EXPIRE', task, TASK_TTL)
      redis.call('XADD', queue, '*', 'payload', payload)
    end
  end
end
return accepted
