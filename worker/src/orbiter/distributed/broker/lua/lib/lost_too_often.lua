-- Tells whether a task that has just lost a run is given up: too many losses are charged to it as crashes, or there are
-- too many in all. Of a task that may not crash once, no run is repeated.
local function lost_too_often(crashes, losses, max_crashes)
  return crashes > max_crashes or losses >= (max_crashes == 0 and 1 or max_crashes + 2)
end
