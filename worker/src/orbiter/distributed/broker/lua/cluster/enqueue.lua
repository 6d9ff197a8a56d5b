#!lua
-- Accepts a task in a cluster, second step: its place on the queue, once.
-- KEYS  queue, {queue}:delayed, {queue}:parked, a key that keeps for a minute that this was done, and what it
--       returned
-- ARGV  task id, payload JSON, not_before (epoch ms; '' is now)
-- Returns the id of its entry, '-' where it waits among the delayed ones.
--!include now_ms
local queue, delayed, parked, done = unpack(KEYS)
local id, payload, due = ARGV[1], ARGV[2], tonumber(ARGV[3])
local entry = redis.call('SET', done, '-', 'NX', 'GET', 'EX', 60)
if not entry then
  entry = '-'
  if due and due > now_ms() then
    redis.call('HSET', parked, id, payload)
    redis.call('ZADD', delayed, due, id)
  else
    entry = redis.call('XADD', queue, '*', 'payload', payload)
    redis.call('SET', done, entry, 'EX', 60)
  end
end
return entry
