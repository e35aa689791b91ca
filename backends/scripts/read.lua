-- Reads one resource at one moment. It stands alone and writes nothing.
--
-- Like all reads of a repository it names two of its keys: a cluster that moves
-- their slot answers for two, and of one alone it would say that it is missing.
--
-- KEYS  1 meta  2 locks  3 stock's key of the resource, where there is one
--       server  4 stock's key of before Atlantis v0.40; 1 in place of 3 or 4
--       that the resource does not have
-- ARGV  1 resource
--
-- Answers  {microseconds, record or "", stock's value or "", value of the old
--          key or ""}; "?" in place of a value when its key has another type
local clock = redis.call('TIME')
local function value(key)
  if not key or key == KEYS[1] then return '' end
  local text = redis.pcall('GET', key) or ''
  if type(text) == 'table' then return '?' end
  return text
end
return {
  string.format('%.0f', clock[1] * 1000000 + clock[2]), redis.call('HGET', KEYS[2], ARGV[1]) or '', value(KEYS[3]), value(KEYS[4]),
}
