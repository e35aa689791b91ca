-- Uses every command that the scripts use, and leaves nothing behind: a script
-- that lacks a right half-way keeps what it has written before.
--
-- KEYS  1 a hash  2 a sorted set  3 a stream, which do not exist
--       4 a text under stock's prefix that does not, where there is one server
--
-- Answers  1
local hash, set, stream, text = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
redis.call('TIME')
redis.call('HSET', hash, 'a', '1')
redis.call('HMGET', hash, 'a')
redis.call('HGET', hash, 'a')
redis.call('HLEN', hash)
redis.call('HGETALL', hash)
redis.call('HDEL', hash, 'a')
redis.call('ZADD', set, 1, 'a')
redis.call('ZSCORE', set, 'a')
redis.call('ZCARD', set)
redis.call('ZRANGE', set, 0, -1)
redis.call('ZRANGEBYSCORE', set, 0, 1)
redis.call('ZRANGEBYLEX', set, '-', '+')
redis.call('ZREM', set, 'a')
redis.call('XADD', stream, 'NOMKSTREAM', '*', 'a', '1')
redis.call('XLEN', stream)
redis.call('XRANGE', stream, '-', '+')
redis.call('XTRIM', stream, 'MAXLEN', 0)
if text then
  redis.call('GET', text)
  redis.call('SET', text, '', 'XX')
  redis.call('DEL', text)
end
return 1
