#!lua flags=allow-oom
-- Promotes delayed tasks that are due and claims up to `count` waiting entries, without blocking and without starting
-- them.
-- KEYS  queue, {queue}:delayed, {queue}:parked
-- ARGV  group, consumer, count
-- Returns entries as XREADGROUP does.
--!include now_ms
local queue, delayed, parked = unpack(KEYS)
for _, id in ipairs(redis.call('ZRANGEBYSCORE', delayed, '-inf', now_ms(), 'LIMIT', 0, 100)) do
  local payload = redis.call('HGET', parked, id)
  if payload then redis.call('XADD', queue, '*', 'payload', payload) end
  redis.call('HDEL', parked, id)
  redis.call('ZREM', delayed, id)
end
local reply = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', ARGV[3], 'STREAMS', queue, '>')
return reply and reply[1][2] or {}
