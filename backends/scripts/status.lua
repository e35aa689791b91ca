-- Replaces a value if it is still the one that was read. It stands alone.
--
-- KEYS  1 key
-- ARGV  1 value that was read, empty for none  2 new value, empty to delete
--
-- Answers  replaced, or changed when something else is there
local value = redis.call('GET', KEYS[1]) or ''
if value ~= ARGV[1] then return { 'changed' } end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[2])
end
return { 'replaced' }
