-- Adds the final event, which tells subscribers that there are no more, for a run that cannot add it itself.
--!include last_event add_final_event
local function end_events(events, channel, status, message)
  local attempt, seq = last_event(events)
  add_final_event(events, channel, attempt .. '-' .. seq + 1 .. '!', '{"type": "status", "status": "' .. status
    .. '", "agent_name": "", "message": ' .. cjson.encode(message)
    .. ', "seq": ' .. seq + 1 .. ', "attempt": ' .. attempt .. '}')
end
