#!lua flags=allow-oom
-- Starts what a blocking read has just delivered to this consumer: sent right behind the read, so that it costs no
-- round trip.
-- KEYS  queue
-- ARGV  group, consumer, prefix of task hash, an entry id that is older than all that the read can have delivered, how
--       many it can have delivered at most, largest payload (bytes)
-- Returns the entries it has started: tasks of our own submit that never ran. All others are claimed, and still to be
-- read.
--!include entry_fields plain_task_id run_task fence_of each
local queue = KEYS[1]
local group, consumer, tasks, since, count, largest = unpack(ARGV)
local started = {}

local function start(entry)
  local fields = entry_fields(queue, entry)
  local text = fields and fields[1] == 'payload' and fields[2]
  local id = text and #text <= tonumber(largest) and plain_task_id(text)
  if not id then return end
  local known = redis.call('HMGET', tasks .. id, 'status', 'cancel_requested_at', 'attempt')
  if known[1] == 'pending' and not known[2] and not known[3] then
    run_task(tasks .. id, fence_of(entry, 1, consumer), consumer, 1)
    started[#started + 1] = entry
  end
end

for _, row in ipairs(redis.call('XPENDING', queue, group, '(' .. since, '+', count, consumer)) do
  if row[4] == 1 then each(nil, start, row[1]) end
end
return started
