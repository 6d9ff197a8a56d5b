#!lua flags=allow-oom
-- Promotes delayed tasks that are due, then claims up to `count` waiting entries, without blocking.
-- KEYS  queue, {queue}:delayed, {queue}:parked
-- ARGV  group, consumer, count
-- Returns entries as XREADGROUP does: { {entry id, {field, value, …}}, … }.
local due = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now_ms(), 'LIMIT', 0, 100)
for _, id in ipairs(due) do
  local payload = redis.call('HGET', KEYS[3], id)
  if payload then redis.call('XADD', KEYS[1], '*', 'payload', payload) end
  redis.call('HDEL', KEYS[3], id)
  redis.call('ZREM', KEYS[2], id)
end
local reply = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', ARGV[3], 'STREAMS', KEYS[1], '>')
return reply and reply[1][2] or {}
