-- Tells whether a task of this status has ended for good.
local function is_terminal(status)
  return status == 'completed' or status == 'failed' or status == 'cancelled'
end
