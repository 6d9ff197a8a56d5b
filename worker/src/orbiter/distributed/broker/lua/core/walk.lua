#!lua flags=no-writes
-- Tells which tasks the entries of a queue are, a part of the queue at a time.
-- KEYS  queue
-- ARGV  id of the entry before the first one, number of entries at most, bytes to read at most
-- Returns { id of the last entry, or '' where there are no more; then for each that names a task: entry id, task id }.
--!include task_id_of
local last, left, bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local named = { '' }
while left > 0 and bytes > 0 do
  local rows = redis.call('XRANGE', KEYS[1], '(' .. last, '+', 'COUNT', math.min(left, 20))
  for _, row in ipairs(rows) do
    for i = 1, #row[2], 2 do
      local text = row[2][i + 1]
      bytes = bytes - #text
      if row[2][i] == 'payload' then
        local id = task_id_of(text)
        if id then
          named[#named + 1] = row[1]
          named[#named + 1] = id
        end
      end
    end
    last = row[1]
  end
  left = left - #rows
  if #rows == 0 then return named end
end
named[1] = last
return named
