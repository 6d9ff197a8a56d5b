#!lua flags=allow-oom
-- Finds what is pending on this consumer but does not run there: deliveries whose reply was lost with a connection, runs that
-- were given up, and what an earlier life under the same name left.
-- KEYS  queue
-- ARGV  group, consumer, count, JSON { running: [entry id, …], given_up: [entry id, …], reborn: whether this is a new life }
-- Returns entries as XREADGROUP does. What has run before is claimed anew: its delivery count goes up, so that the run
-- before is fenced out. A delivery that nobody has seen stays as it is: no run was lost with it.
local queue, group, consumer, count = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local mine = cjson.decode(ARGV[4])
local running, given_up = {}, {}
for _, entry in ipairs(mine.running) do running[entry] = true end
for _, entry in ipairs(mine.given_up) do given_up[entry] = true end
local found = {}
for _, row in ipairs(redis.call('XPENDING', queue, group, '-', '+', #mine.running + count, consumer)) do
  local entry = row[1]
  if not running[entry] and #found < count then
    if mine.reborn or given_up[entry] then
      found[#found + 1] = redis.call('XCLAIM', queue, group, consumer, 0, entry)[1]
    elseif #redis.call('XCLAIM', queue, group, consumer, 0, entry, 'JUSTID') > 0 then
      found[#found + 1] = redis.call('XRANGE', queue, entry, entry)[1]
    end
  end
end
return found
