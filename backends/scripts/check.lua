-- Uses every command that the scripts use, and leaves nothing behind: a script
-- that lacks a right half-way keeps what it has written before. It stands alone.
--
-- KEYS  1 a hash  2 a sorted set  3 a stream  4 a list, which do not exist
--       from 5 on texts under stock's prefixes that do not, where there is one
--       server
--
-- Answers  fit
local hash, set, stream, list = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
redis.call('TIME')
-- First what a server without memory allows, see the prelude.
redis.call('HDEL', hash, 'a')
redis.call('HSET', hash, 'a', '1')
redis.call('HMGET', hash, 'a')
redis.call('HGET', hash, 'a')
redis.call('HLEN', hash)
redis.call('HEXISTS', hash, 'a')
redis.call('HKEYS', hash)
redis.call('HSCAN', hash, 0)
redis.call('HDEL', hash, 'a')
redis.call('ZADD', set, 1, 'a')
redis.call('ZSCORE', set, 'a')
redis.call('ZCARD', set)
redis.call('ZSCAN', set, 0)
redis.call('ZRANGE', set, 0, -1)
redis.call('ZRANGEBYSCORE', set, 0, 1)
redis.call('ZRANGEBYLEX', set, '-', '+')
redis.call('ZREM', set, 'a')
redis.call('XADD', stream, '1-0', 'a', '1')
redis.call('XRANGE', stream, '-', '+')
redis.call('XREVRANGE', stream, '+', '-')
redis.call('XTRIM', stream, 'MINID', '2')
redis.call('DEL', stream)
redis.call('RPUSH', list, 'a')
redis.call('LLEN', list)
redis.call('LRANGE', list, 0, -1)
redis.call('LREM', list, 0, 'a')
redis.call('LTRIM', list, 1, 0)
for i = 5, #KEYS do
  local text = KEYS[i]
  redis.call('EXISTS', text)
  redis.call('GET', text)
  redis.call('SET', text, '')
  redis.call('DEL', text)
end
return { 'fit' }
