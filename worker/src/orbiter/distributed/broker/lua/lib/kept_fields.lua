-- Returns the fields of a claimed entry; where it is gone, those of a new one with the payload that its worker has
-- kept; or nil, where that is not told ('').
--!include entry_fields
local function kept_fields(queue, entry, payload)
  return entry_fields(queue, entry) or payload ~= '' and { 'payload', payload } or nil
end
