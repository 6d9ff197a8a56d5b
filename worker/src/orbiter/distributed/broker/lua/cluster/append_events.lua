#!lua flags=allow-oom
-- Adds events of a run to its stream and publishes them. Sending it again is harmless.
-- KEYS  event stream
-- ARGV  event channel, attempt, seq of the first event, '!' if the last one is final, then the events
--!include last_event add_final_event add_event EVENT_TTL
local channel, attempt, first, final = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '!'
local last_attempt, last_seq, ended = last_event(KEYS[1])
if ended or attempt < last_attempt then return 0 end
if attempt > last_attempt then last_seq = 0 end
for n = 5, #ARGV do
  local seq = first + n - 5
  if seq > last_seq then
    if final and n == #ARGV then
      add_final_event(KEYS[1], channel, attempt .. '-' .. seq .. '!', ARGV[n])
    else
      add_event(KEYS[1], channel, attempt, seq, ARGV[n])
    end
  end
end
redis.call('EXPIRE', KEYS[1], EVENT_TTL)
return 1
