-- Keeps what cannot be run any more, with the reason, for a person to look at.
-- `fields` are the entry's, or nil where it is lost.
--!include write_beside
local DEAD_CAP = 10000
local DEAD_PAYLOAD_CAP = 1000000
local DEAD_FIELDS = 200
local function dead_letter(dead, fields, id, reason, error_type)
  local row = { 'MAXLEN', '~', DEAD_CAP, '*', 'task_id', id, 'reason', reason, 'error_type', error_type }
  local has_payload = false
  for i = 1, math.min(#(fields or {}), DEAD_FIELDS), 2 do
    local name, value = fields[i], fields[i + 1]
    if name == 'payload' then has_payload = true end
    if #value > DEAD_PAYLOAD_CAP then
      value = string.sub(value, 1, 1000)
      row[#row + 1] = 'truncated'
      row[#row + 1] = #fields[i + 1]
    end
    row[#row + 1] = name == 'payload' and name or 'entry_' .. name
    row[#row + 1] = value
  end
  if not has_payload then
    row[#row + 1] = 'payload'
    row[#row + 1] = ''
  end
  write_beside('XADD', dead, unpack(row))
end
