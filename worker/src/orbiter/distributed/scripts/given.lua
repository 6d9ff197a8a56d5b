#!lua flags=allow-oom
-- Starts what a blocking read has just given this consumer: sent right behind the read, so that it costs no round trip.
-- KEYS  queue, {queue}:dead
-- ARGV  group, consumer, prefixes of task hash, event stream, event channel, an entry id that is older than all that the read can
--       have given, how many it can have given at most, max_crashes, largest payload (bytes)
-- Returns for each claim what begin() returns; also for those among them that run already.
local queue, dead = unpack(KEYS)
local group, consumer, tasks, streams, channels, since, count, max_crashes, largest = unpack(ARGV)
local at = {
  queue = queue, group = group, consumer = consumer, dead = dead, deliveries = 1, max_crashes = tonumber(max_crashes),
  largest = tonumber(largest), tasks = tasks, streams = streams, channels = channels,
}
local begun = {}
for _, row in ipairs(redis.call('XPENDING', queue, group, '(' .. since, '+', count, consumer)) do
  local fields = row[4] == 1 and payload_of(queue, row[1])
  if fields then begun[#begun + 1] = begin(at, row[1], fields) end
end
return begun
