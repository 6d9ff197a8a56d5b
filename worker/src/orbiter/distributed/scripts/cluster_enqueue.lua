#!lua
-- Accepts a task in a cluster, second step: its place on the queue, once.
-- KEYS  queue, {queue}:delayed, {queue}:parked, a key that remembers for a minute that this was done
-- ARGV  task id, payload JSON, not_before (epoch ms; '' is now)
local queue, delayed, parked, done = unpack(KEYS)
local id, payload, due = ARGV[1], ARGV[2], tonumber(ARGV[3])
if redis.call('SET', done, '1', 'NX', 'EX', 60) then
  if due and due > now_ms() then
    redis.call('HSET', parked, id, payload)
    redis.call('ZADD', delayed, due, id)
  else
    redis.call('XADD', queue, '*', 'payload', payload)
  end
end
return 1
