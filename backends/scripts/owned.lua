-- Reads the entries of the owners' index with a prefix. It stands alone and
-- writes nothing.
--
-- KEYS  1 state  2 owners
-- ARGV  1 prefix  2 how many at most
--
-- Answers  {name of the repository or "", how many wait in it or "", ENTRY ...}
local state = redis.call('HMGET', KEYS[1], 'name', 'waiters')
return {
  state[1] or '', state[2] or '',
  unpack(redis.call('ZRANGEBYLEX', KEYS[2], '[' .. ARGV[1], '[' .. ARGV[1] .. '\255', 'LIMIT', 0, ARGV[2])),
}
