-- Says that somebody reads the log of a repository and wants to be woken, for
-- some time. It stands alone.
--
-- KEYS  1 state  2 log
-- ARGV  1 microseconds
--
-- Answers  {name of the repository or "", last sequence of its log or "",
--          microseconds of the log's last record or ""}
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local meta = redis.call('HMGET', KEYS[1], 'name', 'counters')
-- See count in the prelude.
local before, sequence, wake, behind = string.match(meta[2] or '', '^(%S+ (%S+) %S+ %S+ )(%S+)( .*)$')
-- Not each time: it is a write.
if meta[1] and before and (tonumber(wake) or 0) < now + ARGV[1] / 2 then
  redis.pcall('HSET', KEYS[1], 'counters', before .. string.format('%d', now + ARGV[1]) .. behind)
end
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
-- See log.lua; what can't be read has no time.
local fields = last and last[2] or {}
for i = 1, #fields, 2 do
  if fields[i] ~= 'd' then fields = {} end
end
return { meta[1] or '', sequence or '', string.match(fields[#fields] or '', '^(%d+)\n') or '' }
