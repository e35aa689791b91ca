-- Uses every command that the scripts use, and leaves nothing behind: a script
-- that lacks a right half-way keeps what it has written before. It stands alone.
--
-- KEYS  1 a hash  2 a sorted set  3 a stream, which do not exist
--       from 4 on texts under stock's prefixes that do not, where there is one
--       server
--
-- Answers  fit, or the first error
local hash, set, stream = KEYS[1], KEYS[2], KEYS[3]
-- Removing comes first: a server without memory allows what follows it, see the
-- prelude.
redis.call('DEL', unpack(KEYS))
local problem
local function try(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then problem = problem or reply end
end
try('TIME')
try('HSET', hash, 'a', '1')
try('HMGET', hash, 'a')
try('HGET', hash, 'a')
try('HLEN', hash)
try('HEXISTS', hash, 'a')
try('HKEYS', hash)
try('HSCAN', hash, 0)
try('HDEL', hash, 'a')
try('ZADD', set, 1, 'a')
try('ZSCORE', set, 'a')
try('ZCARD', set)
try('ZSCAN', set, 0)
try('ZRANGE', set, 0, -1)
try('ZRANGEBYSCORE', set, 0, 1)
try('ZRANGEBYLEX', set, '-', '+')
try('ZLEXCOUNT', set, '-', '+')
try('ZREM', set, 'a')
try('XADD', stream, '1-0', 'a', '1')
try('XRANGE', stream, '-', '+')
try('XREVRANGE', stream, '+', '-')
try('XTRIM', stream, 'MINID', '2')
if #KEYS > 3 then
  try('EXISTS', unpack(KEYS, 4))
  try('MGET', unpack(KEYS, 4))
  try('MSET', KEYS[4], '')
end
for i = 4, #KEYS do
  try('GET', KEYS[i])
  try('SET', KEYS[i], '')
end
redis.call('DEL', unpack(KEYS))
return problem or { 'fit' }
