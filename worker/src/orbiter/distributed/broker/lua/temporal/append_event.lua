#!lua flags=allow-oom
-- Adds an event to a stream for a run that cannot add it itself, behind what there is. Sending it again is harmless.
-- KEYS  event stream
-- ARGV  event channel, attempt, '!' if the event is final, the event's JSON without its end: seq and attempt come
--       behind it
--!include last_event add_final_event add_event EVENT_TTL
local channel, attempt, final, head = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '!', ARGV[4]
local last_attempt, seq, ended = last_event(KEYS[1])
if ended then return 0 end
local rows = redis.pcall('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
if #rows > 0 and string.sub(rows[1][2][2], 1, #head) == head and last_attempt == attempt then return 0 end
if attempt > last_attempt then seq = 0 else attempt = last_attempt end
local event = head .. ', "seq": ' .. seq + 1 .. ', "attempt": ' .. attempt .. '}'
if final then
  add_final_event(KEYS[1], channel, attempt .. '-' .. seq + 1 .. '!', event)
else
  add_event(KEYS[1], channel, attempt, seq + 1, event)
  redis.call('EXPIRE', KEYS[1], EVENT_TTL)
end
return 1
