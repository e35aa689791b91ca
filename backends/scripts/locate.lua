-- Says what is known of a token. It stands alone and writes nothing.
--
-- KEYS  1 meta  2 memory
-- ARGV  1 token
--
-- Answers  {name of the repository or "", what the memory has or ""}
return { redis.call('HGET', KEYS[1], 'name') or '', redis.call('HGET', KEYS[2], 'i' .. ARGV[1]) or '' }
