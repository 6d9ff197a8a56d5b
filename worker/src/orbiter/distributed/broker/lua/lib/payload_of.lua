-- Returns the payload among the fields of an entry, or nil.
local function payload_of(fields)
  for i = 1, #(fields or {}), 2 do
    if fields[i] == 'payload' then return fields[i + 1] end
  end
end
