-- Reads one resource at one moment. It stands alone and writes nothing.
--
-- KEYS  1 locks  2 stock's key of the resource, where there is one server
-- ARGV  1 resource
--
-- Answers  {seconds, microseconds, record or "", stock's value or ""}; "?" in
--          place of stock's value when its key has another type
local clock = redis.call('TIME')
local stock = ''
if KEYS[2] then
  stock = redis.pcall('GET', KEYS[2]) or ''
  if type(stock) == 'table' then stock = '?' end
end
return { clock[1], clock[2], redis.call('HGET', KEYS[1], ARGV[1]) or '', stock }
