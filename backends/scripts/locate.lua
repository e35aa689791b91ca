-- Says what is known of a token. It stands alone and writes nothing.
--
-- KEYS  1 state  2 queue
-- ARGV  1 token
--
-- Answers  {name of the repository or "", what is known or ""}
local values = redis.call('HMGET', KEYS[1], 'name', 'i' .. ARGV[1])
return { values[1] or '', values[2] or '' }
