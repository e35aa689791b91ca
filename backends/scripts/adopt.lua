-- Takes over a lock that stock Atlantis has taken.
--
-- KEYS  see the prelude, with one resource
-- ARGV  7 resource  8 value that stock has written  9 owner  10 time of the
--       lock in microseconds  11 priority  12 stock's form without credentials
--
-- Answers  adopted LOCK, or changed when something else is there now
local resource = ARGV[7]
local header, details = load('l' .. resource, 'd' .. resource)
local mirror, old = stockKeys(1)
local status, value = settle(resource, header, details, mirror, old)
if status ~= 'stock' or value ~= ARGV[8] then return finish('changed') end
-- Stock's time is the wall clock of the process that took the lock.
local acquired = math.min(math.max(ARGV[10] + 0, 1), S.now)
local r = {
  flag = 'm', owner = ARGV[9], priority = ARGV[11], acquired = int(acquired), expires = '0', request = '', note = '', details = ARGV[12],
}
-- It is held already: that the server has no memory left must not free it.
prepare(true, true)
grant(resource, r, 'adopted', r.owner, 'legacy', mirror)
if S.waiters > 0 then S.turns().dequeueOwn(r, resource) end
return finish('adopted', r.header, r.details)
