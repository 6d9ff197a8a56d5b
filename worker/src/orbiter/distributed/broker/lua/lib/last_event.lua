-- Returns attempt and seq of the last event on a stream, and whether it is the final one.
-- Where none of ours is there: 0, 0, false.
--!include is_spoilt count_of
local function last_event(events)
  local rows = redis.pcall('XREVRANGE', events, '+', '-', 'COUNT', 1)
  -- A key of another type is replaced by whoever adds the next event.
  if rows.err and not is_spoilt(rows.err) then error(rows) end
  if #rows > 0 then
    local fields = rows[1][2]
    for i = 1, #fields, 2 do
      if fields[i] == 'at' then
        local attempt, seq, final = string.match(fields[i + 1], '^(%d+)%-(%d+)(!?)$')
        if attempt then return count_of(attempt), count_of(seq), final == '!' end
      end
    end
  end
  return 0, 0, false
end
