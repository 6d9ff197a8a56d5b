#!lua flags=allow-oom
-- Finds what is pending on this consumer but does not run there: deliveries whose reply was lost with a connection,
-- runs that were given up, and what an earlier life under the same name left.
-- KEYS  queue
-- ARGV  group, consumer, count, when this process began to claim (ms of Redis' clock), JSON { running: [entry id, …],
--       given_up: { entry id: deliveries of the claim that was given up, … } }
-- Returns entries as XREADGROUP does. What has run before is claimed anew, once: its delivery count goes up, so that
-- the run before is fenced out, and its attempt is over. A delivery that nobody has seen stays as it is: no run was
-- lost with it.
--!include now_ms
local queue, group, consumer, count, born = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local here = cjson.decode(ARGV[5])
local running = {}
for _, entry in ipairs(here.running) do running[entry] = true end
local found = {}
for _, row in ipairs(redis.call('XPENDING', queue, group, '-', '+', #here.running + count, consumer)) do
  local entry, idle, deliveries = row[1], row[3], row[4]
  if not running[entry] and #found < count then
    if now_ms() - idle < born or here.given_up[entry] == deliveries then
      found[#found + 1] = redis.call('XCLAIM', queue, group, consumer, 0, entry)[1]
    elseif #redis.call('XCLAIM', queue, group, consumer, 0, entry, 'JUSTID') > 0 then
      found[#found + 1] = redis.call('XRANGE', queue, entry, entry)[1]
    end
  end
end
return found
