-- Tells whether the queue still holds a task: among the delayed ones, as a claim, or as one of these entries; and how
-- many bytes had to be read for that.
--!include entry_fields
local function queue_holds(queue, delayed, group, id, entries)
  if redis.call('ZMSCORE', delayed, id)[1] then return true, 0 end
  local read = 0
  for _, entry in ipairs(entries) do
    if entry ~= '' then
      -- A claim outlives an entry that was deleted: while its worker lives the task runs.
      local claims = redis.pcall('XPENDING', queue, group, entry, entry, 1)
      if not claims.err and #claims > 0 then return true, read end
      local fields = entry_fields(queue, entry)
      if fields then
        for _, text in ipairs(fields) do read = read + #text end
        return true, read
      end
    end
  end
  return false, read
end
