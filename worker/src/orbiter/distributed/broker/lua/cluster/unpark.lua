#!lua flags=allow-oom
-- Cancels a task in a cluster, last step: it waits no more.
-- KEYS  {queue}:delayed, {queue}:parked
-- ARGV  task id
--!include unpark
unpark(KEYS[1], KEYS[2], ARGV[1])
return 1
