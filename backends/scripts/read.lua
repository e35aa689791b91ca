-- Reads one resource at one moment. It stands alone and writes nothing.
--
-- Like all reads of a repository it names two of its keys: a cluster that moves
-- their slot answers for two, and of one alone it would say that it is missing.
--
-- KEYS  1 state  2 queue  3 stock's key of the resource, where there is one
--       server  4 stock's key of before Atlantis v0.40, see the prelude
-- ARGV  1 resource
--
-- Answers  {microseconds, lock's header or "", its details or "", stock's value
--          or "", value of the old key or ""}; "?" in place of a value when its
--          key has another type
local clock = redis.call('TIME')
local function value(key)
  if not key or key == KEYS[1] then return '' end
  local text = redis.pcall('GET', key) or ''
  if type(text) == 'table' then return '?' end
  return text
end
local lock = redis.call('HMGET', KEYS[1], 'l' .. ARGV[1], 'd' .. ARGV[1])
local old = KEYS[4] ~= KEYS[3] and KEYS[4] or nil
return { string.format('%s%06d', clock[1], clock[2]), lock[1] or '', lock[2] or '', value(KEYS[3]), value(old) }
