-- Returns the fields of an entry as { name, value, … }, or nil where the stream does not hold it.
local function entry_fields(stream, entry)
  local rows = redis.call('XRANGE', stream, entry, entry)
  return #rows > 0 and rows[1][2] or nil
end
