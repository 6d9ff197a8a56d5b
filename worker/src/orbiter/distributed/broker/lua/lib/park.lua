-- Puts a task among the delayed ones.
--!include write_beside
local function park(delayed, parked, id, payload, due)
  write_beside('HSET', parked, id, payload)
  write_beside('ZADD', delayed, due, id)
end
