-- Tells whether an error says that data are not what they should be: a key of another type, text that is no number, a
-- stream that can take no more. All else, as a missing right, is no fault of what is stored there.
local function is_spoilt(err)
  if string.find(err, '^WRONGTYPE') or string.find(err, '^user_script:%d+: [abt]') then return true end
  local parts = { 'not an integer', 'float', 'overflow', 'last possible ID', 'equal or smaller', 'stream ID' }
  for _, part in ipairs(parts) do
    if string.find(err, part, 1, true) then return true end
  end
  return false
end
