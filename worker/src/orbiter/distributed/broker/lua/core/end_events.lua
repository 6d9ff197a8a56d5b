#!lua flags=allow-oom
-- Ends a task's events, unless they have ended: for a run that could not add the final one itself.
-- KEYS  event stream
-- ARGV  event channel, status of the event, message
--!include last_event end_events
local _, _, ended = last_event(KEYS[1])
if not ended then end_events(KEYS[1], ARGV[1], ARGV[2], ARGV[3]) end
return 1
