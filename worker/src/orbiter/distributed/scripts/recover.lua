#!lua flags=allow-oom
-- Claims anew what is pending on this consumer but is not in its memory: deliveries whose reply was lost with a connection, and
-- those of an earlier life under the same name. The delivery count goes up, so an older process of that name is fenced out.
-- KEYS  queue
-- ARGV  group, consumer, count, then the entry ids that the consumer knows of
-- Returns entries as XREADGROUP does.
local known = {}
for n = 4, #ARGV do known[ARGV[n]] = true end
local found = {}
local rows = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', #ARGV - 3 + ARGV[3], ARGV[2])
for _, row in ipairs(rows) do
  if not known[row[1]] and #found < tonumber(ARGV[3]) then
    local got = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, row[1])
    if got[1] then found[#found + 1] = got[1] end
  end
end
return found
