-- Takes over a lock that stock Atlantis has taken.
--
-- KEYS  see the prelude; 8 stock's key of the resource
-- ARGV  6 resource  7 value that stock has written  8 owner  9 time of the
--       lock in microseconds  10 priority  11 stock's form without credentials
--
-- Answers  adopted RECORD, or changed when something else is there now
local resource, mirror = ARGV[6], KEYS[8]
local status, value = settle(resource, mirror)
if status ~= 'stock' or value ~= ARGV[7] then return finish('changed') end
-- Stock's time is the wall clock of the process that took the lock.
local acquired = math.min(math.max(tonumber(ARGV[9]), 1), NOW)
return finish('adopted', grant(resource, {
  flag = 'm', owner = ARGV[8], priority = ARGV[10], acquired = int(acquired), expires = '0',
  request = '', note = '', metadata = '', payload = ARGV[11],
}, 'adopted', { actor = ARGV[8], cause = 'legacy' }, nil, mirror))
