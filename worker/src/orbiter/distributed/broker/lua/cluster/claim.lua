#!lua flags=allow-oom
-- Promotes delayed tasks that are due and claims up to `count` waiting entries, without blocking and without starting
-- them.
-- KEYS  queue, {queue}:delayed, {queue}:parked
-- ARGV  group, consumer, count
-- Returns entries as XREADGROUP does.
--!include promote
local queue, delayed, parked = unpack(KEYS)
promote(queue, delayed, parked, function() end)
local reply = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', ARGV[3], 'STREAMS', queue, '>')
return reply and reply[1][2] or {}
