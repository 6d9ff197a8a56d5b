-- Returns attempt and seq of the last event on a stream, and whether it is the final one.
-- Where none of ours is there: 0, 0, false.
local function last_event(events)
  local rows = redis.call('XREVRANGE', events, '+', '-', 'COUNT', 1)
  if #rows > 0 then
    local fields = rows[1][2]
    for i = 1, #fields, 2 do
      if fields[i] == 'at' then
        local attempt, seq, final = string.match(fields[i + 1], '^(%d+)%-(%d+)(!?)$')
        if attempt then return tonumber(attempt), tonumber(seq), final == '!' end
      end
    end
  end
  return 0, 0, false
end
