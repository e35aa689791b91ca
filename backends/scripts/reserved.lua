-- Reads the reservation of one resource. It stands alone and writes nothing.
--
-- KEYS  1 state  2 deadlines
-- ARGV  1 resource
--
-- Answers  {microseconds, reservation as runs.lua has it or "", its deadline or ""}
local clock = redis.call('TIME')
local text = redis.call('HGET', KEYS[1], 'k' .. ARGV[1])
local ends = redis.pcall('ZSCORE', KEYS[2], ARGV[1])
return { string.format('%s%06d', clock[1], clock[2]), text or '', type(ends) == 'string' and ends or '' }
