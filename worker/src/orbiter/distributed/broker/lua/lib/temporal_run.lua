-- Returns which run of that workflow is the last known one, 0 where none is.
local function temporal_run(fence, run)
  local known, number = string.match(fence or '', '^temporal (%S+) (%d+)$')
  return known == run and tonumber(number) or 0
end
