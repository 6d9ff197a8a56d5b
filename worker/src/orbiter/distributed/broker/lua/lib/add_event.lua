-- Adds an event to a task's stream and publishes it.
-- The field `at` beside the event (attempt-seq, and a '!' for the final one) lets a repeated call see what is there.
--!include add_row
local EVENT_CAP = '10000'
local function add_event(events, channel, attempt, seq, event)
  add_row(events, 'MAXLEN', '~', EVENT_CAP, '*', 'event', event, 'at', attempt .. '-' .. seq)
  redis.call('PUBLISH', channel, event)
end
