#!lua flags=allow-oom
-- Adds what a worker counted since its last heartbeat to the minute of now. The heartbeat is in another slot.
-- KEYS  queue, {queue}:minutes, {queue}:usage: (of which the days are)
-- ARGV  group, counts, usage
--!include count_minute add_usage
count_minute(KEYS[2], KEYS[1], ARGV[1], ARGV[2])
add_usage(KEYS[3], ARGV[3])
