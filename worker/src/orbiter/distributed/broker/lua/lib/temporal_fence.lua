-- Returns the fence of a run that Temporal began: the workflow's run, and which run of the task in it.
local function temporal_fence(run, number)
  return 'temporal ' .. run .. ' ' .. number
end
