-- Tells whether a task that has just lost a run is given up: too many losses are charged to it as crashes, or there are
-- too many in all. `expiries` of the losses only had their lease run out at a worker that lives, as while Redis is
-- away: that says nothing about the task, but has an end, too. Of a task that may not crash once, no run is repeated.
local function lost_too_often(crashes, losses, expiries, max_crashes)
  if max_crashes == 0 then return losses > 0 end
  local most = max_crashes + 2
  return crashes > max_crashes or losses - expiries >= most or expiries >= 5 * most
end
