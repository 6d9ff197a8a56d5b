-- Returns a count that a record holds. Text that is no count, or one that no task reaches, is 0.
local function count_of(text)
  local count = text and #text <= 9 and string.match(text, '^%d+$')
  return count and tonumber(count) or 0
end
