-- Returns the fields of an entry as { name, value, … }, or nil where the stream does not hold it. Ours have a few; of
-- more than a hundred the rest is left out.
local function entry_fields(stream, entry)
  local rows = redis.call('XRANGE', stream, entry, entry)
  if #rows == 0 then return nil end
  local fields = rows[1][2]
  return #fields <= 200 and fields or { unpack(fields, 1, 200) }
end
